"""Volumes: what callers may ask of them. Every change is a new generation of intent with an event and an operation.

Called by `api`. Snapshots are in `volume_snapshots`, machines' disks in `volume_plugs`, facts in `volume_facts`.
"""

from dataclasses import replace

import msgspec

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.services import image_lookup, operations, pools, projects, volume_attachments, volume_views
from nacre.control.services.listing import ListQuery
from nacre.control.services.vm_creation import disk_of
from nacre.control.services.volume_changes import (
    DEFAULT_PROJECT,
    accept,
    locked,
    promise,
    resolve,
    stays,
    within,
    write,
)
from nacre.control.store import checkpoints, snapshots
from nacre.control.store import volumes as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.pools import PoolRow
from nacre.control.store.projects import ProjectRow
from nacre.control.store.volumes import VolumeRow
from nacre.errors import ConflictError, InvalidInputError
from nacre.model.ids import VolumeId
from nacre.model.metadata import check_labels, check_name
from nacre.model.units import format_size
from nacre.model.volumes import LOCAL_POOL, DiskFormat, PoolKind, SourceKind, VolumePhase, VolumeSource, Wish
from nacre.schema.common import Accepted, Page
from nacre.schema.volumes import VolumeClone, VolumeCreate, VolumeOut, VolumeUpdate

ALL_PROJECTS = "*"


async def create(tx: Tx, caller: Caller, body: VolumeCreate) -> Accepted[VolumeOut]:
    """Accept a new volume. A node makes it when it is first needed; a clone is made where its origin is, at once."""
    project = await projects.require(tx, caller, body.project)
    given = [name for name in ("image", "volume") if getattr(body, name) is not None]
    if len(given) > 1 or (body.snapshot is not None and body.volume is None):
        raise InvalidInputError(
            "volume_sources",
            "a volume starts as one thing: an image, a volume, or a snapshot of a volume",
            hint="give `image`, or `volume` and perhaps its `snapshot`",
            field=given[-1] if given else "snapshot",
        )
    if body.volume is not None:
        return await _clone(tx, caller, project, body)
    pool = await pools.resolve(tx, body.pool)
    source, least = VolumeSource(), 0
    if body.image is not None:
        image = await image_lookup.resolve(tx, caller, body.image, project.id)
        least = disk_of(image)
        if not least:
            raise InvalidInputError(
                "image_without_disk", f"image {image.name} has no disk", hint="use another image", field="image"
            )
        source = VolumeSource(kind=SourceKind.IMAGE, image=image.id, full=body.full)
    size = _size(body.size_bytes, least)
    form = _format(pool, body.format or (DiskFormat.RAW if pool.kind is PoolKind.CEPH else DiskFormat.QCOW2))
    await pools.check_room(tx, pool, None, size)
    row = _row(tx, project, body, source, size)
    return await _add(tx, caller, project, replace(row, pool=pool.id, format=form))


async def clone(
    tx: Tx, caller: Caller, ref: str, body: VolumeClone, *, project: str | None = None
) -> Accepted[VolumeOut]:
    """Accept a clone of a volume, in its project and pool."""
    origin = await resolve(tx, caller, ref, project)
    wanted = VolumeCreate(
        name=body.name,
        project=origin.project,
        labels=body.labels,
        volume=origin.id,
        snapshot=body.snapshot,
        full=body.full,
        format=body.format,
    )
    owner = await projects.require(tx, caller, origin.project)
    return await _clone(tx, caller, owner, wanted)


async def show(rd: Read, caller: Caller, ref: str, project: str | None = None) -> VolumeOut:
    """Return a volume. Raises NotFoundError."""
    return await volume_views.shown(rd, (await resolve(rd, caller, ref, project)).id)


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[VolumeOut]:
    """Return the volumes of a project, or with `*` or none of all that the caller may see."""
    if query.project in {None, ALL_PROJECTS}:
        visible = policy.visible_projects(caller)
    else:
        visible = frozenset({(await projects.require(rd, caller, query.project or DEFAULT_PROJECT)).id})
    rows, following = await store.page(rd, query, visible)
    return Page(items=[volume_views.out(row) for row in rows], next=following)


async def update(
    tx: Tx, caller: Caller, ref: str, body: VolumeUpdate, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VolumeOut]:
    """Change labels, or make it larger. Raises InvalidInputError for a smaller size."""
    await volume_attachments.lock_around(tx, (await resolve(tx, caller, ref, project)).id)
    row = await locked(tx, caller, ref, project, if_match)
    labels = row.labels if body.labels is None else check_labels(body.labels)
    size = row.size_bytes if body.size_bytes is None else body.size_bytes
    if size < row.size_bytes:
        raise InvalidInputError(
            "volume_shrink",
            f"volume {row.name} has {format_size(row.size_bytes)} and would lose some",
            hint="make a smaller volume and copy what is needed",
            field="size_bytes",
        )
    await volume_attachments.grow(tx, row, size)
    before = {"size_bytes": row.size_bytes, "labels": row.labels}
    after = {"size_bytes": size, "labels": labels}
    changed = replace(row, size_bytes=size, labels=labels)
    details = {"before": before, "after": after}
    return await accept(tx, caller, changed, "updated", f"volume {row.name} was updated", details)


async def delete(
    tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VolumeOut]:
    """Delete a volume that is attached to nothing and has no snapshots. Raises ConflictError otherwise."""
    row = await resolve(tx, caller, ref, project, lock=True)
    if row.desired is not Wish.ABSENT:
        row = await locked(tx, caller, row.id, None, if_match)
        await _check_free(tx, row)
    if row.node is None and row.made:
        row = await volume_attachments.given(tx, row)
    changed = replace(row, desired=Wish.ABSENT, delete_requested_by=caller.actor.name)
    if row.node is not None:
        return await accept(tx, caller, changed, "delete_requested", f"volume {row.name} is to be deleted")
    changed = await write(
        tx,
        changed,
        "volume.deleted",
        f"volume {row.name} is gone; it had never been made",
        actor=caller.actor,
        request_id=caller.request_id,
    )
    accepted = await promise(tx, caller, changed, "delete")
    await store.remove(tx, row.id)
    await operations.settle(tx, row.id, generation=changed.generation, ok=True)
    ended = await operations.get(tx, accepted.operation.id)
    gone = msgspec.structs.replace(accepted.resource, phase=VolumePhase.ABSENT)
    shown = operations.out(ended) if ended is not None else accepted.operation
    return Accepted(resource=gone, generation=accepted.generation, operation=shown)


async def _clone(tx: Tx, caller: Caller, project: ProjectRow, body: VolumeCreate) -> Accepted[VolumeOut]:
    origin = stays(await within(tx, body.volume or "", project.id, lock=True))
    if origin.node is None:
        raise ConflictError(
            "volume_not_made",
            f"volume {origin.name} has not been made yet, so there is nothing to clone",
            hint="attach it to a machine first, or create another volume of the same kind",
            field="volume",
        )
    pool = await pools.resolve(tx, origin.pool)
    if body.pool not in {"local", pool.name, pool.id}:
        raise InvalidInputError(
            "clone_elsewhere",
            f"a clone of {origin.name} is in its pool, {pool.name}",
            hint="leave the pool out, and copy the content to a volume of another pool",
            field="pool",
        )
    form = _format(pool, body.format or origin.format)
    if form is not origin.format and not body.full:
        raise InvalidInputError(
            "clone_format",
            f"volume {origin.name} is kept as {origin.format}, and a clone of another format shares nothing with it",
            hint="ask for a full copy (`full: true`, `--full`), or leave the format out",
            field="format",
        )
    least, kept = origin.size_bytes, None
    if body.snapshot is not None:
        kept = await snapshots.get(tx, origin.id, body.snapshot)
        if kept is None or kept.desired is Wish.ABSENT:
            raise volume_attachments.no_snapshot(origin, body.snapshot)
        least = kept.size_bytes or least
    source = VolumeSource(
        kind=SourceKind.VOLUME if kept is None else SourceKind.SNAPSHOT,
        volume=origin.id,
        snapshot=None if kept is None else kept.id,
        full=body.full,
    )
    size = _size(body.size_bytes, least)
    await pools.check_room(tx, pool, origin.node, size)
    row = _row(tx, project, body, source, size)
    return await _add(tx, caller, project, replace(row, pool=pool.id, node=origin.node, format=form))


def _format(pool: PoolRow, form: DiskFormat) -> DiskFormat:
    """Return the format. Raises InvalidInputError for one that a pool does not keep."""
    if pool.kind is PoolKind.CEPH and form is not DiskFormat.RAW:
        raise InvalidInputError(
            "format_of_pool",
            f"pool {pool.name} is in a Ceph cluster, which keeps volumes raw",
            hint="leave the format out, or use a pool of the kind directory",
            field="format",
        )
    return form


def _size(asked: int | None, least: int) -> int:
    if asked is None and not least:
        raise InvalidInputError(
            "size_needed", "a blank volume needs a size", hint="give one, such as 10GiB", field="size_bytes"
        )
    if asked is not None and asked < least:
        raise InvalidInputError(
            "volume_too_small",
            f"{format_size(asked)} cannot hold what it is made from, which has {format_size(least)}",
            hint=f"ask for {format_size(least)} or more, or leave it out",
            field="size_bytes",
        )
    return asked or least


def _row(tx: Tx, project: ProjectRow, body: VolumeCreate, source: VolumeSource, size: int) -> VolumeRow:
    now = tx.now()
    return VolumeRow(
        id=VolumeId(tx.new_id("volume")),
        project=project.id,
        name=check_name(body.name),
        labels=check_labels(body.labels),
        pool=LOCAL_POOL,
        size_bytes=-(-size // 512) * 512,
        source=source,
        created_at=now,
        updated_at=now,
    )


async def _add(tx: Tx, caller: Caller, project: ProjectRow, row: VolumeRow) -> Accepted[VolumeOut]:
    if row.node is None:
        row = replace(row, observed_generation=row.generation)
    taken = ConflictError(
        "volume_name_taken",
        f"there is a volume {row.name} in project {project.name} already",
        hint="choose another name; the name of a deleted volume is free once the volume is gone",
        field="name",
    )
    await store.add(tx, row, taken=taken)
    row = await write(
        tx,
        row,
        "volume.created",
        f"volume {row.name} was created ({row.source.kind})",
        actor=caller.actor,
        request_id=caller.request_id,
        details={
            "source": msgspec.to_builtins(row.source),
            "size_bytes": row.size_bytes,
            "format": row.format.value,
        },
        first=True,
    )
    return await promise(tx, caller, row, "create")


async def _check_free(tx: Tx, row: VolumeRow) -> None:
    if await store.attachment(tx, row.id) is not None:
        seen = await store.view(tx, row.id)
        raise ConflictError(
            "volume_attached",
            f"volume {row.name} is attached to machine {seen.vm_name}",
            hint=f"detach it first: `nacre vm detach {seen.vm_name} {row.name}`",
        )
    kept = (await snapshots.of(tx, [row.id])).get(row.id, [])
    left = [one for one in kept if one.desired is Wish.PRESENT]
    if left:
        protected = [one.name for one in left if one.protected]
        raise ConflictError(
            "volume_has_snapshots",
            f"volume {row.name} has {len(left)} snapshots"
            + (f", of which {', '.join(protected)} are protected" if protected else ""),
            hint=f"delete them first: `nacre volume snapshots {row.name}` lists them; clones do not need them",
        )
    if await checkpoints.with_volumes(tx, [row.id]):
        raise ConflictError(
            "volume_in_checkpoints",
            f"volume {row.name} is part of a checkpoint of a machine",
            hint="delete the checkpoint first: `nacre vm checkpoints` lists those of a machine",
        )
    waiting = await store.made_from(tx, row.id)
    if waiting:
        raise ConflictError(
            "volume_being_cloned",
            f"{volume_views.named(waiting)} is still to be made from {row.name}",
            hint="wait until it has been made, or delete it first",
        )
