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
    updated_at: datetime | None
    """Null while nobody has changed the defaults."""
    etag: str


class WeightsUpdate(Body, frozen=True, kw_only=True):
    """Weights to change; the rest stays."""

    locality: Weight | None = None
    reliability: Weight | None = None
    cost: Weight | None = None
    utilization: Weight | None = None
    network: Weight | None = None


class SchedulerUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays. Holds for what is placed from then on."""

    strategy: Strategy | None = None
    weights: WeightsUpdate | None = None
    cpu_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=64)] | None = None
    memory_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=4)] | None = None
    disk_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=16)] | None = None
    disk_headroom: Annotated[float, msgspec.Meta(ge=0, le=0.9)] | None = None
    reserved_cpus: Annotated[float, msgspec.Meta(ge=0, le=1024)] | None = None
    reserved_memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] | None = None


class MachineRef(Out, frozen=True, kw_only=True):
    """A machine and its project."""

    id: VmId
    name: str
    project: ProjectRef


class ExplanationOut(Out, frozen=True, kw_only=True):
    """Why a machine is where it is, or nowhere yet."""

    vm: MachineRef
    node: NodeRef | None
    code: str
    """`placed`, or the reason that keeps it from all nodes; `no_placement` if they differ, `not_wanted` while off."""
    summary: str
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
    order: PackingOrder | None = None
    """How to lay them out as a group; null places one after the other as creating them would, by priority."""


class PlannedVm(Out, frozen=True, kw_only=True):
    """What would become of one machine."""

    name: str
    fits: bool
    node: NodeRef | None
    """Where it would go; null also for those who may not view nodes."""
    cpus: int
    memory_bytes: int
    disk_bytes: int
    code: str
    summary: str
    hint: str
    decision: Decision


class PlanTotals(Out, frozen=True, kw_only=True):
    """All machines of a plan together."""

    machines: int
    fitting: int
    cpus: int
    memory_bytes: int
    disk_bytes: int
    nodes: int
    """On how many nodes those that fit would be."""


class PlanOut(Out, frozen=True, kw_only=True):
    """What would happen if all of it were created now. Nothing was changed."""

    machines: list[PlannedVm]
    totals: PlanTotals


class RebalanceBody(Body, frozen=True, kw_only=True):
    """How much may be moved, and for what gain."""

    min_gain: Annotated[float, msgspec.Meta(ge=0, le=1)] = DEFAULT_MIN_GAIN
    """How much less loaded than its old node the new one must be with the machine, 0 to 1."""
    max_moves: Annotated[int, msgspec.Meta(ge=1, le=MAX_REBALANCED)] = DEFAULT_MAX_MOVES
    dry_run: bool = False
    """Propose only."""


class ProposedMove(Out, frozen=True, kw_only=True):
    """One move that makes the load more even."""

    vm: MachineRef
    source: NodeRef
    target: NodeRef
    gain: float
    move: MoveId | None
    """The move that was begun; null in a dry run, and for a machine that has changed meanwhile."""


class RebalanceOut(Out, frozen=True, kw_only=True):
    """Moves that make the load of nodes more even. The spread is the standard deviation of their loads, 0 to 1."""

    moves: list[ProposedMove]
    spread_before: float
    spread_after: float
    dry_run: bool
