"""Bodies of /v1/scheduler, /v1/plan, /v1/rebalance and /v1/vms/{vm}/explanation."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from nacre.model.ids import MoveId, VmId
from nacre.model.placement import Decision, Policy, Strategy
from nacre.schema.common import Body, Out, ProjectRef
from nacre.schema.vms import NodeRef, VmCreate

MAX_PLANNED = 1000
MAX_ITEMS = 200
MAX_REBALANCED = 1000
DEFAULT_MIN_GAIN = 0.05
DEFAULT_MAX_MOVES = 20

PackingOrder = Literal["first-fit-decreasing", "best-fit", "spread-nodes", "spread-zones", "spread-regions"]
Weight = Annotated[float, msgspec.Meta(ge=0, le=1000)]


class SchedulerOut(Out, frozen=True, kw_only=True):
    """How the platform places machines."""

    policy: Policy
    """How machines are placed."""
    updated_at: datetime | None
    """Null while nobody has changed the defaults."""
    etag: str
    """Its state, for `If-Match`."""


class WeightsUpdate(Body, frozen=True, kw_only=True):
    """Weights to change; the rest stays."""

    locality: Weight | None = None
    """Weight of being near to where it should be."""
    reliability: Weight | None = None
    """Weight of how far nodes can be relied on."""
    cost: Weight | None = None
    """Weight of how full nodes are already."""
    utilization: Weight | None = None
    """Weight of how even the load becomes."""
    network: Weight | None = None
    """Weight of being near to related machines."""


class SchedulerUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays. Holds for what is placed from then on."""

    strategy: Strategy | None = None
    """How one of several nodes that fit is chosen."""
    weights: WeightsUpdate | None = None
    """What the strategy `weighted` judges by."""
    cpu_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=64)] | None = None
    """Virtual CPUs promised per CPU of a node."""
    memory_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=4)] | None = None
    """Memory promised per memory of a node."""
    disk_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=16)] | None = None
    """Disk promised per disk of a node."""
    disk_headroom: Annotated[float, msgspec.Meta(ge=0, le=0.9)] | None = None
    """Share of the disk that must be free, 0 to 0.9."""
    reserved_cpus: Annotated[float, msgspec.Meta(ge=0, le=1024)] | None = None
    """CPUs of every node that are kept for the host."""
    reserved_memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] | None = None
    """Memory of every node that is kept for the host."""


class MachineRef(Out, frozen=True, kw_only=True):
    """A machine and its project."""

    id: VmId
    """Its id, which never changes."""
    name: str
    """Its name."""
    project: ProjectRef
    """The project that it belongs to."""


class ExplanationOut(Out, frozen=True, kw_only=True):
    """Why a machine is where it is, or nowhere yet."""

    vm: MachineRef
    """The machine."""
    node: NodeRef | None
    """The node that it is on; null while it waits."""
    code: str
    """`placed`, or the reason that keeps it from all nodes; `no_placement` if they differ, `not_wanted` while off."""
    summary: str
    """The decision in one sentence."""
    hint: str
    """What to do so that it gets a node; empty when it has one."""
    fresh: bool
    """Whether the decision was worked out for this answer, as for a machine that waits, or when it was placed."""
    decision: Decision | None
    """Candidates are named only to those who may view nodes. Null for a machine that was placed by an older version."""


class PlanItem(VmCreate, frozen=True, kw_only=True):
    """A machine that might be created, or several of its kind."""

    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_PLANNED)] = 1
    """So many, named `name-1`, `name-2` and so on, or as `{n}` in the name says."""


class PlanBody(Body, frozen=True, kw_only=True):
    """What might be created."""

    machines: Annotated[tuple[PlanItem, ...], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
    """What might be created."""
    order: PackingOrder | None = None
    """How to lay them out as a group; null places one after the other as creating them would, by priority."""


class PlannedVm(Out, frozen=True, kw_only=True):
    """What would become of one machine."""

    name: str
    """Its name."""
    fits: bool
    """Whether it would get a node."""
    node: NodeRef | None
    """Where it would go; null also for those who may not view nodes."""
    cpus: int
    """CPUs that it asks for."""
    memory_bytes: int
    """Memory that it asks for, in bytes."""
    disk_bytes: int
    """Disk that it asks for, in bytes."""
    code: str
    """`placed`, or the reason that keeps it from all nodes."""
    summary: str
    """The decision in one sentence."""
    hint: str
    """What to do so that it fits; empty when it does."""
    decision: Decision
    """Why it would go there, or nowhere."""


class PlanTotals(Out, frozen=True, kw_only=True):
    """All machines of a plan together."""

    machines: int
    """How many machines."""
    fitting: int
    """How many of them fit."""
    cpus: int
    """CPUs that all ask for."""
    memory_bytes: int
    """Memory that all ask for, in bytes."""
    disk_bytes: int
    """Disk that all ask for, in bytes."""
    nodes: int
    """On how many nodes those that fit would be."""


class PlanOut(Out, frozen=True, kw_only=True):
    """What would happen if all of it were created now. Nothing was changed."""

    machines: list[PlannedVm]
    """Each machine, in the order of the plan."""
    totals: PlanTotals
    """All of them together."""


class RebalanceBody(Body, frozen=True, kw_only=True):
    """How much may be moved, and for what gain."""

    min_gain: Annotated[float, msgspec.Meta(ge=0, le=1)] = DEFAULT_MIN_GAIN
    """How much less loaded than its old node the new one must be with the machine, 0 to 1."""
    max_moves: Annotated[int, msgspec.Meta(ge=1, le=MAX_REBALANCED)] = DEFAULT_MAX_MOVES
    """At most so many moves."""
    dry_run: bool = False
    """Propose only."""


class ProposedMove(Out, frozen=True, kw_only=True):
    """One move that makes the load more even."""

    vm: MachineRef
    """The machine."""
    source: NodeRef
    """The node that it leaves."""
    target: NodeRef
    """The node that it goes to."""
    gain: float
    """How much less loaded the new node would be, 0 to 1."""
    move: MoveId | None
    """The move that was begun; null in a dry run, and for a machine that has changed meanwhile."""


class RebalanceOut(Out, frozen=True, kw_only=True):
    """Moves that make the load of nodes more even. The spread is the standard deviation of their loads, 0 to 1."""

    moves: list[ProposedMove]
    """The moves, in the order in which they help."""
    spread_before: float
    """How uneven the load is now."""
    spread_after: float
    """How uneven it would be."""
    dry_run: bool
    """Whether this is only a proposal."""
