"""Bodies of /v1/moves, and of what empties nodes: drains and the copies that machines leave behind."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.copies import CopyState
from nacre.model.ids import DrainId, MoveId
from nacre.model.migrations import ArrivalState, SendState
from nacre.model.moves import DrainState, MoveMethod, MoveReason, MoveState
from nacre.model.nodes import NodeWish
from nacre.schema.common import Body, Out, ProjectRef, VmRef
from nacre.schema.vms import NodeRef

MAX_PARALLEL = 100
MAX_DOWNTIME_MS = 60_000
MAX_DRAIN_S = 7 * 86400


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
    """How far the machine's node is."""
    arrival: ArrivalState
    """How far the node is that it goes to."""
    transferred_bytes: int
    """Of the guest's memory. Its disks are copied before."""
    remaining_bytes: int
    """What is left to be sent of it, as it is now: a guest that writes makes that more again."""
    downtime_ms: float | None
    """How long the guest stood still, as its hypervisor says, without the hand-over."""


class MoveOut(Out, frozen=True, kw_only=True):
    """A machine on its way from one node to another, or how that ended."""

    id: MoveId
    """Its id, which never changes."""
    vm: VmRef
    """The machine."""
    project: ProjectRef
    """The project that it belongs to."""
    reason: MoveReason
    """Why it moves."""
    state: MoveState
    """How far it is."""
    source: NodeRef
    """The node that it leaves."""
    target: NodeRef | None
    """Where it goes; null until a node has been found, and for a machine that only makes room."""
    pinned: NodeRef | None
    """The target that was asked for."""
    drain: DrainId | None
    """The drain that it is a part of."""
    method: MoveMethod
    """What was asked for."""
    way: MoveMethod | None
    """What is done: `live` while the machine runs, `restart` if it is stopped and started. Null until that is known,
    and for a move that came to nothing.
    """
    stopped_because: str
    """Why the machine is stopped and started although it would have moved while it ran, had that been possible."""
    attempts: int
    """How often it was tried while the machine ran."""
    live: LiveProgress | None
    """Null for a move that was not tried so."""
    message: str
    """What is waited for, or why it ended as it did."""
    created_by: str
    """Who asked for it."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it last changed."""
    ended_at: datetime | None
    """When it ended; null while it has not."""


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
    """How many machines move at once."""


class DrainOut(Out, frozen=True, kw_only=True):
    """How the emptying of a node stands. What became of each machine is in the moves of the drain."""

    id: DrainId
    """Its id, which never changes."""
    state: DrainState
    """How it stands."""
    reason: MoveReason
    """Whether it is a drain or an evacuation."""
    wish_after: NodeWish
    """What the node is for afterwards."""
    parallel: int
    """How many machines move at once."""
    message: str
    """What holds it up, if anything does."""
    created_by: str
    """Who asked for it."""
    created_at: datetime
    """When it was made."""
    deadline: datetime | None
    """When it gives up; null for never."""
    ended_at: datetime | None
    """When it ended; null while it has not."""
    machines: int
    """How many there were to move."""
    moved: int
    """Machines that have moved."""
    moving: int
    """Machines on their way."""
    waiting: int
    """Machines whose turn comes."""
    failed: int
    """Machines that could not be moved."""
    aborted: int
    """Machines that were called back."""


class CopyOut(Out, frozen=True, kw_only=True):
    """What a machine left behind on a node that it moved away from: its disks, switched off."""

    node: NodeRef
    """The node that keeps it."""
    vm: VmRef
    """The machine."""
    fence: int
    """Which placement of the machine this was."""
    state: CopyState
    """What becomes of it."""
    reason: str
    """Why the machine moved away."""
    size_bytes: int
    """What its disks take, in bytes."""
    created_at: datetime
    """When it was made."""
    expires_at: datetime | None
    """When its disks are deleted; null keeps them until an operator discards them."""
