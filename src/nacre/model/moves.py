"""Moves of machines between nodes, and drains, which are many of them: states and which may follow which. Pure."""

from enum import StrEnum

from nacre.errors import ConflictError


class MoveReason(StrEnum):
    """Why a machine is moved."""

    USER = "user"
    DRAIN = "drain"
    EVACUATION = "evacuation"
    REBALANCE = "rebalance"
    PREEMPTION = "preemption"


class LeaveReason(StrEnum):
    """Why a machine has left a node: a move, or the loss of the node."""

    USER = "user"
    DRAIN = "drain"
    EVACUATION = "evacuation"
    REBALANCE = "rebalance"
    PREEMPTION = "preemption"
    FAILOVER = "failover"
    NODE_REMOVED = "node-removed"


class MoveState(StrEnum):
    """How far a move is."""

    PENDING = "pending"  # no node has been found for it yet; the machine runs on where it is
    STOPPING = "stopping"  # room is reserved on the target; the machine is stopping on its node
    STARTING = "starting"  # it belongs to the target, which has not said yet that it runs
    DONE = "done"
    ABORTED = "aborted"  # taken back in time: it runs on where it was
    FAILED = "failed"


MOVE_ENDS = frozenset({MoveState.DONE, MoveState.ABORTED, MoveState.FAILED})

MOVE_STEPS: dict[MoveState, frozenset[MoveState]] = {
    MoveState.PENDING: frozenset({MoveState.STOPPING, MoveState.ABORTED, MoveState.FAILED}),
    # Back to pending when the target is lost; done without a target when the machine only had to make room.
    MoveState.STOPPING: frozenset({MoveState.PENDING, MoveState.STARTING}) | MOVE_ENDS,
    MoveState.STARTING: MOVE_ENDS,
    **{end: frozenset[MoveState]() for end in MOVE_ENDS},
}
"""Which state of a move may follow which. What has ended stays as it is."""


def step(state: MoveState, to: MoveState) -> MoveState:
    """Return `to` if the table allows it (staying put is always allowed). Raises ConflictError."""
    if to is not state and to not in MOVE_STEPS[state]:
        raise ConflictError(
            "illegal_move_state",
            f"a move that is {state} cannot become {to}",
            hint="look at the move's state, and ask for another move if it has ended",
        )
    return to


class DrainState(StrEnum):
    """How a drain stands."""

    RUNNING = "running"
    DONE = "done"  # the node is empty
    INCOMPLETE = "incomplete"  # all that could be moved was; the moves say what could not
    ABORTED = "aborted"
    TIMED_OUT = "timed-out"
