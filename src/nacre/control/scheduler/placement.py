"""Choose a node for a machine. Called by the reconcilers. Pure: no clock, no database."""

from collections import Counter
from dataclasses import dataclass

from nacre.control.scheduler import filters
from nacre.control.scheduler.filters import Reason
from nacre.control.scheduler.snapshot import CPU_OVERCOMMIT, MEMORY_OVERCOMMIT, NodeRoom, Request, Snapshot
from nacre.model.ids import NodeId


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
    against = {node.id: filters.reasons(request, node) for node in snapshot.nodes}
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
