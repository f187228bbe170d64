"""Room for machines that fit nowhere, made by machines of lower priority that allow it. Called by `reconcilers.vms`.

The machines that must go are moved off their node without a target: their guests are asked to stop, and then they wait
for room like new ones. What becomes free is kept for the machine that needed it by nominating the node for it, which
counts as promised there from then on: nobody else, not even those that went, can slip in, and nobody is asked to go
twice. A nomination ends when its machine is placed, or when nothing is leaving the node any more and it still does not
fit; then room is sought anew. Priorities fall with every step, so chains of it end.
"""

from collections.abc import Sequence

import msgspec

from nacre.control.scheduler.preemption import Preemption
from nacre.control.scheduler.preemption import make_room as choose
from nacre.control.scheduler.snapshot import Resident
from nacre.control.services import events, moves
from nacre.control.services.fleet import LiveFleet
from nacre.control.services.vm_placement import PREEMPTING, Decided, tell_waiting, told, waits
from nacre.control.store import nodes, placements, vms
from nacre.control.store.db import Database, Tx
from nacre.control.store.placements import WrittenRefusal
from nacre.control.store.vms import VmRow
from nacre.model.events import SYSTEM
from nacre.model.ids import NodeId, VmId
from nacre.model.moves import MoveReason
from nacre.model.vms import Desired

MOST = 20
"""Machines for which room is made in one page of a round."""
BY_SCHEDULER = "scheduler"


async def make_room(db: Database, refused: Sequence[Decided], live: LiveFleet) -> set[VmId]:
    """Begin to make room where that helps, and return the machines that have been told what they wait for."""
    settled = await _nominated(db, refused)
    tried = 0
    for one in refused:
        row = one.waiting.row
        if row.id in settled or tried == MOST:
            continue
        preemption = choose(one.waiting.request, live.fleet)
        if preemption is None:
            continue
        tried += 1
        async with db.write() as tx:
            begun = await _begin(tx, one, preemption)
        if begun:
            settled.add(row.id)
            _mark(live, preemption, one)
    return settled


async def _nominated(db: Database, refused: Sequence[Decided]) -> set[VmId]:
    """Return the machines for which room is being made; the others among those that had a nomination lose it."""
    hoping = {one.waiting.row.id: one.waiting.row.nominated for one in refused}
    wanted = {node for node in hoping.values() if node is not None}
    if not wanted:
        return set()
    async with db.write() as tx:
        leaving = await placements.leaving(tx, wanted)
        for vm, node in sorted(hoping.items()):
            if node is not None and node not in leaving:
                await placements.nominate(tx, vm, None)
    return {vm for vm, node in hoping.items() if node in leaving}


async def _begin(tx: Tx, one: Decided, preemption: Preemption) -> bool:
    """Have the victims leave, unless one of them is not what it was any more."""
    row = one.waiting.row
    if not await nodes.every(tx, [preemption.node], lock=True):
        return False
    ids = [resident.vm for resident in preemption.victims]
    victims = await vms.on_node(tx, preemption.node, ids, lock=True)
    wanting = await placements.lock_waiting(tx, [row.id])
    if wanting.get(row.id) != row.generation or len(victims) != len(ids) or not all(_may_go(v, row) for v in victims):
        return False
    for victim in victims:
        await moves.begin(tx, victim, reason=MoveReason.PREEMPTION, source=preemption.node, created_by=BY_SCHEDULER)
        events.emit(
            tx,
            type="vm.preempted",
            actor=SYSTEM,
            noun="vm",
            object_id=victim.id,
            object_name=victim.name,
            project=victim.project,
            message=f"machine {victim.name} (priority {victim.spec.priority}) makes room for one of priority "
            f"{row.spec.priority}",
            details={"priority": victim.spec.priority, "for_priority": row.spec.priority},
        )
    await _promise(tx, one, preemption.node, victims)
    return True


async def _promise(tx: Tx, one: Decided, node: NodeId, victims: Sequence[VmRow]) -> None:
    row = one.waiting.row
    await placements.nominate(tx, row.id, node)
    count = f"{len(victims)} machine{'s' if len(victims) > 1 else ''}"
    failure = waits(
        tx,
        row,
        PREEMPTING,
        f"{count} of lower priority must make room first",
        "wait until their guests have shut down",
    )
    known = tuple(victim.name for victim in victims if victim.project == row.project)
    decision = msgspec.structs.replace(one.decision, preempted=known, decided_at=tx.now())
    await placements.refuse(tx, [WrittenRefusal(vm=row.id, failure=failure, decision=decision)])
    await tell_waiting(tx, row, failure, {**told(decision), "preempted": len(victims)})


def _may_go(victim: VmRow, for_row: VmRow) -> bool:
    return (
        victim.moving is None
        and victim.spec.preemptible
        and victim.spec.priority < for_row.spec.priority
        and victim.desired is not Desired.ABSENT
    )


def _mark(live: LiveFleet, preemption: Preemption, one: Decided) -> None:
    """Let the rest of the round see that these machines go, and for whom."""
    request = one.waiting.request
    live.fleet.put(live.fleet.room(preemption.node).with_machine(request))
    for victim in preemption.victims:
        live.fleet.settle(_going(victim))


def _going(victim: Resident) -> Resident:
    return Resident(
        vm=victim.vm,
        name=victim.name,
        project=victim.project,
        node=victim.node,
        labels=victim.labels,
        cpus=victim.cpus,
        memory_bytes=victim.memory_bytes,
        disk_bytes=victim.disk_bytes,
        priority=victim.priority,
        preemptible=False,
        anti_affinity=victim.anti_affinity,
    )
