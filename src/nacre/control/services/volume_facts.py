"""What a node saw of its volumes: rows follow, events tell of it, operations end. Called by `gateway.observed`."""

from collections.abc import Sequence
from dataclasses import replace

from nacre.control.services import operations, volume_changes, volume_views
from nacre.control.store import checkpoints, snapshots, volumes
from nacre.control.store.db import Tx
from nacre.control.store.volumes import VolumeRow
from nacre.control.wake import VMS, node_topic
from nacre.model.convergence import FailureClass
from nacre.model.events import Actor, ActorKind
from nacre.model.ids import NodeId
from nacre.model.volumes import VolumeObserved, VolumePhase, Wish

_FINAL = frozenset({FailureClass.PERMANENT, FailureClass.BLOCKED})


async def observe(tx: Tx, node: NodeId, seen: Sequence[VolumeObserved], *, node_name: str = "") -> None:
    """Store what a node reports. May be repeated. Volumes that are not on this node are nobody's business here.

    What a node does not mention it has nothing of yet, or is told of again: nothing follows from that.
    """
    actor = Actor(kind=ActorKind.NODE, id=node, name=node_name)
    known = {one.id: one for one in await volumes.many(tx, [one.id for one in seen], lock=True)}
    for one in sorted(seen, key=lambda one: one.id):
        row = known.get(one.id)
        if row is not None and row.node == node and one.generation >= row.observed_generation:
            await _follow(tx, actor, row, one)


async def _follow(tx: Tx, actor: Actor, before: VolumeRow, seen: VolumeObserved) -> None:
    generation = before.generation
    if seen.generation > generation:  # this database has lost intent, as after restoring a backup
        generation = seen.generation + 1
    row = replace(
        before,
        generation=generation,
        observed_generation=seen.generation,
        phase=seen.phase,
        made=before.made or seen.phase is VolumePhase.READY,
        seen_size_bytes=seen.size_bytes,
        used_bytes=seen.used_bytes,
        applied_restore_nonce=seen.restore_nonce,
        failure=seen.failure,
    )
    taken = await _snapshots(tx, actor, row, seen)
    if row.desired is Wish.ABSENT and row.phase is VolumePhase.ABSENT and row.observed_generation >= generation:
        await _gone(tx, actor, row)
        return
    if row != before:
        await volumes.save(tx, replace(row, updated_at=tx.now()))
        _tell(tx, actor, before, row)
    failure = row.failure
    if volume_views.conditions_of(row, snapshots=taken).converged:
        await operations.settle(tx, row.id, generation=row.generation, ok=True)
    elif failure is not None and failure.failure_class in _FINAL and failure.generation >= row.generation:
        await operations.settle(
            tx,
            row.id,
            generation=row.generation,
            ok=False,
            code=failure.code,
            message=failure.message,
            hint=failure.hint,
        )
    if row.generation != before.generation and row.node is not None:
        tx.wake(node_topic(row.node))


async def _snapshots(tx: Tx, actor: Actor, row: VolumeRow, seen: VolumeObserved) -> bool:
    """Follow the snapshots of a volume, and say whether they are as they should be."""
    there = {one.id: one for one in seen.snapshots}
    settled = True
    for kept in (await snapshots.of(tx, [row.id])).get(row.id, []):
        found = there.get(kept.id)
        if kept.desired is Wish.ABSENT:
            if found is None and row.observed_generation >= row.generation:
                await snapshots.remove(tx, kept.id)
                said = f"snapshot {kept.name} of volume {row.name} is gone"
                volume_changes.tell(
                    tx, row, "volume.snapshot_deleted", said, actor=actor, details={"snapshot": kept.id}
                )
            else:
                settled = False
        elif found is None:
            settled = False
        elif kept.taken_at is None:
            taken = replace(kept, taken_at=found.taken_at, size_bytes=found.size_bytes, consistency=found.consistency)
            await snapshots.save(tx, taken)
            said = f"snapshot {kept.name} of volume {row.name} was taken"
            volume_changes.tell(tx, row, "volume.snapshot_taken", said, actor=actor, details={"snapshot": kept.id})
    return settled


async def _gone(tx: Tx, actor: Actor, row: VolumeRow) -> None:
    await checkpoints.lose_volume(tx, row.id)
    await snapshots.remove_of(tx, row.id)
    await volumes.remove(tx, row.id)
    volume_changes.tell(tx, row, "volume.deleted", f"volume {row.name} is gone", actor=actor)
    await operations.settle(tx, row.id, generation=row.generation, ok=True)
    if row.node is not None:
        tx.wake(node_topic(row.node), VMS)  # the node keeps a trace until it sees that we know; and there is room


def _tell(tx: Tx, actor: Actor, before: VolumeRow, row: VolumeRow) -> None:
    if row.phase is VolumePhase.READY and before.phase is not VolumePhase.READY:
        volume_changes.tell(tx, row, "volume.ready", f"volume {row.name} is ready", actor=actor)
    if row.applied_restore_nonce > before.applied_restore_nonce and before.observed_generation:
        volume_changes.tell(tx, row, "volume.restored", f"volume {row.name} is what it was", actor=actor)
    if 0 < before.seen_size_bytes < row.seen_size_bytes:
        volume_changes.tell(tx, row, "volume.grown", f"volume {row.name} has grown", actor=actor)
    old, new = before.failure, row.failure
    if new is not None and (old is None or old.code != new.code):
        details = {"code": new.code, "class": new.failure_class.value, "hint": new.hint}
        volume_changes.tell(tx, row, "volume.failed", f"volume {row.name}: {new.message}", actor=actor, details=details)
