"""The table of grants (who holds which role where) and its queries."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ForeignKey, Index, Select, Table, Text, UniqueConstraint, delete, insert, select, text

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.projects import projects
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Timestamp
from nacre.control.store.users import users
from nacre.errors import NacreError
from nacre.model.access import Role
from nacre.model.ids import GrantId, ProjectId, UserId, looks_like_id

_ON_PLATFORM = text("project IS NULL")

grants = Table(
    "grants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("role", Choice(Role), nullable=False),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE")),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Index("ix_grants_project", "project"),
    UniqueConstraint("user", "role", "project"),
    Index(
        "uq_grants_user_role_platform",
        "user",
        "role",
        unique=True,
        sqlite_where=_ON_PLATFORM,
        postgresql_where=_ON_PLATFORM,
    ),
)
"""`project` is NULL for a role on the whole platform."""


@dataclass(frozen=True, kw_only=True)
class GrantRow:
    """A grant as stored, with the names of what it binds."""

    id: GrantId
    user: UserId
    user_name: str
    role: Role
    project: ProjectId | None
    project_name: str | None
    created_by: str
    created_at: datetime


def _select() -> Select[Any]:
    joined = grants.join(users, users.c.id == grants.c.user).outerjoin(projects, projects.c.id == grants.c.project)
    names = (users.c.name.label("user_name"), projects.c.name.label("project_name"))
    return select(grants, *names).select_from(joined)


async def get(rd: Read, grant: str) -> GrantRow | None:
    """Return a grant."""
    row = (await rd.connection.execute(_select().where(grants.c.id == grant))).one_or_none()
    return None if row is None else load(GrantRow, row)


async def of_user(rd: Read, user: UserId) -> list[GrantRow]:
    """Return all that a user holds, oldest first."""
    query = _select().where(grants.c.user == user).order_by(grants.c.created_at, grants.c.id)
    return [load(GrantRow, row) for row in await rd.connection.execute(query)]


async def add(tx: Tx, row: GrantRow, *, taken: NacreError) -> None:
    """Insert a grant. Raises `taken` if the user holds this role there already."""
    values = {name: value for name, value in vars(row).items() if name not in {"user_name", "project_name"}}
    await insert_unique(tx, insert(grants).values(**values), taken=taken)


async def remove(tx: Tx, grant: GrantId) -> None:
    """Delete a grant."""
    await tx.connection.execute(delete(grants).where(grants.c.id == grant))


async def platform_admins(tx: Tx) -> list[tuple[GrantId, UserId]]:
    """Return the grants that make someone administrator of everything, locked until the transaction ends."""
    query = (
        select(grants.c.id, grants.c.user)
        .where(grants.c.role == Role.ADMIN, grants.c.project.is_(None))
        .order_by(grants.c.id)
        .with_for_update()
    )
    return [(row.id, row.user) for row in await tx.connection.execute(query)]


async def page(rd: Read, query: ListQuery, visible: frozenset[ProjectId] | None) -> tuple[list[GrantRow], str | None]:
    """Return a page of the grants on the projects among `visible` (None: all, and those on the platform)."""
    statement = _select()
    if visible is not None:
        statement = statement.where(grants.c.project.in_(visible))
    by_id = looks_like_id(query.filters.get("user", ""))
    listed = Listed(
        id=grants.c.id,
        sorts={"created_at": grants.c.created_at},
        filters={"user": grants.c.user if by_id else users.c.name, "role": grants.c.role},
    )
    rows, following = await fetch(rd, statement, query, listed)
    return [load(GrantRow, row) for row in rows], following
