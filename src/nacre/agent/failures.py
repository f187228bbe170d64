"""What went wrong with a machine, as a fact to report: errors of recipes get a class that says what happens next. Pure.

Used by the executor. No path of the host gets into a message.
"""

import errno
from datetime import datetime

from nacre.agent.hypervisors.errors import DriverError
from nacre.errors import Kind, NacreError
from nacre.model.convergence import Failure, FailureClass

FENCED = "fenced"
_HOPELESS = frozenset({Kind.INVALID, Kind.UNSUPPORTED, Kind.TOO_LARGE})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_WAITING = frozenset({"control_plane_unreachable", "control_plane_silent", "connection_lost", "not_enrolled"})
"""Codes of the link: what is missing comes when the control plane is back."""


def failure_of(
    error: NacreError | OSError, *, generation: int, at: datetime, attempts: int, may_give_up: bool
) -> Failure:
    """Return the failure that `error` means. What must not be given up is never permanent."""
    kind, code, message, hint = _read(error)
    if kind is FailureClass.PERMANENT and not may_give_up:
        kind = FailureClass.TRANSIENT
    return Failure(
        failure_class=kind,
        code=code,
        message=message,
        hint=hint,
        generation=generation,
        at=at,
        attempts=attempts,
    )


def stays_down(*, generation: int, at: datetime, why: str) -> Failure:
    """Return the failure of a machine that ended by itself and is not to be started again."""
    return Failure(
        failure_class=FailureClass.PERMANENT,
        code="vm_crashed",
        message=f"the machine ended and its restart policy is never: {why}",
        hint="start it again with `nacre vm start`, or give it the restart policy on-failure",
        generation=generation,
        at=at,
    )


def guest_failed(*, generation: int, at: datetime, detail: str, attempts: int) -> Failure:
    """Return the failure of a guest that its hypervisor has stopped."""
    return Failure(
        failure_class=FailureClass.TRANSIENT,
        code="guest_stopped_by_hypervisor",
        message=detail or "the hypervisor has stopped the guest",
        hint="it is resumed by itself now and then; if that does not help, reset it",
        generation=generation,
        at=at,
        attempts=attempts,
    )


def guest_halted(*, generation: int, at: datetime, detail: str) -> Failure:
    """Return the failure of a guest that its hypervisor has stopped and that would only fail again."""
    return Failure(
        failure_class=FailureClass.BLOCKED,
        code="guest_halted",
        message=detail or "the machine stands still, because something in it went wrong for good",
        hint="it stays so for you to look at; `nacre vm reset`, `nacre vm reboot` or `nacre vm resume` ends that",
        generation=generation,
        at=at,
    )


def fenced(*, generation: int, at: datetime) -> Failure:
    """Return the failure of a guest that its guard holds still."""
    return Failure(
        failure_class=FailureClass.WAITING,
        code=FENCED,
        message="the machine is frozen, because its node could not renew its lease and it may run elsewhere",
        hint="it goes on by itself when its node reaches the control plane, unless it was restarted elsewhere by then",
        generation=generation,
        at=at,
    )


def _read(error: NacreError | OSError) -> tuple[FailureClass, str, str, str]:
    if isinstance(error, DriverError):
        return error.failure_class, error.code, error.message, error.hint
    if isinstance(error, NacreError):
        return _class_of(error), error.code, error.message, error.hint
    if error.errno in _NO_ROOM:
        return (
            FailureClass.TRANSIENT,
            "storage_full",
            "the node's storage is full",
            "free space on the node or add a disk; it is tried again by itself",
        )
    return (
        FailureClass.TRANSIENT,
        "node_error",
        f"the node's system refused something: {error.strerror or 'unknown error'}",
        "the agent's log on the node says more; it is tried again by itself",
    )


def _class_of(error: NacreError) -> FailureClass:
    if error.code in _WAITING or error.kind is Kind.NOT_FOUND:
        return FailureClass.WAITING
    return FailureClass.PERMANENT if error.kind in _HOPELESS else FailureClass.TRANSIENT
