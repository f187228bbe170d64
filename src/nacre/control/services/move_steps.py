"""What a move has to do next, by what is known of its machine and of both nodes. Pure: rows in, a step out.

Used by `moves`, which carries the step out under locks, and by the reconciler, which asks beforehand whether there is
anything to do.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from nacre.control.services import live_moves
from nacre.control.store.move_streams import StreamRow
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.model.convergence import FailureClass
from nacre.model.migrations import ArrivalState, SendState
from nacre.model.moves import MoveMethod, MoveState
from nacre.model.nodes import NodeState
from nacre.model.vms import Desired, satisfies

STOP_SLACK = timedelta(minutes=2)
"""How much longer than its graceful stop a machine may take to be off, before it is left where it is."""
START_WITHIN = timedelta(minutes=15)
"""How long a machine may take to run on its new node, image included."""

QUIET_FOR = timedelta(minutes=10)
"""How long neither node may have anything new to say while a machine is copied."""
ARRIVE_WITHIN = timedelta(seconds=60)
"""How long what has left a node may take to be on the other."""
PAUSE = timedelta(seconds=5)
"""Before another attempt, as many times as there were."""

HEARD = frozenset({NodeState.READY, NodeState.CORDONED, NodeState.DRAINING, NodeState.MAINTENANCE})
_FINAL = frozenset({FailureClass.PERMANENT, FailureClass.BLOCKED})


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something happens."""

    message: str = ""


@dataclass(frozen=True)
class Seek:
    """A target is to be found."""


@dataclass(frozen=True)
class Leave:
    """The machine is off: it can be taken off its node."""


@dataclass(frozen=True)
class Order:
    """The target is ready: the source can be told to send the machine."""


@dataclass(frozen=True)
class HandOver:
    """All of the machine is on the target and stands still on both nodes: it can belong to the target."""


@dataclass(frozen=True)
class TakeBack:
    """The target is lost: the machine goes on where it is, and another target is sought."""

    message: str


@dataclass(frozen=True)
class End:
    """It is over. A machine that has not left its node goes on there."""

    state: MoveState
    message: str = ""


Step = Wait | Seek | Order | HandOver | Leave | TakeBack | End


def next_step(
    move: MoveRow,
    vm: VmRow | None,
    source: NodeRow | None,
    target: NodeRow | None,
    now: datetime,
    stream: StreamRow | None = None,
) -> Step:
    """Return what is next for a move that has not ended.

    `target` is the node that it has chosen, if it has, and `stream` the one that is under way.
    """
    if vm is None:
        return End(MoveState.ABORTED, "the machine is gone")
    if vm.desired is Desired.ABSENT:
        return End(MoveState.ABORTED, "the machine is being deleted")
    if move.state is MoveState.STARTING:
        return _starting(move, vm, target, now)
    if vm.node != move.source:
        return End(MoveState.ABORTED, "the machine has left its node in another way, because the node was lost")
    if move.state is MoveState.PENDING:
        return _pending(move, vm, source, now)
    if move.state is MoveState.MIGRATING:
        return _migrating(move, vm, source, target, now, stream)
    return _stopping(move, vm, source, target, now)


def is_off(vm: VmRow) -> bool:
    """Whether its node has said, of the newest intent, that the machine is off."""
    return vm.observed_generation >= vm.generation and satisfies(Desired.STOPPED, vm.phase)


def has_arrived(vm: VmRow) -> bool:
    """Whether its node has said, of the newest intent, that the machine is what is wanted of it."""
    return vm.observed_generation >= vm.generation and satisfies(vm.desired, vm.phase)


def _pending(move: MoveRow, vm: VmRow, source: NodeRow | None, now: datetime) -> Step:
    if not _heard(source):
        return Wait(_silent(source))
    if live_moves.wanted(move):
        if live_moves.is_unsettled(vm):
            return Wait("it is about to do what was last asked of it")
        if vm.desired is Desired.RUNNING and now - move.updated_at < PAUSE * move.attempts:
            return Wait(move.message)
    return Seek()


def _migrating(
    move: MoveRow,
    vm: VmRow,
    source: NodeRow | None,
    target: NodeRow | None,
    now: datetime,
    stream: StreamRow | None,
) -> Step:
    """The row of the move is the only judge of where the machine goes on: nothing runs between `SENT` and that."""
    if stream is None:
        return TakeBack("nothing is known of the attempt")
    if target is None or target.state not in HEARD:
        name, state = (target.name, target.state.value) if target is not None else ("the target", "gone")
        return TakeBack(f"{name} is {state}")
    if stream.is_whole:
        beyond = live_moves.out_of_reach(vm, target)  # a volume was attached meanwhile
        return TakeBack(beyond) if beyond else HandOver()
    why = _overtaken(vm) or (live_moves.in_a_hurry(move) and "there is no time left for copying it while it runs")
    if why:
        return TakeBack(why)
    why = _broken(move, stream, now)
    if why and move.method is MoveMethod.LIVE and move.attempts >= live_moves.MAX_ATTEMPTS:
        return End(MoveState.FAILED, f"after {move.attempts} attempts: {why}")
    if why:
        return TakeBack(why)
    if stream.arrival is ArrivalState.READY and not move.ordered:
        return Order()
    return Wait() if _heard(source) else Wait(_silent(source))


def _overtaken(vm: VmRow) -> str:
    """Say what has been asked for since, so that the machine is to go on where it is; empty if nothing."""
    if is_off(vm):
        return "the machine was switched off"
    if vm.desired is not Desired.RUNNING:
        return f"the machine is to be {vm.desired}"
    if (vm.reboot_nonce, vm.reset_nonce) != (vm.applied_reboot_nonce, vm.applied_reset_nonce):
        return "the machine is to be restarted"
    return live_moves.changed_since(vm)


def _broken(move: MoveRow, stream: StreamRow, now: datetime) -> str:
    """Say why an attempt comes to nothing; empty while it may still come to something."""
    if stream.sending is SendState.FAILED:
        return stream.sending_message or "it could not be sent"
    if stream.arrival is ArrivalState.FAILED:
        return stream.arrival_message or "it could not be taken in"
    quiet = now - max(stream.changed_at, move.updated_at)
    if stream.sending is SendState.SENT and quiet >= ARRIVE_WITHIN:
        return f"it did not arrive within {ARRIVE_WITHIN.total_seconds():.0f} s after it had left"
    if quiet >= QUIET_FOR:
        return f"nothing was heard of it for {QUIET_FOR.total_seconds() / 60:.0f} minutes"
    return ""


def _stopping(move: MoveRow, vm: VmRow, source: NodeRow | None, target: NodeRow | None, now: datetime) -> Step:
    if move.target is not None and (target is None or target.state is not NodeState.READY):
        name, state = (target.name, target.state.value) if target is not None else ("the target", "gone")
        return TakeBack(f"{name} is {state}")
    if is_off(vm):
        return Leave()
    if not _heard(source):
        return Wait(_silent(source))
    allowed = timedelta(seconds=vm.spec.stop_timeout_s) + STOP_SLACK
    if now - move.updated_at >= allowed:
        why = f": {vm.failure.message}" if vm.failure is not None else ""
        return End(MoveState.FAILED, f"it was not off within {allowed.total_seconds():.0f} s{why}")
    return Wait()


def _starting(move: MoveRow, vm: VmRow, target: NodeRow | None, now: datetime) -> Step:
    if vm.node != move.target or target is None:
        return End(MoveState.FAILED, "it has left its new node before it ran there, because that node was lost")
    if has_arrived(vm):
        return End(MoveState.DONE)
    failure = vm.failure if vm.failure is not None and vm.failure.generation >= vm.generation else None
    if failure is not None and failure.failure_class in _FINAL:
        return End(MoveState.FAILED, f"it does not run on {target.name}: {failure.message}")
    if not _heard(target):
        return End(
            MoveState.FAILED, f"{target.name} is {target.state}: the machine is there, and starts when it is back"
        )
    if now - move.updated_at >= START_WITHIN:
        why = failure.message if failure is not None else f"it is {vm.phase} there"
        minutes = START_WITHIN.total_seconds() / 60
        return End(MoveState.FAILED, f"it did not run on {target.name} within {minutes:.0f} minutes: {why}")
    return Wait(failure.message if failure is not None else "")


def _heard(node: NodeRow | None) -> bool:
    return node is not None and node.state in HEARD


def _silent(node: NodeRow | None) -> str:
    name, state = (node.name, node.state.value) if node is not None else ("its node", "gone")
    return f"{name} is {state}: only that node can say that the machine is off"
