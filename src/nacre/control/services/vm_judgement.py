"""What follows from an observation of a machine: how its row changes and what there is to tell. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from nacre.control.store.vms import VmRow
from nacre.model.vms import Desired, ExitReason, Phase, RestartPolicy, RunInfo, VmObserved

_ALIVE = frozenset({Phase.RUNNING, Phase.PAUSED, Phase.STOPPING})
_ENDED_BY_ITSELF = frozenset({ExitReason.CRASHED, ExitReason.HOST_REBOOT})


@dataclass(frozen=True, kw_only=True)
class Told:
    """One event to emit."""

    type: str
    message: str
    details: Mapping[str, object] = field(default_factory=dict[str, object])


def judge(row: VmRow, observed: VmObserved) -> tuple[VmRow, tuple[Told, ...]]:
    """Return the row as it is after an observation, and what happened. A stale observation changes nothing."""
    if observed.generation < row.observed_generation:
        return row, ()
    after = replace(
        row,
        observed_generation=observed.generation,
        phase=observed.phase,
        since=observed.since,
        run=observed.run,
        failure=observed.failure,
        applied_reboot_nonce=observed.reboot_nonce,
        applied_reset_nonce=observed.reset_nonce,
        applied_restore_nonce=observed.restore_nonce,
        restarts=observed.restarts,
        guest=observed.guest,
    )
    if observed.phase is Phase.ABSENT and row.desired is Desired.ABSENT:
        after = replace(after, finalizers=[name for name in row.finalizers if name != "node"])
    told = tuple(_story(row, after))
    if observed.generation > row.generation:
        # The node has seen intent that this database has lost, as after restoring a backup. What is here is the truth.
        return replace(after, generation=observed.generation + 1), told
    if _guest_shut_down(row, after):
        return replace(after, desired=Desired.STOPPED, generation=row.generation + 1, force_stop=False), told
    return after, told


def forgotten(row: VmRow, now: datetime) -> tuple[VmRow, tuple[Told, ...]]:
    """Return the row after a complete report that does not mention it: the node has nothing of it, or nothing yet."""
    if row.observed_generation == 0:
        return row, ()
    after = replace(
        row, observed_generation=0, phase=Phase.PENDING, since=now, run=None, failure=None, restarts=0, guest=None
    )
    return after, (
        Told(type="vm.lost", message=f"the node no longer knows machine {row.name} and is told of it again"),
    )


def absent(row: VmRow) -> bool:
    """Whether nothing is left of a machine that should be absent, so that its row may go."""
    converged = row.observed_generation >= row.generation and row.phase is Phase.ABSENT
    return row.desired is Desired.ABSENT and converged and not row.finalizers


def _guest_shut_down(before: VmRow, after: VmRow) -> bool:
    """Whether the guest has powered itself off since we last looked, under the newest intent, and is to stay off."""
    if before.desired not in {Desired.RUNNING, Desired.PAUSED} or after.phase is not Phase.STOPPED:
        return False
    ended = after.run is not None and after.run.exit_reason is ExitReason.GUEST_SHUTDOWN
    newest = after.observed_generation == before.generation
    # The end of the run may have been told a moment before the phase that follows from it.
    fresh = before.phase in _ALIVE or not _known_exit(before, after)
    return ended and newest and fresh and after.spec.restart is not RestartPolicy.ALWAYS


def _known_exit(before: VmRow, after: VmRow) -> bool:
    """Whether the end of the run was known already: then it says nothing about the newest intent."""
    if before.run is None or after.run is None:
        return after.run is None
    return before.run.id == after.run.id and before.run.exited_at is not None


def _story(before: VmRow, after: VmRow) -> Iterator[Told]:
    """Tell what happened between two looks, in the order in which it did."""
    yield from _ending(before, after)
    yield from _phase(before, after)
    yield from _nonces(before, after)
    yield from _failing(before, after)


def _ending(before: VmRow, after: VmRow) -> Iterator[Told]:
    run = after.run
    if _missed_crash(before, after):
        message = f"machine {after.name} crashed and was started again, {after.restarts} times by now"
        yield Told(type="vm.crashed", message=message, details={"restarts": after.restarts})
    if run is None or run.exited_at is None or run.exit_reason is None or _known_exit(before, after):
        return
    details = {"run": run.id, "exit_reason": run.exit_reason.value, "exit_detail": run.exit_detail}
    if run.exit_reason in _ENDED_BY_ITSELF:
        again = "" if after.spec.restart is RestartPolicy.NEVER else "; it is started again"
        why = "its process ended" if run.exit_reason is ExitReason.CRASHED else "its node restarted"
        yield Told(type="vm.crashed", message=f"machine {after.name} crashed: {why}{again}", details=details)
    elif run.exit_reason is ExitReason.GUEST_SHUTDOWN:
        yield Told(type="vm.guest_shutdown", message=f"the guest of {after.name} powered itself off", details=details)


def _missed_crash(before: VmRow, after: VmRow) -> bool:
    """Whether another run has begun after a crash of the last one that we knew, which nobody told us of."""
    if before.run is None or after.run is None or before.run.exited_at is not None:
        return False
    return before.run.id != after.run.id and after.restarts > 0


def _phase(before: VmRow, after: VmRow) -> Iterator[Told]:
    fresh = _run_id(before.run) != _run_id(after.run)
    moved = before.phase is not after.phase
    details = {"before": {"phase": before.phase.value}, "after": {"phase": after.phase.value}}
    if after.phase is Phase.RUNNING and (fresh or (moved and before.phase is not Phase.PAUSED)):
        more = {"accelerator": after.run.accelerator, "run": after.run.id} if after.run is not None else {}
        yield Told(type="vm.started", message=f"machine {after.name} runs", details=details | more)
    elif after.phase is Phase.RUNNING and moved:
        yield Told(type="vm.resumed", message=f"machine {after.name} runs again", details=details)
    elif after.phase is Phase.PAUSED and moved:
        yield Told(type="vm.paused", message=f"machine {after.name} is paused", details=details)
    elif after.phase is Phase.STOPPED and moved:
        reason = after.run.exit_reason if after.run is not None else None
        more = {"exit_reason": reason.value} if reason is not None else {}
        yield Told(type="vm.stopped", message=f"machine {after.name} is off", details=details | more)
    elif after.phase is Phase.ABSENT and moved and after.desired is Desired.ABSENT:
        yield Told(type="vm.deleted", message=f"machine {after.name} is gone", details=details)


def _nonces(before: VmRow, after: VmRow) -> Iterator[Told]:
    """Numbers of a machine's first report are adopted, not carried out."""
    if before.observed_generation == 0:
        return
    if after.applied_reboot_nonce > before.applied_reboot_nonce:
        yield Told(type="vm.rebooted", message=f"machine {after.name} was rebooted")
    if after.applied_reset_nonce > before.applied_reset_nonce:
        yield Told(type="vm.reset", message=f"machine {after.name} was reset")
    if after.applied_restore_nonce > before.applied_restore_nonce and after.failure is None:
        yield Told(type="vm.restored", message=f"machine {after.name} is what it was at its checkpoint")


def _failing(before: VmRow, after: VmRow) -> Iterator[Told]:
    old, new = before.failure, after.failure
    if new is not None and (old is None or (old.code, old.generation) != (new.code, new.generation)):
        details = {"code": new.code, "class": new.failure_class.value, "hint": new.hint, "generation": new.generation}
        yield Told(type="vm.failed", message=f"machine {after.name}: {new.message}", details=details)
    elif new is None and old is not None and old.generation == after.generation and before.node is not None:
        yield Told(type="vm.recovered", message=f"machine {after.name} has recovered", details={"code": old.code})


def _run_id(run: RunInfo | None) -> str | None:
    return None if run is None else run.id
