"""What a move has to do next, by what is known of its machine and of both nodes. Pure: rows in, a step out.

Used by `moves`, which carries the step out under locks, and by the reconciler, which asks beforehand whether there is
anything to do.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.model.convergence import FailureClass
from nacre.model.moves import MoveState
from nacre.model.nodes import NodeState
from nacre.model.vms import Desired, satisfies

STOP_SLACK = timedelta(minutes=2)
"""How much longer than its graceful stop a machine may take to be off, before it is left where it is."""
START_WITHIN = timedelta(minutes=15)
"""How long a machine may take to run on its new node, image included."""

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
class TakeBack:
    """The target is lost: the machine goes on where it is, and another target is sought."""

    message: str


@dataclass(frozen=True)
class End:
    """It is over. A machine that has not left its node goes on there."""

    state: MoveState
    message: str = ""


Step = Wait | Seek | Leave | TakeBack | End


def next_step(move: MoveRow, vm: VmRow | None, source: NodeRow | None, target: NodeRow | None, now: datetime) -> Step:
    """Return what is next for a move that has not ended. `target` is the node that it has chosen, if it has."""
    if vm is None:
        return End(MoveState.ABORTED, "the machine is gone")
    if vm.desired is Desired.ABSENT:
        return End(MoveState.ABORTED, "the machine is being deleted")
    if move.state is MoveState.STARTING:
        return _starting(move, vm, target, now)
    if vm.node != move.source:
        return End(MoveState.ABORTED, "the machine has left its node in another way, because the node was lost")
    if move.state is MoveState.PENDING:
        return Seek() if _heard(source) else Wait(_silent(source))
    return _stopping(move, vm, source, target, now)


def is_off(vm: VmRow) -> bool:
    """Whether its node has said, of the newest intent, that the machine is off."""
    return vm.observed_generation >= vm.generation and satisfies(Desired.STOPPED, vm.phase)


def has_arrived(vm: VmRow) -> bool:
    """Whether its node has said, of the newest intent, that the machine is what is wanted of it."""
    return vm.observed_generation >= vm.generation and satisfies(vm.desired, vm.phase)


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
