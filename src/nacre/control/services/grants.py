"""Grants: which user holds which role, on a project or on the whole platform. They count from the next request on."""

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import projects, users
from nacre.control.services.events import emit
from nacre.control.store import grants as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.grants import GrantRow
from nacre.control.store.listing import ListQuery
from nacre.control.store.projects import ProjectRow
from nacre.control.store.users import UserRow
from nacre.errors import ConflictError, NotFoundError
from nacre.model.access import Role
from nacre.model.events import Actor
from nacre.model.ids import GrantId
from nacre.schema.access import GrantCreate, GrantOut
from nacre.schema.common import Page, ProjectRef


async def create(tx: Tx, caller: Caller, body: GrantCreate) -> GrantOut:
    """Give a user a role. Raises ConflictError if the user holds it there already."""
    project = None
    if body.project is None:
        policy.require(caller, PLATFORM)
    else:
        project = await projects.require(tx, caller, body.project)
    user = await users.resolve(tx, body.user)
    row = await add(tx, user=user, role=body.role, project=project, actor=caller.actor)
    _tell(tx, caller, row, "created")
    return out(row)


async def show(rd: Read, caller: Caller, grant: str) -> GrantOut:
    """Return a grant, by id."""
    return out(await _require(rd, caller, grant))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[GrantOut]:
    """Return the grants on the projects that the caller may view; all of them to who may view the platform."""
    rows, following = await store.page(rd, query, policy.visible_projects(caller))
    return Page(items=[out(row) for row in rows], next=following)


async def delete(tx: Tx, caller: Caller, grant: str) -> None:
    """Take a role away. Raises ConflictError for the last administrator of the platform."""
    row = await _require(tx, caller, grant)
    if row.role is Role.ADMIN and row.project is None:
        admins = await store.platform_admins(tx)
        if admins == [(row.id, row.user)]:
            raise users.last_admin(row.user_name)
    await store.remove(tx, row.id)
    _tell(tx, caller, row, "deleted")


async def add(tx: Tx, *, user: UserRow, role: Role, project: ProjectRow | None, actor: Actor) -> GrantRow:
    """Insert a grant; asks no policy and emits nothing. Raises ConflictError."""
    row = GrantRow(
        id=GrantId(tx.new_id("grant")),
        user=user.id,
        user_name=user.name,
        role=role,
        project=None if project is None else project.id,
        project_name=None if project is None else project.name,
        created_by=actor.name,
        created_at=tx.now(),
    )
    taken = ConflictError(
        "grant_exists",
        f"{user.name} is {role} {_where(row)} already",
        hint="there is nothing left to do",
    )
    await store.add(tx, row, taken=taken)
    return row


def out(row: GrantRow) -> GrantOut:
    """Show a row."""
    project = None
    if row.project is not None:
        project = ProjectRef(id=row.project, name=row.project_name or "")
    return GrantOut(
        id=row.id,
        user=row.user,
        user_name=row.user_name,
        role=row.role,
        project=project,
        created_by=row.created_by,
        created_at=row.created_at,
    )


async def _require(rd: Read, caller: Caller, grant: str) -> GrantRow:
    missing = NotFoundError("grant_not_found", f"there is no grant {grant}", hint="list them with `nacre grant list`")
    row = await store.get(rd, grant)
    if row is None:
        caller.checked = True
        raise missing
    policy.require(caller, row.project or PLATFORM, missing=missing)
    return row


def _where(row: GrantRow) -> str:
    return "on the platform" if row.project is None else f"in {row.project_name}"


def _tell(tx: Tx, caller: Caller, row: GrantRow, verb: str) -> None:
    done = f"made {row.user_name} {row.role}" if verb == "created" else f"took {row.role} from {row.user_name}"
    emit(
        tx,
        type=f"grant.{verb}",
        actor=caller.actor,
        noun="grant",
        object_id=row.id,
        object_name=f"{row.user_name}:{row.role}",
        project=row.project,
        message=f"{caller.actor.name} {done} {_where(row)}",
        request_id=caller.request_id,
        details={"user": row.user, "role": row.role.value},
    )
