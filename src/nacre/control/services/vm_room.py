"""Room on nodes: what a machine reserves, and the scheduler's view of what is left. Used by services of machines."""

from collections.abc import Collection, Iterable
from dataclasses import replace

import msgspec

from nacre.control.scheduler.placement import fits
from nacre.control.scheduler.snapshot import NodeRoom, Request, TakenPort
from nacre.control.services.node_changes import conditions
from nacre.control.store import moves, nodes, placements, published_ports, scheduling
from nacre.control.store.db import Read, Tx
from nacre.control.store.nodes import NodeRow
from nacre.control.store.placements import NOTHING, Promised
from nacre.control.store.vms import VmRow
from nacre.errors import ExhaustedError, InvalidInputError
from nacre.model.capabilities import mask_of, mask_offered
from nacre.model.ids import NodeId, VmId
from nacre.model.images import Role
from nacre.model.nodes import ConditionKind
from nacre.model.placement import Policy
from nacre.model.units import format_size
from nacre.model.vm_needs import wants
from nacre.model.vms import HaPolicy, VmSpec

UNKNOWN_RELIABILITY = 0.5
_GROWTH = {"not_enough_memory": "memory_bytes", "not_enough_cpus": "cpus", "not_enough_disk": "disk_bytes"}


def reserve(row: VmRow) -> VmRow:
    """Return the row reserving what it is configured for or still has, whichever is larger. Pure."""
    run = row.run if row.run is not None and row.run.exited_at is None else None
    root = row.reserved_disk_bytes - volume_bytes(row)
    return replace(
        row,
        reserved_cpus=max(row.spec.cpus, run.cpus if run is not None else 0),
        reserved_memory_bytes=max(row.spec.memory_bytes, run.memory_bytes if run is not None else 0),
        reserved_disk_bytes=max(row.spec.disk_bytes or 0, root) + volume_bytes(row),
    )


def volume_bytes(row: VmRow) -> int:
    """Return what a machine's volumes take of the disk that its node shares with machines. Pure."""
    return row.tie.disk_bytes if row.tie is not None else 0


def check_disk_grows(row: VmRow, disk_bytes: int | None) -> None:
    """Raise InvalidInputError for a root disk that would become smaller than it is."""
    root = row.reserved_disk_bytes - volume_bytes(row)
    if disk_bytes is not None and disk_bytes < root:
        has, asked = format_size(root), format_size(disk_bytes)
        raise InvalidInputError(
            "disk_shrinks",
            f"the disk of {row.name} has {has} and cannot become smaller ({asked})",
            hint="make another machine with a smaller disk and copy what is needed",
            field="disk_bytes",
        )


def request_of(row: VmRow) -> Request:
    """Return what a machine needs of a node. Pure."""
    return Request(
        vm=row.id,
        project=row.project,
        name=row.name,
        labels=row.labels,
        cpus=row.reserved_cpus,
        memory_bytes=row.reserved_memory_bytes,
        disk_bytes=row.reserved_disk_bytes,
        hypervisor=row.spec.hypervisor,
        machine=row.spec.machine,
        publish=row.spec.publish,
        placement=row.spec.placement,
        ha=row.spec.ha is HaPolicy.RESTART,
        priority=row.spec.priority,
        preemptible=row.spec.preemptible,
        within=frozenset(row.tie.nodes) if row.tie is not None else frozenset(),
        volume=row.tie.because if row.tie is not None else "",
        needs=needed(row.spec, row.image_roles),
    )


def needed(spec: VmSpec, roles: str) -> int:
    """Return the bits of what a machine needs of its hypervisor. Pure."""
    return mask_of(wants(spec, roles_in(roles)))


def roles_in(text: str) -> list[Role] | None:
    """Read what an image is made of, as it is kept beside machines; None if nobody has noted it. Pure."""
    return [Role(role) for role in text.split(",")] if text else None


def empty_room(row: NodeRow) -> NodeRoom:
    """Return a node as if nothing of it were promised. Pure."""
    facts = row.facts
    told = facts.hypervisors if facts is not None else ()
    kinds = frozenset(condition.kind for condition in conditions(row))
    return NodeRoom(
        id=row.id,
        name=row.name,
        state=row.state,
        region=row.region,
        zone=row.zone,
        labels=row.labels,
        taints=row.taints,
        capacity=facts.capacity if facts is not None else None,
        usage=row.usage,
        hypervisors=tuple(msgspec.structs.replace(info, offer=None) for info in told),
        offered=tuple((info.name, mask_offered(info.offer)) for info in told),
        architecture=facts.architecture if facts is not None else "",
        conditions=kinds,
        reliability=row.reliability.score if row.reliability is not None else UNKNOWN_RELIABILITY,
        flapping=ConditionKind.FLAPPING in kinds,
    )


def with_promises(room: NodeRoom, promised: Promised, ports: Iterable[TakenPort] = ()) -> NodeRoom:
    """Return a node with exactly this promised of it. Pure."""
    return replace(
        room,
        cpus=promised.cpus,
        memory_bytes=promised.memory_bytes,
        disk_bytes=promised.disk_bytes,
        ports=tuple(ports),
    )


async def policy(rd: Read) -> Policy:
    """Return how the platform places machines."""
    return (await scheduling.get(rd))[0]


async def rooms(rd: Read, among: Collection[NodeId] | None = None, *, lock: bool = False) -> list[NodeRoom]:
    """Return the nodes (None: all) with what is left of them. With `lock` it stays true until the transaction ends."""
    rows = await nodes.every(rd, among, lock=lock)
    promised = await placements.promised(rd, among)
    ports = await taken_ports(rd, among)
    return [with_promises(empty_room(row), promised.get(row.id, NOTHING), ports.get(row.id, ())) for row in rows]


async def taken_ports(rd: Read, among: Collection[NodeId] | None = None) -> dict[NodeId, list[TakenPort]]:
    """Return the ports that are held on these nodes (None: on all), or will be by machines that move there."""
    ports: dict[NodeId, list[TakenPort]] = {}
    for held in await published_ports.held(rd, among):
        if held.node is not None:
            ports.setdefault(held.node, []).append(_taken(held))
    coming: dict[VmId, NodeId] = {vm: node for node, vm in await moves.arriving(rd, among)}
    for held in await published_ports.of_vms(rd, coming) if coming else ():
        ports.setdefault(coming[held.vm], []).append(_taken(held))
    return ports


async def check(tx: Tx, before: VmRow, after: VmRow) -> None:
    """Raise ExhaustedError if a placed machine that grows does not fit on its node, whose row must be locked."""
    grows = (
        after.reserved_cpus > before.reserved_cpus
        or after.reserved_memory_bytes > before.reserved_memory_bytes
        or after.reserved_disk_bytes > before.reserved_disk_bytes
    )
    if before.node is None or not grows:
        return
    (room,) = await rooms(tx, [before.node])
    without = replace(
        room,
        cpus=room.cpus - before.reserved_cpus,
        memory_bytes=room.memory_bytes - before.reserved_memory_bytes,
        disk_bytes=room.disk_bytes - before.reserved_disk_bytes,
    )
    for reason in fits(request_of(after), without, await policy(tx)):
        if reason.code in _GROWTH:
            raise ExhaustedError(
                reason.code,
                f"the node of {after.name} has no room: {reason.message}",
                hint="ask for less, or delete machines that are not needed",
                field=_GROWTH[reason.code],
            )


def _taken(held: published_ports.HeldPort) -> TakenPort:
    return TakenPort(port=held.port, vm=held.vm, vm_name=held.vm_name, project=held.project)
