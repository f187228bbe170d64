"""What the scheduler decides upon: a fleet of nodes with what is left of them, and the machines that live there. Pure.

Filled by services from rows and kept true by them; read by `placement`, `packing`, `preemption` and `rebalance`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nacre.control.scheduler.values import NodeRoom, Request, Resident, TakenPort
from nacre.model.ids import NodeId, VmId
from nacre.model.placement import Policy

__all__ = ["Fleet", "NodeRoom", "Request", "Resident", "TakenPort"]

CPU_OVERCOMMIT = 4.0
MEMORY_OVERCOMMIT = 1.0
DISK_OVERCOMMIT = 2.0
"""Disks are thin: how much may be promised of what a node has."""


class Fleet:
    """All nodes and their machines. Mutable, and owned by one decider: nothing here is safe for several threads."""

    def __init__(self, policy: Policy, nodes: Iterable[NodeRoom] = (), residents: Iterable[Resident] = ()) -> None:
        self.policy = policy
        self._rooms: dict[NodeId, NodeRoom] = {}
        self._residents: dict[VmId, Resident] = {}
        for node in nodes:
            self.put(node)
        for resident in residents:
            self.settle(resident)

    def put(self, node: NodeRoom) -> None:
        """Add a node, or replace what is known of it, its reservations included."""
        self._rooms[node.id] = node

    def remove(self, node: NodeId) -> None:
        """Forget a node and who lives there. A node that is not there is no error."""
        self._rooms.pop(node, None)
        self._residents = {vm: resident for vm, resident in self._residents.items() if resident.node != node}

    def settle(self, resident: Resident) -> None:
        """Count a machine in as one that others may want to be near to or apart from; its resources are the node's."""
        self._residents[resident.vm] = resident

    def leave(self, vm: VmId) -> None:
        """Undo `settle`. A machine that is not there is no error."""
        self._residents.pop(vm, None)

    def take(self, node: NodeId, request: Request) -> None:
        """Reserve what `request` asks for on `node` and settle it there: it has been placed."""
        self.put(self._rooms[node].with_machine(request))
        self.settle(resident_of(request, node))

    def room(self, node: NodeId) -> NodeRoom:
        """Return what is known of a node. Raises KeyError for one that is not there."""
        return self._rooms[node]

    def rooms(self) -> Iterable[NodeRoom]:
        """Return what is known of every node, in the order of their ids."""
        return [self._rooms[node] for node in sorted(self._rooms)]


def resident_of(request: Request, node: NodeId) -> Resident:
    """Return `request` as a machine that lives on `node`."""
    return Resident(
        vm=request.vm,
        name=request.name,
        project=request.project,
        node=node,
        labels=request.labels,
        cpus=request.cpus,
        memory_bytes=request.memory_bytes,
        disk_bytes=request.disk_bytes,
        priority=request.priority,
        preemptible=request.preemptible,
        anti_affinity=tuple(term for term in request.placement.anti_affinity if term.required),
        request=request,
    )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All nodes at one moment."""

    nodes: tuple[NodeRoom, ...] = ()

    def with_machine(self, node: NodeId, request: Request) -> "Snapshot":
        """Return the snapshot with `request` placed on `node`."""
        return Snapshot(nodes=tuple(room.with_machine(request) if room.id == node else room for room in self.nodes))
