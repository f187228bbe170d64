"""Moves of machines between nodes, and drains, which are many of them: states and which may follow which. Pure."""

from enum import StrEnum

import msgspec

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


class MoveMethod(StrEnum):
    """How a machine gets from one node to another."""

    AUTO = "auto"  # live if that is possible, else by a restart
    LIVE = "live"  # while it runs, or not at all
    RESTART = "restart"  # it is stopped, and started there


class MoveState(StrEnum):
    """How far a move is."""

    PENDING = "pending"  # no node has been found for it yet; the machine runs on where it is
    MIGRATING = "migrating"  # room is reserved on the target; the machine runs on its node while it is copied
    STOPPING = "stopping"  # room is reserved on the target; the machine is stopping on its node
    STARTING = "starting"  # it belongs to the target, which has not said yet that it runs
    DONE = "done"
    ABORTED = "aborted"  # taken back in time: it runs on where it was
    FAILED = "failed"


class MoveTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How a machine is moved."""

    method: MoveMethod = MoveMethod.AUTO
    bandwidth_bytes: int | None = None
    """Per second, while it runs. None: as fast as it goes."""
    downtime_ms: int | None = None
    """How long the guest may stand still for its last pages. None: as long as is usual."""


BY_RESTART = MoveTerms(method=MoveMethod.RESTART)

MOVE_ENDS = frozenset({MoveState.DONE, MoveState.ABORTED, MoveState.FAILED})

MOVE_STEPS: dict[MoveState, frozenset[MoveState]] = {
    MoveState.PENDING: frozenset({MoveState.MIGRATING, MoveState.STOPPING, MoveState.ABORTED, MoveState.FAILED}),
    # Starting is the hand-over, and the only way for a machine to be on its target. Done is for one that makes room.
    MoveState.MIGRATING: frozenset({MoveState.PENDING, MoveState.STARTING}) | MOVE_ENDS,
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
