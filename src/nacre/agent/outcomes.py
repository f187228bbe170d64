"""What becomes of a machine's failure when a step has been done, or has not. Used by the executor."""

from datetime import timedelta

import msgspec
import structlog

from nacre.agent import planner
from nacre.agent.failures import failure_of
from nacre.agent.planner import Step
from nacre.agent.standing import is_leased, waits_for_lease
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.errors import NacreError
from nacre.model.convergence import FailureClass

log = structlog.get_logger()


def succeeded(machine: Machine, step: Step) -> None:
    """Forget what failed before, if this step shows that it is over."""
    if machine.failure is None or isinstance(step, planner.Accept | planner.RecordNonces):
        return
    if machine.presence is Presence.HALTED:
        return  # whatever was done, it stands still as before
    if machine.failure.failure_class is FailureClass.PERMANENT or machine.frozen:
        return  # said by what has just been done: it is found to have ended for good
    log.info("vm.recovered", vm=machine.id, code=machine.failure.code)
    if isinstance(step, planner.Resume):
        machine.failure = None  # whether it helps will be seen; the pauses go on growing till then
    else:
        machine.recovered()


def failed(machine: Machine, step: Step, error: NacreError | OSError, host: Host) -> None:
    """Make a fact of what went wrong, and decide when it is tried again."""
    if isinstance(error, NacreError) and error.code == "machine_locked":
        machine.presence = Presence.UNKNOWN  # there is a process after all
    if machine.frozen and not isinstance(step, planner.Retire | planner.Delete):
        return  # it cannot have heard; that is said already, and it is tried again when it goes on
    before = machine.failure
    delay = machine.pause_after_failure()
    now = host.clock.now()
    failure = failure_of(
        error,
        generation=machine.record.generation,
        at=before.at if before is not None else now,
        attempts=machine.failures,
        may_give_up=isinstance(step, planner.Start | planner.PutBack),
    )
    if failure.failure_class is not FailureClass.PERMANENT:
        failure = msgspec.structs.replace(failure, next_try_at=now + timedelta(seconds=delay))
    machine.failure = failure
    if waits_for_lease(machine) and is_leased(machine, host):
        machine.retry_at = 0.0  # it has come while we gave up
    if before is None or before.code != failure.code:
        log.warning(
            "vm.failed",
            vm=machine.id,
            step=step.__class__.__name__.lower(),
            code=failure.code,
            failure_class=failure.failure_class,
            message=failure.message,
            detail=str(error),
            next="waits for a change" if failure.next_try_at is None else f"tried again in {delay:.1f} s",
        )
