"""What the scheduler sees: nodes with what is left of them, and what a machine asks for. Pure values.

Made by `services.vm_placement` from rows; taken by `placement` and `filters`.
"""

from dataclasses import dataclass, replace

from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import Capacity, HypervisorInfo, NodeState
from nacre.model.vms import PublishedPort

CPU_OVERCOMMIT = 4.0
MEMORY_OVERCOMMIT = 1.0
DISK_OVERCOMMIT = 2.0
"""Disks are thin: how much may be promised of what a node has."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a machine needs of a node."""

    vm: VmId
    project: ProjectId
    cpus: int
    memory_bytes: int
    disk_bytes: int
    hypervisor: str
    machine: str
    publish: tuple[PublishedPort, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TakenPort:
    """A port of a node and the machine that holds it."""

    port: PublishedPort
    vm: VmId
    vm_name: str
    project: ProjectId


@dataclass(frozen=True, kw_only=True)
class NodeRoom:
    """A node and what its machines have reserved."""

    id: NodeId
    name: str
    state: NodeState
    capacity: Capacity | None
    hypervisors: tuple[HypervisorInfo, ...] = ()
    cpus: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    ports: tuple[TakenPort, ...] = ()

    def with_machine(self, request: Request) -> "NodeRoom":
        """Return the node as it is once `request` has been placed on it."""
        taken = tuple(
            TakenPort(port=port, vm=request.vm, vm_name="", project=request.project) for port in request.publish
        )
        return replace(
            self,
            cpus=self.cpus + request.cpus,
            memory_bytes=self.memory_bytes + request.memory_bytes,
            disk_bytes=self.disk_bytes + request.disk_bytes,
            ports=self.ports + taken,
        )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All nodes at one moment."""

    nodes: tuple[NodeRoom, ...] = ()

    def with_machine(self, node: NodeId, request: Request) -> "Snapshot":
        """Return the snapshot with `request` placed on `node`."""
        return Snapshot(nodes=tuple(room.with_machine(request) if room.id == node else room for room in self.nodes))
