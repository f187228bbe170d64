"""The table of users and its queries."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Integer, Table, Text, delete, insert, select

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.rows import load
from nacre.control.store.types import Timestamp
from nacre.errors import NacreError
from nacre.model.ids import UserId

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("display_name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False),
)

LISTED = Listed(
    id=users.c.id,
    sorts={"name": users.c.name, "created_at": users.c.created_at},
    filters={"name": users.c.name},
)


@dataclass(frozen=True, kw_only=True)
class UserRow:
    """A user as stored."""

    id: UserId
    name: str
    display_name: str
    version: int
    created_at: datetime


async def get(rd: Read, id_or_name: str, *, lock: bool = False) -> UserRow | None:
    """Return the user with this id or name; `lock` keeps the row from changing until the transaction ends."""
    query = select(users).where((users.c.id == id_or_name) | (users.c.name == id_or_name))
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(UserRow, row)


async def any_exists(rd: Read) -> bool:
    """Whether there is any user at all."""
    return (await rd.connection.execute(select(users.c.id).limit(1))).first() is not None


async def add(tx: Tx, row: UserRow, *, taken: NacreError) -> None:
    """Insert a user. Raises `taken` if the name is taken."""
    await insert_unique(tx, insert(users).values(**vars(row)), taken=taken)


async def remove(tx: Tx, user: UserId) -> None:
    """Delete a user; tokens and grants go along."""
    await tx.connection.execute(delete(users).where(users.c.id == user))


async def page(rd: Read, query: ListQuery) -> tuple[list[UserRow], str | None]:
    """Return a page of all users."""
    rows, following = await fetch(rd, select(users), query, LISTED)
    return [load(UserRow, row) for row in rows], following
