"""Images: what machines boot from. Created by description, filled by uploads or by the reconciler, deleted by it.

Called by the API, by machines that want to boot (`resolve`, `manifest`) and by the gateway (`artifact_path`). Only rows
are touched here; bytes are the business of `image_uploads` and the reconciler.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import events, image_captures, operations, projects
from nacre.control.services.image_captures import Content
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.image_lookup import find, missing, resolve
from nacre.control.services.image_sources import part_of
from nacre.control.services.image_uploads import upload_state
from nacre.control.services.image_views import shown
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import images as store
from nacre.control.store import vms
from nacre.control.store.db import Read, Tx
from nacre.control.store.images import ImageRow, Origin, Part
from nacre.control.store.listing import ListQuery
from nacre.control.store.operations import OperationRow
from nacre.control.wake import IMAGES
from nacre.errors import ConflictError, InvalidInputError, NacreError
from nacre.model.ids import ImageId
from nacre.model.images import MOVES, Capture, ImageManifest, ImageState, Role, Visibility, check_roles
from nacre.model.metadata import check_labels, check_name
from nacre.schema.common import Accepted, Page
from nacre.schema.images import ImageCreate, ImageOut, ImageUpdate

_SHOWN_USERS = 5


async def create(tx: Tx, caller: Caller, body: ImageCreate, *, depot: ImageDepot) -> Accepted[ImageOut]:
    """Take in a description. The reconciler fetches what is somewhere already, the rest waits for its upload."""
    project = await projects.require(tx, caller, body.project)
    if body.visibility is Visibility.PUBLIC:
        policy.require(caller, PLATFORM)
    if body.checkpoint is None:
        content = _content_of_files(body, depot)
    else:
        content = await image_captures.content_of(tx, caller, body, project.id)
    parts = content.parts
    _check_kernel_args(body.kernel_args, parts)
    uploads = any(part.origin is Origin.UPLOAD for part in parts)
    now = tx.now()
    row = ImageRow(
        id=ImageId(tx.new_id("image")),
        project=project.id,
        name=check_name(body.name),
        labels=check_labels(body.labels),
        visibility=body.visibility,
        state=ImageState.UPLOADING if uploads else ImageState.FETCHING,
        kernel_args=content.kernel_args,
        defaults=content.defaults,
        captured=content.captured,
        parts=parts,
        error_code="",
        error="",
        hint="",
        generation=1,
        version=1,
        attempts=0,
        work_at=now if any(part.origin is not Origin.UPLOAD for part in parts) else None,
        claim=None,
        created_by=caller.actor.name,
        created_at=now,
        updated_at=now,
    )
    await store.add(tx, row, taken=await _taken(tx, row))
    _tell(tx, caller, row, "created", captured=row.captured)
    kind = "image.import" if row.captured is None else "image.capture"
    return await _accepted(tx, caller, row, kind, cancellable=True)


async def show(rd: Read, caller: Caller, ref: str, *, project: str | None = None) -> ImageOut:
    """Return an image, by id or by name. Raises NotFoundError."""
    row = await find(rd, caller, ref, project)
    return (await shown(rd, [await store.view(rd, row.id)]))[0]


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[ImageOut]:
    """Return the images of one project, or of all that the caller sees, and the public ones of any."""
    visible: Collection[str] | None = policy.visible_projects(caller)
    if query.project is not None:
        asked = await projects.resolve(rd, query.project)
        if visible is not None and asked.id not in visible:
            raise projects.missing(query.project)
        visible = {asked.id}
    rows, following = await store.page(rd, query, visible)
    return Page(items=await shown(rd, rows), next=following)


async def update(
    tx: Tx, caller: Caller, ref: str, body: ImageUpdate, *, project: str | None = None, if_match: str | None = None
) -> ImageOut:
    """Change what `body` gives. True at once: there is nothing to wait for."""
    row = await _own(tx, caller, ref, project)
    require_match(if_match, etag_of(row.version))
    changed = replace(
        row,
        labels=row.labels if body.labels is None else check_labels(body.labels),
        visibility=body.visibility or row.visibility,
        defaults=body.defaults or row.defaults,
    )
    if changed.visibility is not row.visibility:
        policy.require(caller, PLATFORM)
    if changed != row:
        _refuse_deleting(row)
        changed = replace(changed, version=row.version + 1, updated_at=tx.now())
        await store.save(tx, changed)
        _tell(tx, caller, changed, "updated")
    return (await shown(tx, [await store.view(tx, row.id)]))[0]


async def delete(
    tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[ImageOut]:
    """Delete an image that no machine uses, also one that is still coming in. May be repeated."""
    row = await _own(tx, caller, ref, project)
    require_match(if_match, etag_of(row.version))
    await _require_unused(tx, caller, row)
    return await _accepted(tx, caller, await _deleting(tx, caller, row), "image.delete")


async def cancel(tx: Tx, caller: Caller, operation: OperationRow) -> None:
    """Take back an import: the image goes. For the table of cancellers of `operations.cancel`."""
    row = await store.get(tx, operation.object_id, lock=True)
    if row is not None and row.state not in {ImageState.READY, ImageState.DELETING}:
        await _deleting(tx, caller, row)


async def manifest(rd: Read, image: str) -> ImageManifest | None:
    """Return what a node must know to boot from an image; None if there is no such image or it is not ready."""
    return (await manifests(rd, [image])).get(ImageId(image))


async def manifests(rd: Read, ids: Collection[str]) -> dict[ImageId, ImageManifest]:
    """Return the manifests of those of these images that are ready, in one query."""
    return {
        row.id: ImageManifest(id=row.id, artifacts=row.artifacts, kernel_args=row.kernel_args)
        for row in await store.many(rd, ids)
        if row.state is ImageState.READY
    }


async def captured(rd: Read, ids: Collection[str]) -> set[ImageId]:
    """Return those of these images whose disk was a machine's: machines from it have a seed, so as to be others."""
    return await store.captured(rd, ids)


async def artifact_path(rd: Read, depot: ImageDepot, image: str, role: Role) -> Path | None:
    """Return the file of an artifact of a ready image; None if it has none. For the gateway, which serves nodes."""
    found = await manifest(rd, image)
    if found is None or found.artifact(role) is None:
        return None
    return depot.path(found.id, role)


async def _own(tx: Tx, caller: Caller, ref: str, project: str | None) -> ImageRow:
    """Return an image that the caller may do the declared action on, locked."""
    found = await find(tx, caller, ref, project)
    policy.require(caller, found.project)
    row = await store.get(tx, found.id, lock=True)
    if row is None:
        raise missing(ref)
    return row


async def _deleting(tx: Tx, caller: Caller, row: ImageRow) -> ImageRow:
    """Hand the image over to the reconciler for deletion, away from whoever works on it."""
    if row.state is not ImageState.DELETING and ImageState.DELETING not in MOVES[row.state]:
        raise ConflictError("image_not_deletable", f"image {row.name} is {row.state}", hint="try again later")
    row = replace(
        row,
        state=ImageState.DELETING,
        generation=row.generation + 1,
        version=row.version + 1,
        attempts=0,
        work_at=tx.now(),
        claim=None,
        updated_at=tx.now(),
    )
    await store.save(tx, row)
    _tell(tx, caller, row, "delete_requested", "asked to delete")
    tx.wake(IMAGES)
    return row


async def _require_unused(tx: Tx, caller: Caller, row: ImageRow) -> None:
    """Raise ConflictError if machines boot from the image, naming those that the caller may see."""
    count = (await vms.using(tx, [row.id])).get(row.id, 0)
    if not count:
        return
    users, _ = await vms.page(tx, ListQuery(limit=100, filters={"image": row.id}), None)
    seen = [user.name for user in users if policy.allowed(caller, user.project, "vm:view")][:_SHOWN_USERS]
    rest = count - len(seen)
    names = ", ".join(seen) + (f" and {rest} more" if rest and seen else "")
    raise ConflictError(
        "image_in_use",
        f"{count} machine{'s' if count > 1 else ''} boot{'' if count > 1 else 's'} from image {row.name}",
        hint=f"delete first: {names}"
        if seen
        else "the machines belong to other projects: make the image private instead",
    )


async def _taken(tx: Tx, row: ImageRow) -> NacreError:
    holders = await store.named(tx, row.name, {row.project}, public=False)
    going = any(holder.state is ImageState.DELETING for holder in holders)
    return ConflictError(
        "image_exists",
        f"there is an image {row.name} in this project already",
        hint="it is being deleted, try again in a moment" if going else "choose another name, or delete the other one",
        field="name",
    )


def _refuse_deleting(row: ImageRow) -> None:
    if row.state is ImageState.DELETING:
        raise ConflictError(
            "image_deleting", f"image {row.name} is being deleted", hint="it cannot be changed any more"
        )


def _content_of_files(body: ImageCreate, depot: ImageDepot) -> Content:
    check_roles([source.role for source in body.artifacts])
    parts = tuple(part_of(source, depot, f"artifacts[{index}]") for index, source in enumerate(body.artifacts))
    return Content(parts=parts, kernel_args=body.kernel_args, defaults=body.defaults)


def _check_kernel_args(given: str, parts: tuple[Part, ...]) -> None:
    if any(ord(char) < 32 or ord(char) == 127 for char in given):
        raise InvalidInputError(
            "invalid_kernel_args",
            "kernel arguments hold control characters",
            hint="write one line",
            field="kernel_args",
        )
    if given and all(part.role is not Role.KERNEL for part in parts):
        raise InvalidInputError(
            "kernel_args_without_kernel",
            "kernel arguments need a kernel",
            hint="give a kernel too, or leave the arguments to the boot loader on the disk",
            field="kernel_args",
        )


async def _accepted(
    tx: Tx, caller: Caller, row: ImageRow, type_: str, *, cancellable: bool = False
) -> Accepted[ImageOut]:
    operation = await operations.begin(
        tx,
        type=type_,
        noun="image",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        generation=row.generation,
        actor=caller.actor,
        cancellable=cancellable,
    )
    tx.wake(IMAGES)
    out = (await shown(tx, [await store.view(tx, row.id)]))[0]
    return Accepted(resource=out, generation=row.generation, operation=operations.out(operation))


def _tell(
    tx: Tx, caller: Caller, row: ImageRow, verb: str, words: str = "", *, captured: Capture | None = None
) -> None:
    origin = f" from checkpoint {captured.checkpoint_name} of machine {captured.vm_name}" if captured else ""
    events.emit(
        tx,
        type=f"image.{verb}",
        actor=caller.actor,
        noun="image",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"{caller.actor.name} {words or verb} image {row.name}{origin}",
        request_id=caller.request_id,
        details={"vm": captured.vm, "checkpoint": captured.checkpoint} if captured else None,
    )


__all__ = [
    "artifact_path",
    "cancel",
    "captured",
    "create",
    "delete",
    "find",
    "list_",
    "manifest",
    "manifests",
    "missing",
    "resolve",
    "show",
    "update",
    "upload_state",
]
