"""What the scheduler decides upon: a fleet of nodes with what is left of them, and the machines that live there. Pure.

Filled by services from rows and kept true by them; read by `placement`, `packing`, `preemption` and `rebalance`.
A struct of arrays: a node is a row, so that a question is asked of all nodes at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from nacre.control.scheduler.columns import Columns, Mask, Numbers, Rows, Whole
from nacre.control.scheduler.neighbours import Neighbours
from nacre.control.scheduler.reasons import free_share, limits
from nacre.control.scheduler.values import NodeRoom, Request, Resident, TakenPort
from nacre.model.ids import NodeId, VmId
from nacre.model.placement import Policy
from nacre.model.vms import PublishedPort

__all__ = ["Fleet", "NodeRoom", "Request", "Resident", "TakenPort"]

FIRST_ROWS = 16
NOBODY = 1 << 62
"""What is left of a row without a node: it lacks nothing, because nobody asks it."""

PortNumber = tuple[str, int]


class Fleet:
    """All nodes and their machines. Mutable, and owned by one decider: nothing here is safe for several threads.

    The arrays may be read by the modules of the scheduler and are changed only here. Rows of nodes that have gone are
    used again, so a row is good only until the next change.
    """

    def __init__(self, policy: Policy, nodes: Iterable[NodeRoom] = (), residents: Iterable[Resident] = ()) -> None:
        self._policy = policy
        self._rooms: list[NodeRoom | None] = []
        self._rows: dict[NodeId, int] = {}
        self._free_rows: list[int] = []
        self._ports: dict[PortNumber, dict[str, dict[int, VmId]]] = {}
        self._port_rows: dict[VmId, dict[int, None]] = {}
        self._order: Rows | None = None
        self._places: dict[tuple[str, str], int] = {}
        self._turn = 0
        self.columns = Columns(self._rooms)
        self.neighbours = Neighbours()
        self.alive: Mask = np.zeros(0, dtype=np.bool_)
        self.cpus: Whole = np.zeros(0, dtype=np.int64)
        """Virtual CPUs that may still be promised; negative on a node that has promised too much."""
        self.memory: Whole = np.zeros(0, dtype=np.int64)
        """Bytes that may still be promised, as of `disk`."""
        self.disk: Whole = np.zeros(0, dtype=np.int64)
        self.per_cpu: Numbers = np.zeros(0)
        """One divided by all that may be promised, as of the next two; 0 where there is nothing."""
        self.per_memory: Numbers = np.zeros(0)
        self.per_disk: Numbers = np.zeros(0)
        self.disk_share: Numbers = np.zeros(0)
        """Share of the disk that is free in fact, 0 to 1."""
        self.reliability: Numbers = np.zeros(0)
        self.chosen: Whole = np.zeros(0, dtype=np.int64)
        """When the node was last chosen, as the number of that choice; 0 for never."""
        self.zone: Rows = np.zeros(0, dtype=np.intp)
        """A number for region and zone together: zones of the same name in two regions are two."""
        self.region: Rows = np.zeros(0, dtype=np.intp)
        for node in nodes:
            self.put(node)
        for resident in residents:
            self.settle(resident)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def policy(self) -> Policy:
        """How machines are placed; may be replaced at any time."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        for row, room in enumerate(self._rooms):
            if room is not None:
                self._measure(row, room)

    @property
    def places(self) -> int:
        """How many numbers `zone` and `region` may have."""
        return len(self._places)

    def put(self, node: NodeRoom) -> None:
        """Add a node, or replace what is known of it, its reservations included."""
        row = self._rows.get(node.id)
        before = None if row is None else self._rooms[row]
        if row is None:
            row = self._new_row(node.id)
        self._rooms[row] = node
        self._measure(row, node)
        if before is None or before.ports != node.ports:
            self._unbind(row, before)
            self._bind(row, node.ports)
        if before is None or _facts(before) != _facts(node):
            self.zone[row] = self._places.setdefault((node.region, node.zone), len(self._places))
            self.region[row] = self._places.setdefault((node.region, "\0"), len(self._places))
            self.columns.look(row)

    def remove(self, node: NodeId) -> None:
        """Forget a node and who lives there. A node that is not there is no error."""
        row = self._rows.pop(node, None)
        if row is None:
            return
        for resident in self.neighbours.at(row):
            self.neighbours.leave(resident.vm)
        self._unbind(row, self._rooms[row])
        self._rooms[row] = None
        self._empty(row)
        self.columns.look(row)
        self._free_rows.append(row)
        self._order = None

    def settle(self, resident: Resident) -> None:
        """Count a machine in as one that others may want to be near to or apart from; its resources are the node's.

        A machine that is there already is counted where it is now. Raises KeyError if its node is not there.
        """
        self.neighbours.settle(resident, self._rows[resident.node])

    def leave(self, vm: VmId) -> None:
        """Undo `settle`; resources stay reserved. A machine that is not there is no error."""
        self.neighbours.leave(vm)

    def take(self, node: NodeId, request: Request) -> None:
        """Reserve what `request` asks for on `node` and settle it there: it has been placed. Raises KeyError."""
        self.reserve(node, request)
        self._turn += 1
        self.chosen[self._rows[node]] = self._turn

    def reserve(self, node: NodeId, request: Request) -> None:
        """Do as `take` does, but without counting it as a turn of `round-robin`."""
        row = self._rows[node]
        self._change(row, self.room_at(row).with_machine(request))
        self._bind(row, self.room_at(row).ports[len(self.room_at(row).ports) - len(request.publish) :])
        self.neighbours.settle(resident_of(request, node), row)

    def release(self, vm: VmId) -> None:
        """Undo `reserve`: the machine leaves, and with it its reservation and its ports. Raises KeyError."""
        resident, row = self.neighbours.get(vm), self.neighbours.row(vm)
        if resident is None or row is None:
            raise KeyError(vm)
        room = self.room_at(row)
        self._unbind(row, room)
        left = replace(
            room,
            cpus=room.cpus - resident.cpus,
            memory_bytes=room.memory_bytes - resident.memory_bytes,
            disk_bytes=room.disk_bytes - resident.disk_bytes,
            ports=tuple(port for port in room.ports if port.vm != vm),
        )
        self._change(row, left)
        self._bind(row, left.ports)
        self.neighbours.leave(vm)

    def room(self, node: NodeId) -> NodeRoom:
        """Return what is known of a node. Raises KeyError for one that is not there."""
        return self.room_at(self._rows[node])

    def rooms(self) -> list[NodeRoom]:
        """Return what is known of every node, in the order of their ids."""
        return [self.room(node) for node in sorted(self._rows)]

    def room_at(self, row: int) -> NodeRoom:
        """Return what is known of the node of a row. Raises KeyError for a row without one."""
        room = self._rooms[row]
        if room is None:
            raise KeyError(row)
        return room

    def row(self, node: NodeId) -> int | None:
        """Return the row of a node, None if it is not there."""
        return self._rows.get(node)

    def order(self) -> Rows:
        """Return the rows of all nodes in the order of their ids."""
        if self._order is None:
            self._order = np.array([self._rows[node] for node in sorted(self._rows)], dtype=np.intp)
        return self._order

    def holders(self, port: PublishedPort) -> Mapping[str, Mapping[int, VmId]]:
        """Return who holds the port's number on which row, by the address."""
        return self._ports.get((port.protocol, port.host_port), {})

    def port_rows(self, vm: VmId) -> Iterable[int]:
        """Return the rows on which a machine holds ports."""
        return self._port_rows.get(vm, ())

    def nbytes(self) -> int:
        """Return what the arrays of the nodes take, in bytes."""
        return sum(array.nbytes for array in self._arrays().values()) + self.columns.nbytes()

    def _arrays(self) -> dict[str, Mask | Whole | Numbers | Rows]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray) and name[0] != "_"}

    def _new_row(self, node: NodeId) -> int:
        if not self._free_rows:
            first = len(self._rooms)
            capacity = max(FIRST_ROWS, first * 2)
            for name, array in self._arrays().items():
                setattr(self, name, np.concatenate((array, np.zeros(capacity - first, dtype=array.dtype))))
            self._rooms.extend([None] * (capacity - first))
            self.columns.grow(capacity)
            for row in range(first, capacity):
                self._empty(row)
            self._free_rows = list(range(capacity - 1, first - 1, -1))
        row = self._free_rows.pop()
        self._rows[node] = row
        self._order = None
        self.alive[row] = True
        self.chosen[row] = 0
        return row

    def _empty(self, row: int) -> None:
        self.alive[row] = False
        self.cpus[row] = self.memory[row] = self.disk[row] = NOBODY
        self.disk_share[row] = 1.0

    def _measure(self, row: int, room: NodeRoom) -> None:
        has = limits(room.capacity, self._policy)
        self.per_cpu[row] = 1 / has.cpus if has.cpus else 0.0
        self.per_memory[row] = 1 / has.memory_bytes if has.memory_bytes else 0.0
        self.per_disk[row] = 1 / has.disk_bytes if has.disk_bytes else 0.0
        self.cpus[row] = has.cpus - room.cpus
        self.memory[row] = has.memory_bytes - room.memory_bytes
        self.disk[row] = has.disk_bytes - room.disk_bytes
        self.disk_share[row] = free_share(room)
        self.reliability[row] = room.reliability

    def _change(self, row: int, after: NodeRoom) -> None:
        before = self.room_at(row)
        self.cpus[row] += before.cpus - after.cpus
        self.memory[row] += before.memory_bytes - after.memory_bytes
        self.disk[row] += before.disk_bytes - after.disk_bytes
        self._rooms[row] = after

    def _bind(self, row: int, ports: Iterable[TakenPort]) -> None:
        for taken in ports:
            by_address = self._ports.setdefault((taken.port.protocol, taken.port.host_port), {})
            by_address.setdefault(taken.port.host_address, {})[row] = taken.vm
            self._port_rows.setdefault(taken.vm, {})[row] = None

    def _unbind(self, row: int, room: NodeRoom | None) -> None:
        for taken in room.ports if room is not None else ():
            number = (taken.port.protocol, taken.port.host_port)
            rows = self._ports.get(number, {}).get(taken.port.host_address, {})
            rows.pop(row, None)
            if not rows and number in self._ports:
                self._ports[number].pop(taken.port.host_address, None)
                if not self._ports[number]:
                    del self._ports[number]
            of_vm = self._port_rows.get(taken.vm, {})
            of_vm.pop(row, None)
            if not of_vm:
                self._port_rows.pop(taken.vm, None)


def _facts(room: NodeRoom) -> tuple[object, ...]:
    """What columns are made of: everything that placing a machine does not change."""
    return (
        room.name,
        room.state,
        room.region,
        room.zone,
        room.labels,
        room.taints,
        room.hypervisors,
        room.offered,
        room.architecture,
        room.conditions,
        room.flapping,
    )


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
