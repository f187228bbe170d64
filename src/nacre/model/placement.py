"""Where a machine may and should go: what a user asks of the scheduler, and what the scheduler answers. Pure.

The words are those that Kubernetes and Nomad made common. `VmSpec.placement` carries what was asked, a `Decision` is
kept with the machine and shown to whoever asks why it is where it is.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from nacre.errors import InvalidInputError
from nacre.model.ids import NodeId
from nacre.model.metadata import check_labels

MAX_TERMS = 16
MAX_PRIORITY = 1000


class Strategy(StrEnum):
    """How one of several nodes that fit is chosen."""

    LEAST_LOADED = "least-loaded"  # the emptiest: CPU .4, memory .4, disk .2
    BEST_FIT = "best-fit"  # the fullest that still fits, to keep whole nodes free
    ROUND_ROBIN = "round-robin"  # the one that was not chosen for the longest time
    RANDOM = "random"
    WEIGHTED = "weighted"  # five factors: locality, reliability, cost, utilization, network


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much each factor of the strategy `weighted` counts. Normalised before use, so only the ratios matter."""

    locality: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.25
    """Weight of being near to where it should be."""
    reliability: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.30
    """Weight of how far nodes can be relied on."""
    cost: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.15
    """Weight of how full nodes are already."""
    utilization: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.20
    """Weight of how even the load becomes."""
    network: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.10
    """Weight of being near to related machines."""


class Topology(StrEnum):
    """What counts as one place."""

    NODE = "node"
    ZONE = "zone"
    REGION = "region"


class TaintEffect(StrEnum):
    """What a taint does to machines that do not tolerate it. Machines that run already stay."""

    NO_SCHEDULE = "no-schedule"
    PREFER_NO_SCHEDULE = "prefer-no-schedule"


class Taint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node's objection: only machines that tolerate it are placed there."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    """What it is called."""
    value: Annotated[str, msgspec.Meta(max_length=63)] = ""
    """Its value; may be empty."""
    effect: TaintEffect = TaintEffect.NO_SCHEDULE
    """What it does to machines that do not tolerate it."""

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


class Toleration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine does not mind. Without a value, any value of the key; without an effect, any effect."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    """The taint that is tolerated."""
    value: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    """Its value; null tolerates any."""
    effect: TaintEffect | None = None
    """Its effect; null tolerates any."""

    def covers(self, taint: Taint) -> bool:
        """Whether this toleration covers `taint`."""
        return self.key == taint.key and self.value in {None, taint.value} and self.effect in {None, taint.effect}


class NodePreference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes with these labels are preferred. What is required goes into `Placement.node_labels`."""

    labels: dict[str, str]
    """Labels that a node should have."""
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    """How much it counts, 1 to 100."""


class AffinityTerm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Near to, or apart from, the machines of the same project that carry these labels."""

    labels: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    """Labels of the machines that it is about."""
    topology: Topology = Topology.NODE
    """What counts as one place: a node, a zone or a region."""
    required: bool = True
    """Whether it must hold, or is only preferred."""
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    """How much a preference counts; without meaning when required."""


class SpreadConstraint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines with these labels are spread over places: the fullest has at most `max_skew` more than the emptiest."""

    labels: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    """Labels of the machines that are to be even."""
    topology: Topology = Topology.ZONE
    """What counts as one place: a node, a zone or a region."""
    max_skew: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    """By how many the fullest place may exceed the emptiest."""
    required: bool = False
    """Whether it must hold, or is only preferred."""


Terms = Annotated[tuple[AffinityTerm, ...], msgspec.Meta(max_length=MAX_TERMS)]
Places = Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_TERMS)]


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine asks of its place. Nothing by default."""

    node_labels: dict[str, str] = {}
    """Only nodes with all of these labels."""
    regions: Places = ()
    """Only nodes of these regions; the first is the most preferred."""
    zones: Places = ()
    """Only nodes of these zones; the first is the most preferred."""
    tolerations: Annotated[tuple[Toleration, ...], msgspec.Meta(max_length=MAX_TERMS)] = ()
    """Taints that it accepts."""
    prefer: Annotated[tuple[NodePreference, ...], msgspec.Meta(max_length=MAX_TERMS)] = ()
    """Nodes that it would rather have."""
    affinity: Terms = ()
    """Near to other machines."""
    anti_affinity: Terms = ()
    """Apart from other machines. Counts both ways: nobody is placed where a machine requires to be apart from it."""
    spread: Annotated[tuple[SpreadConstraint, ...], msgspec.Meta(max_length=MAX_TERMS)] = ()
    """Machines that are to be even over places."""
    strategy: Strategy | None = None
    """None is the platform's."""
    weights: Weights | None = None
    """For the strategy `weighted`. None is the platform's."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the platform places machines. One per platform, changed by its administrators."""

    strategy: Strategy = Strategy.LEAST_LOADED
    """How one of several nodes that fit is chosen."""
    weights: Weights = Weights()
    """What the strategy `weighted` judges by."""
    cpu_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=64)] = 4.0
    """Virtual CPUs promised per CPU of a node."""
    memory_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=4)] = 1.0
    """Memory promised per memory of a node."""
    disk_overcommit: Annotated[float, msgspec.Meta(ge=0.1, le=16)] = 2.0
    """Disks are thin: how much may be promised of what a node has."""
    disk_headroom: Annotated[float, msgspec.Meta(ge=0, le=0.9)] = 0.05
    """Share of a node's disk that must be free in fact for a new machine to be placed there."""
    reserved_cpus: Annotated[float, msgspec.Meta(ge=0, le=1024)] = 0.0
    """CPUs of every node that are kept for the host."""
    reserved_memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Memory of every node that is kept for the host."""


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """One class of reasons against nodes, and how many it speaks against. Never names a node: tenants see it."""

    code: str
    """Stable name of the reason."""
    message: str
    """Of one of these nodes, as an example, when it differs between them."""
    nodes: int
    """How many nodes it speaks against."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A node that would fit, and what its score is made of. Shown to operators only."""

    node: NodeId
    """Id of the node."""
    name: str
    """Name of the node."""
    score: float
    """Higher is better; comparable within one decision."""
    parts: dict[str, float] = {}
    """What the score is made of, by factor."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Why a machine is where it is, or nowhere yet."""

    node: NodeId | None
    """Id of the node; null if none fits."""
    strategy: Strategy
    """How it was chosen."""
    considered: int
    """Nodes that were looked at."""
    fitting: int
    """Nodes that could take it."""
    rejected: tuple[Rejection, ...] = ()
    """Most frequent first. A node is counted under every reason that speaks against it."""
    candidates: tuple[Candidate, ...] = ()
    """The chosen node and the best others, best first."""
    preempted: tuple[str, ...] = ()
    """Names of machines that had to make room."""
    decided_at: datetime | None = None
    """When it was decided."""


def check_placement(placement: Placement) -> Placement:
    """Return `placement` if its labels are well formed and it does not contradict itself. Raises InvalidInputError."""
    check_labels(placement.node_labels, field="placement.node_labels")
    groups = {
        "prefer": [term.labels for term in placement.prefer],
        "affinity": [term.labels for term in placement.affinity],
        "anti_affinity": [term.labels for term in placement.anti_affinity],
        "spread": [term.labels for term in placement.spread],
    }
    for name, all_labels in groups.items():
        for index, labels in enumerate(all_labels):
            check_labels(labels, field=f"placement.{name}[{index}].labels")
    apart = [(term.labels, term.topology) for term in placement.anti_affinity if term.required]
    for index, term in enumerate(placement.affinity):
        if term.required and (term.labels, term.topology) in apart:
            raise InvalidInputError(
                "contradictory_placement",
                f"placement.affinity[{index}] requires what anti_affinity forbids",
                hint="remove one of them, or make one a preference with required: false",
                field=f"placement.affinity[{index}]",
            )
    return placement
