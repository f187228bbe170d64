"""The table of API tokens and its queries. Of a secret only its SHA-256 is here."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, ForeignKey, Index, Select, Table, Text, delete, insert, or_, select, text, update

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.projects import projects
from nacre.control.store.rows import load
from nacre.control.store.types import Model, Timestamp
from nacre.control.store.users import users
from nacre.errors import NacreError
from nacre.model.ids import ProjectId, TokenId, UserId, looks_like_id

_LIVE = text("revoked_at IS NULL")

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("user", Text, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("digest", Text, nullable=False),
    Column("actions", Model(tuple[str, ...]), nullable=False),
    Column("project", Text, ForeignKey("projects.id", ondelete="CASCADE")),
    Column("created_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp, nullable=False),
    Column("last_used_at", Timestamp),
    Column("revoked_at", Timestamp),
    Index("ix_tokens_project", "project"),
    Index("uq_tokens_user_name", "user", "name", unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE),
)


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """A token as stored, with the names of its user and project."""

    id: TokenId
    name: str
    user: UserId
    user_name: str
    digest: str
    actions: tuple[str, ...]
    project: ProjectId | None
    project_name: str | None
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def _select() -> Select[Any]:
    joined = tokens.join(users, users.c.id == tokens.c.user).outerjoin(projects, projects.c.id == tokens.c.project)
    names = (users.c.name.label("user_name"), projects.c.name.label("project_name"))
    return select(tokens, *names).select_from(joined)


async def get(rd: Read, token: str) -> TokenRow | None:
    """Return a token by id."""
    row = (await rd.connection.execute(_select().where(tokens.c.id == token))).one_or_none()
    return None if row is None else load(TokenRow, row)


async def named(rd: Read, user: UserId, name: str) -> TokenRow | None:
    """Return the token of a user with this name, unless it is revoked."""
    query = _select().where(tokens.c.user == user, tokens.c.name == name, _LIVE)
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(TokenRow, row)


async def add(tx: Tx, row: TokenRow, *, taken: NacreError) -> None:
    """Insert a token. Raises `taken` if its user has one of this name that is not revoked."""
    values = {name: value for name, value in vars(row).items() if name not in {"user_name", "project_name"}}
    await insert_unique(tx, insert(tokens).values(**values), taken=taken)


async def revoke(tx: Tx, token: TokenId) -> None:
    """Make a token useless; the first time counts."""
    await tx.connection.execute(update(tokens).where(tokens.c.id == token, _LIVE).values(revoked_at=tx.now()))


async def touch(tx: Tx, token: TokenId, every: timedelta) -> None:
    """Record that a token is in use, unless that was recorded less than `every` ago."""
    now = tx.now()
    stale = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at <= now - every)
    await tx.connection.execute(update(tokens).where(tokens.c.id == token, stale).values(last_used_at=now))


async def page(
    rd: Read, query: ListQuery, *, user: UserId | None, project: ProjectId | None
) -> tuple[list[TokenRow], str | None]:
    """Return a page of the tokens of `user` (None: of all) that are bound to `project` (None: wherever)."""
    statement = _select()
    if user is not None:
        statement = statement.where(tokens.c.user == user)
    if project is not None:
        statement = statement.where(tokens.c.project == project)
    by_id = looks_like_id(query.filters.get("user", ""))
    listed = Listed(
        id=tokens.c.id,
        sorts={"created_at": tokens.c.created_at, "name": tokens.c.name, "expires_at": tokens.c.expires_at},
        filters={"name": tokens.c.name, "user": tokens.c.user if by_id else users.c.name},
    )
    rows, following = await fetch(rd, statement, query, listed)
    return [load(TokenRow, row) for row in rows], following


async def forget(tx: Tx, before: datetime) -> int:
    """Delete tokens that expired or were revoked before `before`."""
    dead = or_(tokens.c.expires_at < before, tokens.c.revoked_at < before)
    return (await tx.connection.execute(delete(tokens).where(dead))).rowcount
