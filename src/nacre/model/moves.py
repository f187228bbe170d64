"""Moves of machines between nodes, and drains, which are many of them: states and which may follow which. Pure."""

from enum import StrEnum


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


class DrainState(StrEnum):
    """How a drain stands."""

    RUNNING = "running"
    DONE = "done"  # the node is empty
    INCOMPLETE = "incomplete"  # all that could be moved was; the moves say what could not
    ABORTED = "aborted"
    TIMED_OUT = "timed-out"
