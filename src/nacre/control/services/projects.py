"""Projects: what owns machines and images, and where roles are bound."""

from dataclasses import replace

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services.events import emit
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import grants
from nacre.control.store import projects as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.listing import ListQuery
from nacre.control.store.projects import ProjectRow
from nacre.errors import ConflictError, NotFoundError
from nacre.model.access import Role
from nacre.model.ids import GrantId, ProjectId
from nacre.model.metadata import check_labels, check_name
from nacre.schema.access import ProjectCreate, ProjectOut, ProjectUpdate
from nacre.schema.common import Page


async def create(tx: Tx, caller: Caller, body: ProjectCreate) -> ProjectOut:
    """Make a project, with its maker as admin. Raises ConflictError if the name is taken."""
    policy.require(caller, PLATFORM)
    now = tx.now()
    row = ProjectRow(
        id=ProjectId(tx.new_id("project")),
        name=check_name(body.name),
        description=body.description,
        labels=check_labels(body.labels),
        version=1,
        created_at=now,
        updated_at=now,
    )
    taken = ConflictError(
        "project_exists", f"there is a project {row.name} already", hint="choose another name", field="name"
    )
    await store.add(tx, row, taken=taken)
    admin = grants.GrantRow(
        id=GrantId(tx.new_id("grant")),
        user=caller.principal.user,
        user_name=caller.principal.user_name,
        role=Role.ADMIN,
        project=row.id,
        project_name=row.name,
        created_by=caller.actor.name,
        created_at=now,
    )
    await grants.add(tx, admin, taken=taken)
    _tell(tx, caller, row, "created")
    return out(row)


async def show(rd: Read, caller: Caller, ref: str) -> ProjectOut:
    """Return a project, by name or id."""
    return out(await require(rd, caller, ref))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[ProjectOut]:
    """Return the projects that the caller may view."""
    rows, following = await store.page(rd, query, policy.visible_projects(caller))
    return Page(items=[out(row) for row in rows], next=following)


async def update(tx: Tx, caller: Caller, ref: str, body: ProjectUpdate, *, if_match: str | None = None) -> ProjectOut:
    """Change what `body` gives. Raises PreconditionError if the project is not as it was read."""
    row = await require(tx, caller, ref, lock=True)
    require_match(if_match, etag_of(row.version))
    changed = replace(
        row,
        description=row.description if body.description is None else body.description,
        labels=row.labels if body.labels is None else check_labels(body.labels),
    )
    if changed == row:
        return out(row)
    changed = replace(changed, version=row.version + 1, updated_at=tx.now())
    await store.save(tx, changed)
    _tell(tx, caller, changed, "updated")
    return out(changed)


async def delete(tx: Tx, caller: Caller, ref: str, *, if_match: str | None = None) -> None:
    """Delete a project that holds nothing; its grants and tokens go along. Raises ConflictError otherwise."""
    row = await require(tx, caller, ref, lock=True)
    require_match(if_match, etag_of(row.version))
    held = {noun: count for noun, count in (await store.contents(tx, row.id)).items() if count}
    if held:
        what = " and ".join(
            f"{count} {(noun if count > 1 else noun[:-1]).replace('_', ' ')}" for noun, count in sorted(held.items())
        )
        raise ConflictError("project_not_empty", f"the project {row.name} still holds {what}", hint="delete them first")
    await store.remove(tx, row.id)
    _tell(tx, caller, row, "deleted")


def missing(ref: str) -> NotFoundError:
    """Return the error for a project that is not there, or that the caller may not know of."""
    return NotFoundError(
        "project_not_found", f"there is no project {ref}", hint="list yours with `nacre project list`", field="project"
    )


async def resolve(rd: Read, ref: str) -> ProjectRow:
    """Return the project with this name or id. Raises NotFoundError. Asks no policy: the caller of this must."""
    row = await store.get(rd, ref)
    if row is None:
        raise missing(ref)
    return row


async def require(rd: Read, caller: Caller, ref: str, *, lock: bool = False) -> ProjectRow:
    """Return the project with this name or id if the caller may do the declared action in it.

    Raises NotFoundError if the caller may not even view it, ForbiddenError if it is only the action.
    """
    row = await store.get(rd, ref, lock=lock)
    if row is None:
        caller.checked = True
        raise missing(ref)
    policy.require(caller, row.id, missing=missing(ref))
    return row


def out(row: ProjectRow) -> ProjectOut:
    """Show a row."""
    return ProjectOut(
        id=row.id,
        name=row.name,
        description=row.description,
        labels=row.labels,
        created_at=row.created_at,
        updated_at=row.updated_at,
        etag=etag_of(row.version),
    )


def _tell(tx: Tx, caller: Caller, row: ProjectRow, verb: str) -> None:
    emit(
        tx,
        type=f"project.{verb}",
        actor=caller.actor,
        noun="project",
        object_id=row.id,
        object_name=row.name,
        project=row.id,
        message=f"{caller.actor.name} {verb} the project {row.name}",
        request_id=caller.request_id,
    )
