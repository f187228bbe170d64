"""Users: people and programs that hold roles. They have no password; tokens speak for them."""

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services.events import emit
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import grants
from nacre.control.store import users as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.listing import ListQuery
from nacre.control.store.users import UserRow
from nacre.errors import ConflictError, NotFoundError
from nacre.model.events import Actor
from nacre.model.ids import UserId
from nacre.model.metadata import check_name
from nacre.schema.access import UserCreate, UserOut
from nacre.schema.common import Page


async def create(tx: Tx, caller: Caller, body: UserCreate) -> UserOut:
    """Make a user who can do nothing yet. Raises ConflictError if the name is taken."""
    policy.require(caller, PLATFORM)
    row = await add(tx, name=body.name, display_name=body.display_name)
    tell(tx, caller.actor, row, "created", caller.request_id)
    return out(row)


async def show(rd: Read, caller: Caller, ref: str) -> UserOut:
    """Return a user, by name or id."""
    return out(await _require(rd, caller, ref))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[UserOut]:
    """Return all users, to those who may view the platform."""
    policy.require(caller, PLATFORM)
    rows, following = await store.page(rd, query)
    return Page(items=[out(row) for row in rows], next=following)


async def delete(tx: Tx, caller: Caller, ref: str, *, if_match: str | None = None) -> None:
    """Delete a user with all tokens and grants. Raises ConflictError for the last administrator."""
    row = await _require(tx, caller, ref, lock=True)
    require_match(if_match, etag_of(row.version))
    admins = {user for _, user in await grants.platform_admins(tx)}
    if admins == {row.id}:
        raise last_admin(row.name)
    await store.remove(tx, row.id)
    tell(tx, caller.actor, row, "deleted", caller.request_id)


async def add(tx: Tx, *, name: str, display_name: str) -> UserRow:
    """Insert a user; asks no policy. Raises InvalidInputError, ConflictError."""
    row = UserRow(
        id=UserId(tx.new_id("user")),
        name=check_name(name),
        display_name=display_name,
        version=1,
        created_at=tx.now(),
    )
    taken = ConflictError(
        "user_exists", f"there is a user {row.name} already", hint="choose another name", field="name"
    )
    await store.add(tx, row, taken=taken)
    return row


async def resolve(rd: Read, ref: str) -> UserRow:
    """Return the user with this name or id. Raises NotFoundError. Asks no policy: the caller of this must."""
    row = await store.get(rd, ref)
    if row is None:
        raise missing(ref)
    return row


def missing(ref: str) -> NotFoundError:
    """Return the error for a user who is not there, or whom the caller may not know of."""
    return NotFoundError(
        "user_not_found", f"there is no user {ref}", hint="list users with `nacre user list`", field="user"
    )


def last_admin(name: str) -> ConflictError:
    """Return the error for what would leave the platform without an administrator."""
    return ConflictError(
        "last_admin",
        f"{name} is the only administrator of the platform",
        hint="make another user administrator first: `nacre grant create USER admin`",
    )


def out(row: UserRow) -> UserOut:
    """Show a row."""
    return UserOut(
        id=row.id,
        name=row.name,
        display_name=row.display_name,
        created_at=row.created_at,
        etag=etag_of(row.version),
    )


def tell(tx: Tx, actor: Actor, row: UserRow, verb: str, request_id: str) -> None:
    """Emit `user.<verb>`."""
    emit(
        tx,
        type=f"user.{verb}",
        actor=actor,
        noun="user",
        object_id=row.id,
        object_name=row.name,
        project=None,
        message=f"{actor.name} {verb} the user {row.name}",
        request_id=request_id,
    )


async def _require(rd: Read, caller: Caller, ref: str, *, lock: bool = False) -> UserRow:
    policy.require(caller, PLATFORM, missing=missing(ref))
    row = await store.get(rd, ref, lock=lock)
    if row is None:
        raise missing(ref)
    return row
