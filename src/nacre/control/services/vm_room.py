"""Room on nodes: what a machine reserves, and the scheduler's view of what is left. Used by services of machines."""

from collections.abc import Collection
from dataclasses import replace

from nacre.control.scheduler import former as filters
from nacre.control.scheduler.snapshot import NodeRoom, Request, Snapshot, TakenPort
from nacre.control.store import nodes, published_ports
from nacre.control.store import vms as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.vms import Reserved, VmRow
from nacre.errors import ExhaustedError
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState


def reserve(row: VmRow) -> VmRow:
    """Return the row reserving what it is configured for or still has, whichever is larger. Pure."""
    run = row.run if row.run is not None and row.run.exited_at is None else None
    return replace(
        row,
        reserved_cpus=max(row.spec.cpus, run.cpus if run is not None else 0),
        reserved_memory_bytes=max(row.spec.memory_bytes, run.memory_bytes if run is not None else 0),
    )


def request_of(row: VmRow) -> Request:
    """Return what a machine needs of a node. Pure."""
    return Request(
        vm=row.id,
        project=row.project,
        cpus=row.reserved_cpus,
        memory_bytes=row.reserved_memory_bytes,
        disk_bytes=row.reserved_disk_bytes,
        hypervisor=row.spec.hypervisor,
        machine=row.spec.machine,
        publish=row.spec.publish,
    )


async def snapshot(rd: Read, among: Collection[NodeId] | None = None, *, lock: bool = False) -> Snapshot:
    """Return the nodes (None: all) with what is left of them. With `lock` it stays true until the transaction ends."""
    rows = await nodes.every(rd, among, lock=lock)
    reserved = await store.reserved(rd, among)
    ports: dict[NodeId, list[TakenPort]] = {}
    for held in await published_ports.held(rd, among):
        if held.node is not None:
            taken = TakenPort(port=held.port, vm=held.vm, vm_name=held.vm_name, project=held.project)
            ports.setdefault(held.node, []).append(taken)
    return Snapshot(
        nodes=tuple(_room(row, reserved.get(row.id, Reserved()), tuple(ports.get(row.id, ()))) for row in rows)
    )


async def check(tx: Tx, before: VmRow, after: VmRow) -> None:
    """Raise ExhaustedError if a placed machine that grows does not fit on its node, whose row must be locked."""
    grows = after.reserved_cpus > before.reserved_cpus or after.reserved_memory_bytes > before.reserved_memory_bytes
    if before.node is None or not grows:
        return
    (room,) = (await snapshot(tx, [before.node])).nodes
    without = replace(
        room,
        state=NodeState.READY,
        cpus=room.cpus - before.reserved_cpus,
        memory_bytes=room.memory_bytes - before.reserved_memory_bytes,
    )
    request = request_of(after)
    reason = filters.memory(request, without) or filters.cpus(request, without)
    if reason is not None:
        raise ExhaustedError(
            reason.code,
            f"the node of {after.name} has no room: {reason.message}",
            hint="ask for less, or delete machines that are not needed",
            field="memory_bytes" if reason.code == "not_enough_memory" else "cpus",
        )


def _room(row: nodes.NodeRow, reserved: Reserved, ports: tuple[TakenPort, ...]) -> NodeRoom:
    return NodeRoom(
        id=row.id,
        name=row.name,
        state=row.state,
        capacity=row.facts.capacity if row.facts is not None else None,
        hypervisors=row.facts.hypervisors if row.facts is not None else (),
        cpus=reserved.cpus,
        memory_bytes=reserved.memory_bytes,
        disk_bytes=reserved.disk_bytes,
        ports=ports,
    )
