"""What the scheduler is told: what a machine asks for, what a node has, and who lives where already. Pure values.

Made by services from rows, taken by `Fleet` and by everything that decides. Sizes in bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.metadata import NO_LABELS
from nacre.model.nodes import Capacity, ConditionKind, HypervisorInfo, NodeState, Usage
from nacre.model.placement import AffinityTerm, Placement, Taint
from nacre.model.vms import PublishedPort

NOTHING_ASKED = Placement()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a machine needs of a node."""

    vm: VmId
    project: ProjectId
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    cpus: int
    memory_bytes: int
    disk_bytes: int
    hypervisor: str
    machine: str
    publish: tuple[PublishedPort, ...] = ()
    placement: Placement = NOTHING_ASKED
    ha: bool = False
    """Needs a node whose hypervisor can be guarded."""
    priority: int = 100
    preemptible: bool = False
    exclude: frozenset[NodeId] = frozenset()
    """Nodes that it must not go to, whatever they have: for a move, the one that it leaves."""
    only: NodeId | None = None
    """The one node that is looked at, for a target that somebody chose."""
    architecture: str = ""
    """As the kernel calls it, `x86_64`; empty takes any."""
    within: frozenset[NodeId] = frozenset()
    """The nodes that reach its volumes; empty if all do."""
    volume: str = ""
    """The volume that keeps it to those nodes."""
    full: frozenset[NodeId] = frozenset()
    """The nodes whose pools have no room for volumes of it that are to be made where it goes."""
    pools: str = ""
    """The names of those pools."""
    needs: int = 0
    """What it needs of its hypervisor: bits of `capabilities.mask_of`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenPort:
    """A port of a node and the machine that holds it."""

    port: PublishedPort
    vm: VmId
    vm_name: str
    project: ProjectId


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRoom:
    """A node and what its machines have reserved, or are about to."""

    id: NodeId
    name: str
    state: NodeState
    region: str = ""
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    taints: tuple[Taint, ...] = ()
    capacity: Capacity | None
    usage: Usage | None = None
    hypervisors: tuple[HypervisorInfo, ...] = ()
    offered: tuple[tuple[str, int], ...] = ()
    """What each hypervisor offers: its name and bits. One that is not named offers the baseline."""
    architecture: str = ""
    conditions: frozenset[ConditionKind] = frozenset()
    reliability: float = 0.5
    """0 to 1."""
    flapping: bool = False
    cpus: int = 0
    """Reserved, as are the next two."""
    memory_bytes: int = 0
    disk_bytes: int = 0
    ports: tuple[TakenPort, ...] = ()

    def with_machine(self, request: Request) -> "NodeRoom":
        """Return the node as it is once `request` has been placed on it."""
        taken = tuple(
            TakenPort(port=port, vm=request.vm, vm_name=request.name, project=request.project)
            for port in request.publish
        )
        return replace(
            self,
            cpus=self.cpus + request.cpus,
            memory_bytes=self.memory_bytes + request.memory_bytes,
            disk_bytes=self.disk_bytes + request.disk_bytes,
            ports=self.ports + taken,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Resident:
    """A machine that has a node, as far as others care."""

    vm: VmId
    name: str = ""
    project: ProjectId
    node: NodeId
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    cpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    priority: int = 100
    preemptible: bool = False
    anti_affinity: tuple[AffinityTerm, ...] = ()
    """Only the terms that it requires: they keep others away."""
    request: Request | None = None
    """What it asked for. Without it the machine is never proposed to be moved."""
