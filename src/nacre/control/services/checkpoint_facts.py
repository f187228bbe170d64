"""Checkpoints as facts: what nodes say of them, and what becomes of them when machines go or move.

Called by the services that learn of it; what callers may ask is in `checkpoints`. A volume is told which checkpoints it
is part of, so whenever one comes or goes its volumes get a new generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nacre.control.services import events, operations, volume_changes, volume_views
from nacre.control.store import checkpoints as store
from nacre.control.store import images, vms, volumes
from nacre.control.store.checkpoints import CheckpointRow
from nacre.control.store.db import Read, Tx
from nacre.control.store.vms import VmRow
from nacre.errors import ConflictError
from nacre.model.checkpoints import CheckpointObserved
from nacre.model.events import SYSTEM, Actor
from nacre.model.ids import CheckpointId, VolumeId
from nacre.model.vms import VmObserved
from nacre.model.volumes import Wish


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What came of a report."""

    row: VmRow
    changed: bool
    """Whether anything about the checkpoints has changed."""
    settled: bool
    """Whether they are as they should be, or cannot be."""


async def follow(tx: Tx, actor: Actor, row: VmRow, seen: VmObserved) -> Followed:
    """Follow the checkpoints of a machine, whose row is locked."""
    there = {one.id: one for one in seen.checkpoints}
    changed, settled, left = False, True, row.checkpoints
    for kept in (await store.of(tx, [row.id])).get(row.id, []):
        found = there.get(kept.id)
        if kept.desired is Wish.ABSENT:
            if found is None and seen.generation >= kept.generation:
                await _forget(tx, row, kept, actor, "gone")
                changed, left = True, left - 1
            else:
                settled = False
        elif found is None:
            settled = False
        elif kept.taken_at is None:
            await _taken(tx, row, kept, found, actor)
            changed = True
    return Followed(row=replace(row, checkpoints=left), changed=changed, settled=settled)


async def allow_deletion(tx: Tx, row: VmRow) -> None:
    """Raise ConflictError if a machine has checkpoints that must stay, or that are still needed."""
    if not row.checkpoints:
        return
    kept = (await store.of(tx, [row.id])).get(row.id, [])
    protected = [one.name for one in kept if one.protected and one.desired is Wish.PRESENT]
    if protected:
        raise ConflictError(
            "vm_has_protected_checkpoints",
            f"machine {row.name} has protected checkpoints: {', '.join(protected)}",
            hint=f"take that back first: `nacre vm protect-checkpoint {row.name} {protected[0]} --off`",
        )
    waiting = await unmade_from(tx, kept)
    if waiting:
        raise ConflictError(
            "vm_being_cloned",
            f"{waiting} is still to be made from a checkpoint of {row.name}",
            hint="wait until it is made, which a machine is when it is started, or delete it first",
        )


async def unmade_from(rd: Read, kept: Sequence[CheckpointRow]) -> str:
    """Name what is still to be made from one of these checkpoints: machine, volume or image; empty if there is none."""
    if not kept:
        return ""
    ids = {one.id for one in kept}
    for image in await images.coming_from(rd, ids):
        return f"image {image.name}"
    for vm in await vms.unmade(rd):
        if vm.source is not None and vm.source.checkpoint in ids:
            return f"machine {vm.name}"
    for some in (await store.volumes_of(rd, list(ids))).values():
        for part in some:
            if names := await volumes.made_from(rd, part.volume):
                return volume_views.named(names)
    return ""


async def gone_with(tx: Tx, row: VmRow) -> None:
    """A machine is gone, and with it its checkpoints."""
    if row.checkpoints:
        for kept in (await store.of(tx, [row.id])).get(row.id, []):
            await _forget(tx, row, kept, SYSTEM, "gone with its machine")


async def left_behind(tx: Tx, row: VmRow) -> VmRow:
    """A machine leaves its node without its disks, and so without its checkpoints. What it was made from is past."""
    if row.checkpoints:
        for kept in (await store.of(tx, [row.id])).get(row.id, []):
            await _forget(tx, row, kept, SYSTEM, "left behind with the machine's disks")
    nonce = 0 if row.restore is None else row.restore.nonce
    source = row.source if row.run is None else None
    return replace(row, checkpoints=0, applied_restore_nonce=nonce, source=source)


async def touch_volumes(tx: Tx, among: Sequence[VolumeId], event: str, message: str, actor: Actor) -> None:
    """Tell the nodes of these volumes that they are part of other checkpoints than before."""
    for volume in await volumes.many(tx, among, lock=True):
        await volume_changes.write(tx, volume, event, f"volume {volume.name} {message}", actor=actor)


def tell(
    tx: Tx,
    row: VmRow,
    event: str,
    message: str,
    *,
    actor: Actor,
    checkpoint: CheckpointId,
    request_id: str = "",
    details: dict[str, Any] | None = None,
) -> None:
    """Tell of something that happened to a checkpoint."""
    events.emit(
        tx,
        type=event,
        actor=actor,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=message,
        request_id=request_id,
        details={"checkpoint": checkpoint, **(details or {})},
    )


async def _taken(tx: Tx, row: VmRow, kept: CheckpointRow, found: CheckpointObserved, actor: Actor) -> None:
    failure = found.failure
    await store.save(
        tx,
        replace(
            kept,
            taken_at=found.taken_at,
            consistency=found.consistency if failure is None else None,
            size_bytes=found.size_bytes,
            disk_bytes=found.disk_bytes,
            memory_bytes=found.memory_bytes,
            failure=failure,
        ),
    )
    if failure is None:
        said = f"checkpoint {kept.name} of machine {row.name} was taken ({found.consistency})"
        tell(tx, row, "vm.checkpoint_taken", said, actor=actor, checkpoint=kept.id)
        return
    said = f"checkpoint {kept.name} of machine {row.name} could not be taken: {failure.message}"
    details = {"code": failure.code, "hint": failure.hint}
    tell(tx, row, "vm.checkpoint_failed", said, actor=actor, checkpoint=kept.id, details=details)
    await operations.settle(
        tx,
        row.id,
        generation=kept.generation,
        ok=False,
        code=failure.code,
        message=failure.message,
        hint=failure.hint,
    )


async def _forget(tx: Tx, row: VmRow, kept: CheckpointRow, actor: Actor, how: str) -> None:
    parts = (await store.volumes_of(tx, [kept.id])).get(kept.id, [])
    await store.remove(tx, kept.id)
    said = f"checkpoint {kept.name} of machine {row.name} is {how}"
    tell(tx, row, "vm.checkpoint_deleted", said, actor=actor, checkpoint=kept.id)
    message = f"is not part of checkpoint {kept.name} of machine {row.name} any more"
    await touch_volumes(tx, [part.volume for part in parts], "volume.checkpoint_dropped", message, actor)
