"""Which image is meant by a name or an id, and by whom. Called by all services of images, and by machines that boot."""

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.services import projects
from nacre.control.store import images as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.images import ImageRow
from nacre.errors import ConflictError, InvalidInputError, NotFoundError
from nacre.model.ids import ProjectId, looks_like_id
from nacre.model.images import ImageState, Visibility

_NAMED = 5
_COMING = frozenset({ImageState.UPLOADING, ImageState.FETCHING})


async def find(rd: Read, caller: Caller, ref: str, project: str | None = None) -> ImageRow:
    """Return the image with this id, or with this name in `project` or among all that the caller sees.

    Marks the caller as checked for viewing; who changes the image asks the policy again, for its project.
    """
    visible = policy.visible_projects(caller)
    if looks_like_id(ref):
        row = await store.get(rd, ref)
        if row is not None and _is_visible(row, visible):
            return row
        raise missing(ref)
    if project is not None:
        owner = await projects.resolve(rd, project)
        if visible is not None and owner.id not in visible:
            raise projects.missing(project)
        found = await store.named(rd, ref, {owner.id})
        return _closest(ref, found, owner.id)
    return _closest(ref, await store.named(rd, ref, visible), None)


async def resolve(tx: Tx, caller: Caller, ref: str, project: ProjectId) -> ImageRow:
    """Return a ready image that machines of `project` may boot from, and keep it until the transaction ends.

    By id, or by name: first in the project, then among the public ones. `caller` has been found to be allowed to
    create machines in the project, and so may use its images. Raises NacreError.
    """
    row = await store.hold(tx, (await usable(tx, caller, ref, project)).id)
    if row is None:
        raise missing(ref)
    return _ready(row)


async def usable(rd: Read, caller: Caller, ref: str, project: ProjectId) -> ImageRow:
    """Return the same without keeping it, for what changes nothing."""
    assert caller.checked
    if looks_like_id(ref):
        found = await store.many(rd, [ref])
        found = [row for row in found if row.project == project or row.visibility is Visibility.PUBLIC]
    else:
        found = await store.named(rd, ref, {project})
    return _ready(_closest(ref, found, project))


def _ready(row: ImageRow) -> ImageRow:
    if row.state is not ImageState.READY:
        hint = "wait until it is ready" if row.state in _COMING else "import it again under another name"
        raise ConflictError("image_not_ready", f"image {row.name} is {row.state}, not ready", hint=hint, field="image")
    return row


def missing(ref: str) -> NotFoundError:
    """Return the error for an image that is not there, or that the caller may not know of."""
    return NotFoundError(
        "image_not_found", f"there is no image {ref}", hint="list them with `nacre image list`", field="image"
    )


def _closest(ref: str, found: list[ImageRow], project: ProjectId | None) -> ImageRow:
    """Return the one that is meant: the project's own before public ones of others. Raises NacreError."""
    own = [row for row in found if row.project == project] or found
    if not own:
        raise missing(ref)
    if len(own) > 1:
        raise InvalidInputError(
            "image_ambiguous",
            f"{len(own)} images are named {ref}",
            hint=f"name the project, or give an id: {', '.join(row.id for row in own[:_NAMED])}",
            field="image",
        )
    return own[0]


def _is_visible(row: ImageRow, visible: frozenset[ProjectId] | None) -> bool:
    return visible is None or row.project in visible or row.visibility is Visibility.PUBLIC
