"""Bodies of /v1/moves, and of what empties nodes: drains and the copies that machines leave behind."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.ids import DrainId, MoveId, VmId
from nacre.model.migrations import ArrivalState, SendState
from nacre.model.moves import DrainState, MoveMethod, MoveReason, MoveState
from nacre.model.nodes import NodeWish
from nacre.model.vms import CopyState
from nacre.schema.common import Body, Out, ProjectRef
from nacre.schema.vms import NodeRef

MAX_PARALLEL = 100
MAX_DOWNTIME_MS = 60_000
MAX_DRAIN_S = 7 * 86400


class VmRef(Out, frozen=True, kw_only=True):
    """A machine, which may be gone."""

    id: VmId
    name: str


class VmMove(Body, frozen=True, kw_only=True):
    """Where a machine is to go."""

    to: str | None = None
    """Name or id of the node; null leaves that to the scheduler."""
    method: MoveMethod = MoveMethod.AUTO
    """`live` moves it while it runs, or not at all; `restart` stops it and starts it there; `auto` is the first if that
    is possible, else the second.
    """
    bandwidth_bytes: Annotated[int, msgspec.Meta(ge=1 << 10)] | None = None
    """How many bytes per second may flow while it runs; null is as fast as it goes."""
    downtime_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_DOWNTIME_MS)] | None = None
    """How long the guest may stand still for its last pages; null is 300. One that writes faster never gets there."""


class LiveProgress(Out, frozen=True, kw_only=True):
    """How far the newest attempt is to move a machine while it runs."""

    sending: SendState
    arrival: ArrivalState
    transferred_bytes: int
    """Of the guest's memory. Its disks are copied before."""
    remaining_bytes: int
    downtime_ms: float | None
    """How long the guest stood still, as its hypervisor says, without the hand-over."""


class MoveOut(Out, frozen=True, kw_only=True):
    """A machine on its way from one node to another, or how that ended."""

    id: MoveId
    vm: VmRef
    project: ProjectRef
    reason: MoveReason
    state: MoveState
    source: NodeRef
    target: NodeRef | None
    """Where it goes; null until a node has been found, and for a machine that only makes room."""
    pinned: NodeRef | None
    """The target that was asked for."""
    drain: DrainId | None
    method: MoveMethod
    attempts: int
    """How often it was tried while the machine ran."""
    live: LiveProgress | None
    """Null for a move that was not tried so."""
    message: str
    """What is waited for, or why it ended as it did."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class NodeDrain(Body, frozen=True, kw_only=True):
    """How a node is emptied."""

    parallel: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARALLEL)] = 4
    """How many machines may be on their way at once."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_DRAIN_S)] | None = None
    """When to give up: what has not left by then stays. Null takes as long as it takes."""
    method: MoveMethod = MoveMethod.AUTO
    """`auto` moves machines while they run where that is possible, `live` leaves all others, `restart` stops them."""


class NodeEvacuate(Body, frozen=True, kw_only=True):
    """How a node is emptied in a hurry."""

    confirm_dead: bool = False
    """Your word that the host of a node out of reach is off. Without it only what is surely fenced is taken."""
    parallel: Annotated[int, msgspec.Meta(ge=1, le=MAX_PARALLEL)] = 16


class DrainOut(Out, frozen=True, kw_only=True):
    """How the emptying of a node stands. What became of each machine is in the moves of the drain."""

    id: DrainId
    state: DrainState
    reason: MoveReason
    wish_after: NodeWish
    parallel: int
    message: str
    created_by: str
    created_at: datetime
    deadline: datetime | None
    ended_at: datetime | None
    machines: int
    """How many there were to move."""
    moved: int
    moving: int
    waiting: int
    failed: int
    aborted: int


class CopyOut(Out, frozen=True, kw_only=True):
    """What a machine left behind on a node that it moved away from: its disks, switched off."""

    node: NodeRef
    vm: VmRef
    fence: int
    """Which placement of the machine this was."""
    state: CopyState
    reason: str
    """Why the machine moved away."""
    size_bytes: int
    created_at: datetime
    expires_at: datetime | None
    """When its disks are deleted; null keeps them until an operator discards them."""
