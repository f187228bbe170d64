"""The scheduler's view of all nodes and machines, kept true from round to round without reading everything again.

What a node is made of is read again when its revision has grown; what is promised of nodes is summed up anew by the
database every time, because it follows from much; who lives where is followed through the events of machines, whose
cursor is in the order of commits, so that nothing is missed. Used by the placer and by those who explain.
"""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from nacre.control.scheduler.snapshot import Fleet, NodeRoom, Resident, TakenPort
from nacre.control.scheduler.values import NOTHING_ASKED, Request
from nacre.control.services import vm_room
from nacre.control.store import events, moves, nodes, placements, published_ports, scheduling
from nacre.control.store.db import Read, Tx
from nacre.control.store.placements import NOTHING, PlacedRow, Promised
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import Usage
from nacre.model.vms import HaPolicy

FOLLOWED = frozenset({"vm.placed", "vm.moved", "vm.updated", "vm.deleted"})
"""Everything that puts a machine on a node, takes it off, or changes what others care about tells one of these."""
MOST_FOLLOWED = 20_000
"""After more events it is quicker to read everything again."""
USAGE_GOOD_FOR = timedelta(seconds=30)
"""Heartbeats change usage all the time; this old it is good enough to choose by, and it is checked before writing."""

Ports = dict[VmId, tuple[TakenPort, ...]]


async def load(rd: Read, *, movable: bool = False, project: ProjectId | None = None) -> Fleet:
    """Return a fleet of one's own, to change at will. With `movable` machines know what they asked for.

    With `project` only its machines are there, which is enough for whoever asks about rules between machines.
    """
    fleet = Fleet(await vm_room.policy(rd), await vm_room.rooms(rd))
    targets = await _arriving(rd)
    async for rows in placements.placed(rd, project=project):
        for row in rows:
            fleet.settle(_resident(row, targets.get(row.id), movable=movable))
        await asyncio.sleep(0)
    return fleet


class LiveFleet:
    """A fleet that follows the database. Whoever uses it holds `lock`: its state is that of one decider."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._fleet: Fleet | None = None
        self._policy_version = 0
        self._cursor = 0
        self._revisions: dict[NodeId, int] = {}
        self._empty: dict[NodeId, NodeRoom] = {}
        self._promised: dict[NodeId, Promised] = {}
        self._ports: dict[NodeId, Ports] = {}
        self._ports_at: dict[VmId, NodeId] = {}
        self._arriving: dict[VmId, NodeId] = {}
        self._own: set[VmId] = set()
        self._usage_at: datetime | None = None

    @property
    def fleet(self) -> Fleet:
        """The fleet as of the last `refresh`, and what was done to it since."""
        assert self._fleet is not None
        return self._fleet

    @property
    def known(self) -> bool:
        """Whether there is one."""
        return self._fleet is not None

    def forget(self) -> None:
        """Read everything again next time: what was decided upon has not been written."""
        self._fleet = None

    async def refresh(self, rd: Read) -> Fleet:
        """Bring the fleet up to date with what `rd` sees."""
        policy, version, _ = await scheduling.get(rd)
        if self._fleet is None or version != self._policy_version:
            self._policy_version = version
            self._fleet = Fleet(policy)
            await self._begin(rd)
        await self._follow_nodes(rd)
        if not await self._follow_events(rd):
            self._fleet = Fleet(policy)
            await self._begin(rd)
        await self._follow_moves(rd)
        await self._follow_promises(rd)
        return self._fleet

    async def locked(self, tx: Tx, among: Collection[NodeId], *, ports: bool) -> dict[NodeId, NodeRoom]:
        """Lock nodes and return them as they are now, with their ports if anybody asks for some."""
        heads = await placements.lock_nodes(tx, among)
        changed = {node for node, (revision, _) in heads.items() if self._revisions.get(node) != revision}
        await self._read_nodes(tx, changed)
        promised = await placements.promised(tx, heads)
        taken = await vm_room.taken_ports(tx, heads) if ports else {}
        for node, (_, usage) in heads.items():
            self._use(node, usage)
        return {
            node: vm_room.with_promises(
                self._empty[node], promised.get(node, NOTHING), taken.get(node, ()) if ports else self._taken(node)
            )
            for node in heads
        }

    async def strangers(self, tx: Tx, projects: Collection[ProjectId]) -> list[Resident]:
        """Let in what others have placed in these projects since the last `refresh`, and return it.

        Complete if `tx` holds the groups of the projects: nobody else places machines in them until it ends.
        """
        told = await events.told_since(
            tx, self._cursor, noun="vm", types=FOLLOWED, projects=projects, limit=MOST_FOLLOWED
        )
        ids = self._by_others(told)
        targets = await _arriving(tx)
        ids |= {vm for vm, node in targets.items() if self._arriving.get(vm) != node}
        return await self._reload(tx, ids, targets)

    def written(self, rooms: Iterable[NodeRoom], placed: Iterable[Request], lost: Iterable[Request]) -> None:
        """Take over what was written: the nodes as they are now, who was placed, and who was not after all."""
        for room in rooms:
            self._promised[room.id] = Promised(
                cpus=room.cpus, memory_bytes=room.memory_bytes, disk_bytes=room.disk_bytes
            )
            self.fleet.put(room)
        for request in lost:
            self.fleet.leave(request.vm)
        for request in placed:
            self._own.add(request.vm)

    def room(self, node: NodeId) -> NodeRoom:
        """Return a node as it was last read, without what has been decided since."""
        return vm_room.with_promises(self._empty[node], self._promised.get(node, NOTHING), self._taken(node))

    async def _begin(self, rd: Read) -> None:
        """Read who lives where."""
        self._revisions, self._empty, self._promised = {}, {}, {}
        self._ports, self._ports_at, self._own = {}, {}, set()
        self._cursor = await events.latest(rd)
        self._usage_at = rd.now()
        self._arriving = await _arriving(rd)
        await self._follow_nodes(rd)
        async for rows in placements.placed(rd):
            for row in rows:
                self._settle(row, self._arriving.get(row.id))
            await asyncio.sleep(0)
        for node, ports in (await vm_room.taken_ports(rd)).items():
            for port in ports:
                self._hold(port.vm, node, (*self._ports.get(node, {}).get(port.vm, ()), port))

    async def _follow_nodes(self, rd: Read) -> None:
        revisions = await placements.revisions(rd)
        for node in self._revisions.keys() - revisions.keys():
            self.fleet.remove(node)
            for known in (self._revisions, self._empty, self._promised, self._ports):
                known.pop(node, None)
        stale = {node for node, revision in revisions.items() if self._revisions.get(node) != revision}
        await self._read_nodes(rd, stale)
        if self._usage_at is None or rd.now() - self._usage_at > USAGE_GOOD_FOR:
            self._usage_at = rd.now()
            for node, usage in (await placements.usages(rd)).items():
                self._use(node, usage)

    async def _read_nodes(self, rd: Read, among: Collection[NodeId]) -> None:
        ids = sorted(among)
        for start in range(0, len(ids), placements.CHUNK):
            for row in await nodes.every(rd, ids[start : start + placements.CHUNK]):
                self._revisions[row.id] = row.revision
                self._empty[row.id] = vm_room.empty_room(row)
                self.fleet.put(self.room(row.id))
            await asyncio.sleep(0)

    def _use(self, node: NodeId, usage: Usage | None) -> None:
        """Only what is free of the disk matters to placement."""
        known = self._empty.get(node)
        if known is None or usage is None:
            return
        if known.usage is None or known.usage.disk_bytes != usage.disk_bytes:
            self._empty[node] = replace(known, usage=usage)
            self.fleet.put(self.room(node))

    async def _follow_events(self, rd: Read) -> bool:
        """Return False if too much has happened to follow."""
        newest = await events.latest(rd)
        told = await events.told_since(rd, self._cursor, noun="vm", types=FOLLOWED, limit=MOST_FOLLOWED)
        if len(told) == MOST_FOLLOWED:
            return False
        by_others = self._by_others(told)
        self._own -= {VmId(vm) for _, kind, vm in told if kind == "vm.placed"}
        self._cursor = max(self._cursor, newest)
        await self._reload(rd, by_others, self._arriving)
        return True

    def _by_others(self, told: list[tuple[int, str, str]]) -> set[VmId]:
        return {VmId(vm) for _, kind, vm in told if kind != "vm.placed" or VmId(vm) not in self._own}

    async def _follow_moves(self, rd: Read) -> None:
        """A machine that is on its way to a node counts as living there already."""
        arriving = await _arriving(rd)
        changed = {vm for vm in self._arriving | arriving if self._arriving.get(vm) != arriving.get(vm)}
        self._arriving = arriving
        await self._reload(rd, changed, arriving)

    async def _follow_promises(self, rd: Read) -> None:
        promised = await placements.promised(rd)
        changed = {node for node in self._empty if promised.get(node, NOTHING) != self._promised.get(node, NOTHING)}
        self._promised = promised
        for node in changed:
            self.fleet.put(self.room(node))

    async def _reload(self, rd: Read, among: set[VmId], targets: dict[VmId, NodeId]) -> list[Resident]:
        """Read machines again, wherever they are now, and return those that are somewhere."""
        if not among:
            return []
        found: list[Resident] = []
        async for rows in placements.placed(rd, among):
            await self._read_nodes(rd, {targets.get(row.id, row.node) for row in rows} - self._empty.keys())
            found += [self._settle(row, targets.get(row.id)) for row in rows]
        for vm in among - {resident.vm for resident in found}:
            self.fleet.leave(vm)
        changed = {node for vm in among if (node := self._ports_at.get(vm)) is not None}
        for vm in among:
            self._hold(vm, None, ())
        at = {resident.vm: resident.node for resident in found}
        held: dict[VmId, list[TakenPort]] = {}
        for port in await published_ports.of_vms(rd, at) if at else ():
            held.setdefault(port.vm, []).append(
                TakenPort(port=port.port, vm=port.vm, vm_name=port.vm_name, project=port.project)
            )
        for vm, ports in held.items():
            self._hold(vm, at[vm], tuple(ports))
            changed.add(at[vm])
        for node in changed & self._empty.keys():
            self.fleet.put(self.room(node))
        return found

    def _settle(self, row: PlacedRow, target: NodeId | None) -> Resident:
        resident = _resident(row, target)
        self.fleet.settle(resident)
        return resident

    def _hold(self, vm: VmId, node: NodeId | None, ports: tuple[TakenPort, ...]) -> None:
        before = self._ports_at.pop(vm, None)
        if before is not None:
            self._ports.get(before, {}).pop(vm, None)
        if node is not None and ports:
            self._ports_at[vm] = node
            self._ports.setdefault(node, {})[vm] = ports

    def _taken(self, node: NodeId) -> tuple[TakenPort, ...]:
        return tuple(port for ports in self._ports.get(node, {}).values() for port in ports)


async def _arriving(rd: Read) -> dict[VmId, NodeId]:
    return {vm: node for node, vm in await moves.arriving(rd)}


def _resident(row: PlacedRow, target: NodeId | None, *, movable: bool = False) -> Resident:
    """A machine that leaves already makes no room for a second one, and is not moved twice."""
    placement = row.spec.placement
    resident = Resident(
        vm=row.id,
        name=row.name,
        project=row.project,
        node=target or row.node,
        labels=row.labels,
        cpus=row.reserved_cpus,
        memory_bytes=row.reserved_memory_bytes,
        disk_bytes=row.reserved_disk_bytes,
        priority=row.spec.priority,
        preemptible=row.spec.preemptible and row.moving is None,
        anti_affinity=tuple(term for term in placement.anti_affinity if term.required),
    )
    if not movable or row.moving is not None:
        return resident
    request = Request(
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
        placement=NOTHING_ASKED if placement == NOTHING_ASKED else placement,
        ha=row.spec.ha is HaPolicy.RESTART,
        priority=row.spec.priority,
        preemptible=row.spec.preemptible,
        within=frozenset(row.tie.nodes) if row.tie is not None else frozenset(),
        volume=row.tie.because if row.tie is not None else "",
        needs=vm_room.needed(row.spec, row.image_roles),
    )
    return replace(resident, request=request)
