"""Snapshots of volumes: taken, listed, protected, deleted, and volumes put back to them."""

from dataclasses import replace

import structlog

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.services import expiry, volume_changes, volume_views
from nacre.control.services.listing import ListQuery
from nacre.control.services.volume_attachments import no_snapshot
from nacre.control.services.volume_changes import accept, locked, resolve
from nacre.control.store import snapshots as store
from nacre.control.store import vms, volumes
from nacre.control.store.db import Read, Tx
from nacre.control.store.snapshots import SnapshotRow
from nacre.control.store.volumes import VolumeRow
from nacre.errors import ConflictError
from nacre.model.events import SYSTEM
from nacre.model.ids import SnapshotId
from nacre.model.metadata import check_name
from nacre.model.vms import Desired
from nacre.model.volumes import MAX_SNAPSHOTS, Wish
from nacre.schema.common import Accepted, Page
from nacre.schema.volumes import SnapshotCreate, SnapshotOut, SnapshotUpdate, VolumeOut, VolumeRestore

log = structlog.get_logger()


async def create(
    tx: Tx, caller: Caller, ref: str, body: SnapshotCreate, *, project: str | None = None
) -> Accepted[VolumeOut]:
    """Accept a snapshot. It is of the volume as it is when its node takes it, also while a machine writes to it."""
    row = await locked(tx, caller, ref, project, None)
    expiry.check(tx, body.expires_at)
    if row.node is None:
        raise ConflictError(
            "volume_not_made",
            f"volume {row.name} has not been made yet, so there is nothing to keep",
            hint="attach it to a machine first",
        )
    kept = (await store.of(tx, [row.id])).get(row.id, [])
    if len(kept) >= MAX_SNAPSHOTS:
        raise ConflictError(
            "too_many_snapshots",
            f"volume {row.name} has {len(kept)} snapshots, which is all that it may have",
            hint="delete one first",
        )
    snapshot = SnapshotRow(
        id=SnapshotId(tx.new_id("snapshot")),
        volume=row.id,
        name=check_name(body.name),
        after=row.restore_nonce,
        expires_at=body.expires_at,
        protected=body.protected,
        created_by=caller.actor.name,
        created_at=tx.now(),
    )
    taken = ConflictError(
        "snapshot_name_taken",
        f"volume {row.name} has a snapshot {body.name} already",
        hint="choose another name",
        field="name",
    )
    await store.add(tx, snapshot, taken=taken)
    message = f"a snapshot {body.name} of volume {row.name} was asked for"
    return await accept(tx, caller, row, "snapshot_requested", message, {"snapshot": snapshot.id})


async def list_(rd: Read, caller: Caller, ref: str, query: ListQuery, project: str | None = None) -> Page[SnapshotOut]:
    """Return the snapshots of a volume."""
    row = await resolve(rd, caller, ref, project)
    rows, following = await store.page(rd, row.id, query)
    return Page(items=[volume_views.snapshot_out(one, row) for one in rows], next=following)


async def show(rd: Read, caller: Caller, ref: str, snapshot: str, project: str | None = None) -> SnapshotOut:
    """Return one snapshot. Raises NotFoundError."""
    row = await resolve(rd, caller, ref, project)
    return volume_views.snapshot_out(await _of(rd, row, snapshot, going=True), row)


async def update(
    tx: Tx, caller: Caller, ref: str, snapshot: str, body: SnapshotUpdate, *, project: str | None = None
) -> SnapshotOut:
    """Protect a snapshot or not, and say when it expires."""
    row = await locked(tx, caller, ref, project, None)
    kept = await _of(tx, row, snapshot)
    expiry.check(tx, body.expires_at, keep=body.keep)
    expires = None if body.keep else body.expires_at or kept.expires_at
    protected = kept.protected if body.protected is None else body.protected
    changed = replace(kept, expires_at=expires, protected=protected)
    await store.save(tx, changed)
    volume_changes.tell(
        tx,
        row,
        "volume.snapshot_updated",
        f"snapshot {kept.name} of volume {row.name} was changed",
        actor=caller.actor,
        request_id=caller.request_id,
        details={"snapshot": kept.id, "protected": protected},
    )
    return volume_views.snapshot_out(changed, row)


async def delete(tx: Tx, caller: Caller, ref: str, snapshot: str, *, project: str | None = None) -> Accepted[VolumeOut]:
    """Forget a snapshot; the volume and clones stay as they are. Raises ConflictError if it is protected."""
    row = await locked(tx, caller, ref, project, None)
    kept = await _of(tx, row, snapshot)
    if kept.protected:
        raise ConflictError(
            "snapshot_protected",
            f"snapshot {kept.name} of volume {row.name} is protected",
            hint=f"take that back first: `nacre volume protect {row.name} {kept.name} --off`",
        )
    if waiting := await volumes.made_from(tx, row.id):
        raise ConflictError(
            "snapshot_in_use",
            f"{volume_views.named(waiting)} is still to be made from volume {row.name}, perhaps from {kept.name}",
            hint="wait until it has been made (`nacre operation list`), or delete it first",
        )
    if row.applied_restore_nonce < row.restore_nonce:
        raise ConflictError(
            "snapshot_in_use",
            f"volume {row.name} is being put back to a snapshot, perhaps to {kept.name}",
            hint="wait until that is done: `nacre operation list`",
        )
    await store.save(tx, replace(kept, desired=Wish.ABSENT))
    message = f"snapshot {kept.name} of volume {row.name} is to be deleted"
    return await accept(tx, caller, row, "snapshot_delete_requested", message, {"snapshot": kept.id})


async def restore(
    tx: Tx, caller: Caller, ref: str, body: VolumeRestore, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VolumeOut]:
    """Put a volume back to a snapshot; what was written since is lost. No machine may be using it."""
    row = await locked(tx, caller, ref, project, if_match)
    kept = await _of(tx, row, body.snapshot)
    policy.require(caller, row.project, action="volume:restore")
    some = (await store.of(tx, [row.id])).get(row.id, [])
    if any(one.taken_at is None and one.desired is Wish.PRESENT for one in some):
        raise ConflictError(
            "snapshot_pending",
            f"a snapshot of volume {row.name} is still being taken",
            hint="wait until it is ready, so that it is clear what is in it",
        )
    attachment = await volumes.attachment(tx, row.id)
    vm = await vms.get(tx, attachment.vm) if attachment is not None else None
    running = vm is not None and vm.run is not None and vm.run.exited_at is None
    if vm is not None and (running or vm.desired in {Desired.RUNNING, Desired.PAUSED}):
        raise ConflictError(
            "volume_in_use",
            f"machine {vm.name} uses volume {row.name}",
            hint=f"stop it (`nacre vm stop {vm.name}`), or detach the volume (`nacre vm detach {vm.name} {row.name}`)",
        )
    changed = replace(row, restore_nonce=row.restore_nonce + 1, restore_snapshot=kept.id)
    message = f"volume {row.name} is to be put back to snapshot {kept.name}"
    return await accept(tx, caller, changed, "restore_requested", message, {"snapshot": kept.id})


async def expire(tx: Tx) -> int:
    """Have nodes forget the snapshots whose time is over, and say how many."""
    count = 0
    for kept in await store.expired(tx, tx.now()):
        row = await volumes.get(tx, kept.volume, lock=True)
        if row is None or row.applied_restore_nonce < row.restore_nonce or await volumes.made_from(tx, row.id):
            continue
        await store.save(tx, replace(kept, desired=Wish.ABSENT))
        message = f"snapshot {kept.name} of volume {row.name} has expired"
        await volume_changes.write(
            tx, row, "volume.snapshot_expired", message, actor=SYSTEM, details={"snapshot": kept.id}
        )
        count += 1
    return count


async def _of(rd: Read, row: VolumeRow, ref: str, *, going: bool = False) -> SnapshotRow:
    """Find a snapshot; one that is being deleted only if `going`."""
    kept = await store.get(rd, row.id, ref)
    if kept is None or (kept.desired is Wish.ABSENT and not going):
        raise no_snapshot(row, ref)
    return kept
