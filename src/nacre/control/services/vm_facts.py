"""What a node saw of its machines: rows follow, events tell of it, operations end.

Called by `gateway.observed` in one transaction per report. What follows from an observation is decided by `judge`,
which is pure; here it is written.
"""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from nacre.control.services import checkpoint_facts, events, operations, vm_ports, vm_room, vm_views, volume_attachments
from nacre.control.services.checkpoint_facts import Followed
from nacre.control.services.vm_judgement import Told, absent, forgotten, judge
from nacre.control.store import vms as store
from nacre.control.store.db import Tx
from nacre.control.store.vms import VmRow
from nacre.control.wake import MOVES, VMS, node_topic
from nacre.model.convergence import FailureClass
from nacre.model.events import Actor, ActorKind
from nacre.model.ids import NodeId
from nacre.model.vms import VmObserved

log = structlog.get_logger()

_FINAL = frozenset({FailureClass.PERMANENT, FailureClass.BLOCKED})


async def observe(tx: Tx, node: NodeId, vms: Sequence[VmObserved], *, complete: bool, node_name: str = "") -> None:
    """Store what a node reports. With `complete`, what it does not mention is not there. May be repeated.

    Machines that are not placed on this node are nobody's business here: the agent holds them and says so.
    """
    seen = {observed.id: observed for observed in vms}
    if not seen and not complete:
        return
    rows = await store.on_node(tx, node, None if complete else list(seen), lock=True)
    actor = Actor(kind=ActorKind.NODE, id=node, name=node_name)
    for row in rows:
        observed = seen.get(row.id)
        if observed is not None and observed.fence not in {0, row.fence}:
            continue  # about a placement that has ended; the node is still to hear of the one that began here since
        await _follow(tx, node, actor, row, observed)


async def _follow(tx: Tx, node: NodeId, actor: Actor, before: VmRow, observed: VmObserved | None) -> None:
    after, told = forgotten(before, tx.now()) if observed is None else judge(before, observed)
    kept = Followed(row=after, changed=False, settled=True)
    if observed is not None and after.checkpoints:
        kept = await checkpoint_facts.follow(tx, actor, after, observed)
        after = kept.row
    if after == before and not told and not kept.changed:
        return
    gone = absent(after)
    if gone:
        await volume_attachments.released(tx, after)
        await store.remove(tx, after.id)
    else:
        await _store(tx, before, after)
    if not gone and after.tie is not None:
        await volume_attachments.follow(tx, after)
    for event in told:
        _tell(tx, actor, after, event)
    if gone:
        await operations.settle(tx, after.id, generation=after.generation, ok=True)
    else:
        await _settle(tx, before, after, checkpoints=kept.settled)
    if gone:
        # A node keeps a trace of what it deleted until it sees that we know; and there is room for those who wait.
        tx.wake(node_topic(node), VMS)
    elif after.generation != before.generation:
        tx.wake(node_topic(node))
    if after.moving is not None or after.fence > 1:
        tx.wake(MOVES)  # it may be off where it leaves, or run where it has come to


async def _store(tx: Tx, before: VmRow, after: VmRow) -> None:
    row = vm_room.reserve(replace(after, updated_at=tx.now()))
    await store.save(tx, row)
    ports = vm_ports.needed(row.spec, row.run)
    if ports != vm_ports.needed(before.spec, before.run):
        await vm_ports.hold(tx, row)
        tx.wake(VMS)
    if row.reserved_memory_bytes < before.reserved_memory_bytes or row.reserved_cpus < before.reserved_cpus:
        tx.wake(VMS)  # there is room for those who wait


async def _settle(tx: Tx, before: VmRow, after: VmRow, *, checkpoints: bool) -> None:
    """End operations whose promise is true, or cannot become true without a new intent."""
    failure = after.failure
    # A guest that powered itself off has run, which is what was promised, and has changed what is wanted now.
    if before.desired is not after.desired or vm_views.conditions_of(after, checkpoints=checkpoints).converged:
        await operations.settle(tx, after.id, generation=before.generation, ok=True)
    elif failure is not None and failure.failure_class in _FINAL and failure.generation >= after.generation:
        await operations.settle(
            tx,
            after.id,
            generation=after.generation,
            ok=False,
            code=failure.code,
            message=failure.message,
            hint=failure.hint,
        )


def _tell(tx: Tx, actor: Actor, row: VmRow, told: Told) -> None:
    events.emit(
        tx,
        type=told.type,
        actor=actor,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=told.message,
        details=told.details,
    )
    log.info(told.type, vm=row.id, node=actor.id, **told.details)
