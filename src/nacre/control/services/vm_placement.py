"""Machines without a node: which there are, and writing down where they go or why nowhere yet.

Called by `reconcilers.vms`, which decides between the two. A decision was made from a view that may be old, and several
replicas decide at once; what is written holds nevertheless:

* **No node is overcommitted and no port given twice.** The chosen nodes are locked (in the order of their ids), then
  what is promised of them is summed up and each machine checked again, counting in those of the same batch. Whoever
  else adds to a node, be it a placement, a move's reservation or a growing machine, holds the same lock.
* **Required anti-affinity and spread hold, across nodes too.** A batch first holds the groups of its machines (see
  `vm_groups`). With them held, whatever others have placed in their projects since our view was read
  (`LiveFleet.strangers`: exact, because events are numbered in the order of commits) is let into the view, and if there
  is any, the machines that it concerns are decided again against it. Nobody can add more until we commit.
* **No pool is promised more than it has.** Volumes that are made with a machine take room in pools of its node: the
  pools are locked, what is left of them is measured, and each machine of the batch takes of that (see `volume_room`).
* **Nothing is placed twice.** The machine's row is locked last and must still want a node with the same intent.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from nacre.control.scheduler.explain import summary
from nacre.control.scheduler.placement import fits
from nacre.control.scheduler.placement import place as decide
from nacre.control.scheduler.snapshot import NodeRoom, Request, Resident
from nacre.control.services import events, operations, vm_groups, vm_room, volume_attachments, volume_room
from nacre.control.services.fleet import LiveFleet
from nacre.control.services.vm_advice import hint_of
from nacre.control.services.volume_room import PoolRoom
from nacre.control.store import placements, published_ports
from nacre.control.store.db import Read, Tx
from nacre.control.store.placements import Written, WrittenRefusal
from nacre.control.store.vms import VmRow
from nacre.control.wake import node_topic
from nacre.model.convergence import Failure, FailureClass
from nacre.model.events import SYSTEM
from nacre.model.ids import NodeId, VmId
from nacre.model.placement import Decision

PREEMPTING = "preempting"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A machine without a node."""

    row: VmRow
    request: Request


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A machine and what the scheduler says of it. With a node it is to be placed, without one it waits."""

    waiting: Waiting
    decision: Decision


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a batch."""

    placed: int
    lost: int
    """Decisions that did not hold any more and are to be made again."""


async def waiting(rd: Read, after: Waiting | None = None, *, limit: int) -> list[Waiting]:
    """Return machines that wait for a node, the most important and longest waiting first, from `after` on."""
    rows = await placements.waiting(rd, None if after is None else after.row, limit=limit)
    return [Waiting(row=row, request=vm_room.request_of(row)) for row in rows]


async def place(tx: Tx, chosen: Sequence[Decided], live: LiveFleet, *, random: Callable[[], float]) -> Outcome:
    """Write down placements that still hold. Those that do not are taken back in `live` and count as lost."""
    projects = await vm_groups.hold(tx, (one.waiting.request for one in chosen))
    targets = {one.decision.node for one in chosen if one.decision.node is not None}
    rooms = await live.locked(tx, targets, ports=any(one.waiting.request.publish for one in chosen))
    strangers = await live.strangers(tx, projects)
    wanting = await placements.lock_waiting(tx, (one.waiting.row.id for one in chosen))
    still = [one for one in chosen if wanting.get(one.waiting.row.id) == one.waiting.row.generation]
    elsewhere = {resident.vm for resident in strangers}
    mine = [one for one in chosen if one.waiting.row.id not in elsewhere]
    again = _concerned(still, strangers)
    if again:
        _take_back(live, mine, rooms.values())
    pools = await volume_room.hold(tx, (one.waiting.row for one in still))
    held = [one for one in still if _holds(one, rooms, pools, live, again, random)]
    kept = held
    if len(held) < len(still):
        kept = [one for one in held if not vm_groups.leans_on_others(one.waiting.request)]
        for one in held:
            if vm_groups.leans_on_others(one.waiting.request):
                _give_back(rooms, one)
    await _write(tx, kept, rooms)
    placed = [one.waiting.request for one in kept]
    ids = {request.vm for request in placed}
    gone = [one.waiting.request for one in mine if one.waiting.row.id not in ids]
    live.written(rooms.values(), placed, gone)
    return Outcome(placed=len(kept), lost=len(still) - len(kept))


def is_news(refused: Decided) -> bool:
    """Whether the machine does not say already why it waits. How many nodes lack what changes all the time. Pure."""
    row, now = refused.waiting.row, refused.decision
    if row.failure is None or row.decision is None or row.failure.generation != row.generation:
        return True
    if row.failure.code == PREEMPTING:
        return True
    code, message = summary(now)
    if code != row.failure.code:
        return True
    few = now.considered <= 1
    return message != row.failure.message if few else _classes(now) != _classes(row.decision)


async def refuse(tx: Tx, refused: Sequence[Decided]) -> None:
    """Write down why machines wait."""
    wanting = await placements.lock_waiting(tx, (one.waiting.row.id for one in refused))
    written: list[WrittenRefusal] = []
    for one in refused:
        row = one.waiting.row
        if wanting.get(row.id) != row.generation:
            continue
        code, message = summary(one.decision)
        failure = waits(tx, row, code, message, hint_of(code))
        decision = msgspec.structs.replace(one.decision, decided_at=tx.now())
        written.append(WrittenRefusal(vm=row.id, failure=failure, decision=decision))
        await tell_waiting(tx, row, failure, told(decision))
    await placements.refuse(tx, written)


def waits(tx: Tx, row: VmRow, code: str, message: str, hint: str) -> Failure:
    """Return what a machine that waits shows as its problem."""
    return Failure(
        failure_class=FailureClass.WAITING,
        code=code,
        message=message,
        hint=hint,
        generation=row.generation,
        at=tx.now(),
    )


async def tell_waiting(tx: Tx, row: VmRow, failure: Failure, details: dict[str, Any]) -> None:
    """Tell that a machine waits, and have its operation say so."""
    await operations.progress(tx, row.id, None, f"waits: {failure.message}")
    events.emit(
        tx,
        type="vm.waiting",
        actor=SYSTEM,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"machine {row.name} waits: {failure.message}",
        details={"code": failure.code, "generation": row.generation, **details},
    )


def told(decision: Decision) -> dict[str, Any]:
    """Return the summary of a decision that its event carries: no names of nodes. Pure."""
    return {
        "strategy": decision.strategy.value,
        "considered": decision.considered,
        "fitting": decision.fitting,
        "rejected": [{"code": one.code, "nodes": one.nodes} for one in decision.rejected],
    }


def without_own(room: NodeRoom, row: VmRow) -> NodeRoom:
    """Return a node without what is kept on it for this machine while others make room for it. Pure."""
    if row.nominated != room.id:
        return room
    return replace(
        room,
        cpus=room.cpus - row.reserved_cpus,
        memory_bytes=room.memory_bytes - row.reserved_memory_bytes,
        disk_bytes=room.disk_bytes - row.reserved_disk_bytes,
    )


def _concerned(still: Sequence[Decided], strangers: Sequence[Resident]) -> frozenset[VmId]:
    """The machines that must be decided again because of what others have placed meanwhile."""
    projects = {resident.project for resident in strangers}
    ruling = {resident.project for resident in strangers if resident.anti_affinity}
    return frozenset(
        one.waiting.row.id
        for one in still
        if one.waiting.request.project in ruling
        or (one.waiting.request.project in projects and vm_groups.has_rules(one.waiting.request))
    )


def _take_back(live: LiveFleet, chosen: Iterable[Decided], rooms: Iterable[NodeRoom]) -> None:
    """Undo what deciding has done to the view."""
    for one in chosen:
        live.fleet.leave(one.waiting.row.id)
    for room in rooms:
        live.fleet.put(room)


def _holds(
    one: Decided,
    rooms: dict[NodeId, NodeRoom],
    pools: PoolRoom,
    live: LiveFleet,
    again: frozenset[VmId],
    random: Callable[[], float],
) -> bool:
    """Whether the node can take the machine, which then counts as promised there."""
    node, request = one.decision.node, one.waiting.request
    if node is None or node not in rooms or not pools.has_room(request.vm, node):
        return False
    room = without_own(rooms[node], one.waiting.row)
    if fits(request, room, live.fleet.policy, restless=True):
        return False
    if again:
        live.fleet.put(room)
        if one.waiting.row.id in again:
            decision = decide(replace(request, only=node), live.fleet, random=random, explain=False)
            if decision.node != node:
                live.fleet.put(rooms[node])
                return False
        live.fleet.take(node, request)
    rooms[node] = room.with_machine(request)
    pools.take(request.vm, node)
    return True


def _give_back(rooms: dict[NodeId, NodeRoom], one: Decided) -> None:
    node, request = one.decision.node, one.waiting.request
    if node is None:
        return
    room = rooms[node]
    rooms[node] = replace(
        room,
        cpus=room.cpus - request.cpus,
        memory_bytes=room.memory_bytes - request.memory_bytes,
        disk_bytes=room.disk_bytes - request.disk_bytes,
        ports=tuple(port for port in room.ports if port.vm != request.vm),
    )


async def _write(tx: Tx, kept: Sequence[Decided], rooms: dict[NodeId, NodeRoom]) -> None:
    now = tx.now()
    written: list[Written] = []
    ports: dict[VmId, NodeId] = {}
    for one in kept:
        row, node = one.waiting.row, one.decision.node
        if node is None:
            continue
        decision = msgspec.structs.replace(one.decision, decided_at=now)
        written.append(Written(vm=row.id, node=node, decision=decision))
        if one.waiting.request.publish:
            ports[row.id] = node
        events.emit(
            tx,
            type="vm.placed",
            actor=SYSTEM,
            noun="vm",
            object_id=row.id,
            object_name=row.name,
            project=row.project,
            message=f"machine {row.name} goes to node {rooms[node].name}: {summary(decision)[1]}",
            details={"node": node, "generation": row.generation, **told(decision)},
        )
        tx.wake(node_topic(node))
    await placements.place(tx, written)
    tied = {one.waiting.row.id: one.decision.node for one in kept if one.waiting.row.tie is not None}
    await volume_attachments.placed(tx, {vm: node for vm, node in tied.items() if node is not None})
    await published_ports.bind_all(tx, ports)


def _classes(decision: Decision) -> frozenset[str]:
    return frozenset(one.code for one in decision.rejected)
