"""The scheduler of a single machine, used until the services have moved to `Fleet`. Pure."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from nacre.control.scheduler.snapshot import (
    CPU_OVERCOMMIT,
    DISK_OVERCOMMIT,
    MEMORY_OVERCOMMIT,
    NodeRoom,
    Request,
    Snapshot,
    TakenPort,
)
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState
from nacre.model.units import format_size
from nacre.model.vms import PublishedPort, ports_overlap


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One thing that speaks against a node."""

    code: str
    message: str


Filter = Callable[[Request, NodeRoom], Reason | None]


def reasons(request: Request, node: NodeRoom) -> tuple[Reason, ...]:
    """Return everything that speaks against `node`; nothing means that it can take the machine."""
    return tuple(reason for check in FILTERS if (reason := check(request, node)) is not None)


def port_holder(ports: tuple[PublishedPort, ...], taken: tuple[TakenPort, ...]) -> TakenPort | None:
    """Return the first taken port that one of `ports` overlaps."""
    if not ports:
        return None
    return next((other for other in taken for port in ports if ports_overlap(port, other.port)), None)


def ready(_request: Request, node: NodeRoom) -> Reason | None:
    """The node takes new machines."""
    if node.state is NodeState.READY:
        return None
    return Reason(code="node_not_ready", message=f"the node is {node.state}")


def hypervisor(request: Request, node: NodeRoom) -> Reason | None:
    """The node has the hypervisor, and that has the machine type."""
    found = next((info for info in node.hypervisors if info.name == request.hypervisor), None)
    if found is None:
        return Reason(code="no_hypervisor", message=f"no hypervisor {request.hypervisor}")
    if not found.available:
        return Reason(code="hypervisor_unavailable", message=f"{found.name} is not available: {found.reason}")
    if found.machines and request.machine not in found.machines:
        return Reason(code="no_machine_type", message=f"{found.name} has no machine type {request.machine}")
    return None


def memory(request: Request, node: NodeRoom) -> Reason | None:
    """Enough memory is not promised to others."""
    left = _left(node.capacity and node.capacity.memory_bytes, MEMORY_OVERCOMMIT, node.memory_bytes)
    if request.memory_bytes <= left:
        return None
    needs, has = format_size(request.memory_bytes), format_size(left)
    return Reason(code="not_enough_memory", message=f"needs {needs} of memory, {has} left")


def cpus(request: Request, node: NodeRoom) -> Reason | None:
    """Enough virtual CPUs are not promised to others."""
    left = _left(node.capacity and node.capacity.cpus, CPU_OVERCOMMIT, node.cpus)
    if request.cpus <= left:
        return None
    return Reason(code="not_enough_cpus", message=f"needs {request.cpus} CPUs, {left} left")


def disk(request: Request, node: NodeRoom) -> Reason | None:
    """Enough disk is not promised to others."""
    left = _left(node.capacity and node.capacity.disk_bytes, DISK_OVERCOMMIT, node.disk_bytes)
    if request.disk_bytes <= left:
        return None
    needs, has = format_size(request.disk_bytes), format_size(left)
    return Reason(code="not_enough_disk", message=f"needs {needs} of disk, {has} left")


def ports(request: Request, node: NodeRoom) -> Reason | None:
    """Nobody listens where the machine wants to. The holder is named only to its own project."""
    taken = port_holder(request.publish, node.ports)
    if taken is None:
        return None
    holder = taken.vm_name if taken.project == request.project and taken.vm_name else "another machine"
    where = f"{taken.port.host_address}:{taken.port.host_port}/{taken.port.protocol}"
    return Reason(code="port_in_use", message=f"port {where} is used by {holder}")


def _left(has: int | None, overcommit: float, promised: int) -> int:
    return max(0, int((has or 0) * overcommit) - promised)


FILTERS: tuple[Filter, ...] = (ready, hypervisor, memory, cpus, disk, ports)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The node for a machine."""

    node: NodeId


@dataclass(frozen=True, kw_only=True)
class NoPlacement:
    """No node can take the machine, and why each cannot."""

    reasons: dict[NodeId, tuple[Reason, ...]]

    @property
    def code(self) -> str:
        """The reason that all nodes share, or `no_placement` if they differ."""
        if not self.reasons:
            return "no_nodes"
        shared = set[str].intersection(*({reason.code for reason in of_node} for of_node in self.reasons.values()))
        return min(shared) if shared else "no_placement"

    @property
    def message(self) -> str:
        """One sentence without the names of nodes, which not everybody may know."""
        if not self.reasons:
            return "there is no node"
        counted = Counter(reason.message for of_node in self.reasons.values() for reason in of_node)
        if len(self.reasons) == 1:
            return f"the only node cannot take it: {'; '.join(counted)}"
        parts = [f"{message} ({count} of {len(self.reasons)} nodes)" for message, count in counted.most_common(5)]
        return f"no node can take it: {'; '.join(parts)}"


def place(request: Request, snapshot: Snapshot) -> Placement | NoPlacement:
    """Return the least loaded node that can take the machine, or why none can."""
    against = {node.id: reasons(request, node) for node in snapshot.nodes}
    fitting = [node for node in snapshot.nodes if not against[node.id]]
    if not fitting:
        return NoPlacement(reasons=against)
    return Placement(node=min(fitting, key=lambda node: (load_after(request, node), node.id)).id)


def load_after(request: Request, node: NodeRoom) -> float:
    """Return how full the node would be with the machine: the scarcer of memory and CPUs, 0 to 1."""
    if node.capacity is None:
        return 1.0
    memory = (node.memory_bytes + request.memory_bytes) / max(1.0, node.capacity.memory_bytes * MEMORY_OVERCOMMIT)
    cpus = (node.cpus + request.cpus) / max(1.0, node.capacity.cpus * CPU_OVERCOMMIT)
    return max(memory, cpus)
