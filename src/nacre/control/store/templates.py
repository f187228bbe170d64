"""The tables of templates and of their revisions, and their queries.

The newest revision is in the row of the template as well. A revision that was written is never changed.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Select,
    Table,
    Text,
    UniqueConstraint,
    delete,
    insert,
    or_,
    select,
    update,
)

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.projects import projects as owners
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Labels, Model, Timestamp
from nacre.errors import NacreError
from nacre.model.ids import ProjectId, TemplateId
from nacre.model.images import Visibility
from nacre.schema.vms import VmConfig

templates = Table(
    "templates",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("labels", Labels, nullable=False),
    Column("visibility", Choice(Visibility), nullable=False),
    Column("config", Model(VmConfig), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    UniqueConstraint("project", "name"),
    Index("ix_templates_visibility_name", "visibility", "name"),
)

revisions = Table(
    "template_revisions",
    metadata,
    Column("template", Text, ForeignKey("templates.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("config", Model(VmConfig), nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    PrimaryKeyConstraint("template", "revision"),
)

LISTED = Listed(
    id=templates.c.id,
    sorts={"name": templates.c.name, "created_at": templates.c.created_at, "updated_at": templates.c.updated_at},
    filters={"name": templates.c.name, "visibility": templates.c.visibility},
    labels=templates.c.labels,
)


@dataclass(frozen=True, kw_only=True)
class TemplateRow:
    """A template as stored, in its newest revision."""

    id: TemplateId
    project: ProjectId
    name: str
    description: str
    labels: dict[str, str]
    visibility: Visibility
    config: VmConfig
    revision: int
    created_by: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class TemplateView(TemplateRow):
    """A template with the name that is shown beside it."""

    project_name: str


@dataclass(frozen=True, kw_only=True)
class RevisionRow:
    """What a template said at one time."""

    template: TemplateId
    revision: int
    config: VmConfig
    created_by: str
    created_at: datetime


async def get(rd: Read, template: str, *, lock: bool = False) -> TemplateRow | None:
    """Return the template with this id; `lock` keeps it as it is until the transaction ends."""
    query = select(templates).where(templates.c.id == template)
    row = (await rd.connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return None if row is None else load(TemplateRow, row)


async def view(rd: Read, template: TemplateId) -> TemplateView:
    """Return a template that exists, with the name of its project."""
    return load(TemplateView, (await rd.connection.execute(_views().where(templates.c.id == template))).one())


async def named(rd: Read, name: str, projects: Collection[str] | None) -> list[TemplateRow]:
    """Return the templates with this name in these projects (None: all), and the public ones elsewhere."""
    query = select(templates).where(templates.c.name == name)
    if projects is not None:
        there = templates.c.project.in_(list(projects))
        query = query.where(or_(there, templates.c.visibility == Visibility.PUBLIC))
    rows = (await rd.connection.execute(query.order_by(templates.c.id))).all()
    return [load(TemplateRow, row) for row in rows]


async def add(tx: Tx, row: TemplateRow, *, taken: NacreError) -> None:
    """Insert a template with its first revision. Raises `taken` if the name is taken in its project."""
    await insert_unique(tx, insert(templates).values(**vars(row)), taken=taken)
    await _keep(tx, row, by=row.created_by)


async def save(tx: Tx, row: TemplateRow, *, by: str) -> None:
    """Store the next revision of a template that this transaction has locked."""
    fixed = {"id", "project", "name", "created_by", "created_at"}
    values = {key: value for key, value in vars(row).items() if key not in fixed}
    await tx.connection.execute(update(templates).where(templates.c.id == row.id).values(**values))
    await _keep(tx, row, by=by)


async def remove(tx: Tx, template: TemplateId) -> None:
    """Delete a template with its revisions. Machines that were made from it are not touched."""
    await tx.connection.execute(delete(revisions).where(revisions.c.template == template))
    await tx.connection.execute(delete(templates).where(templates.c.id == template))


async def revision(rd: Read, template: TemplateId, number: int) -> RevisionRow | None:
    """Return what a template said in one revision."""
    query = select(revisions).where(revisions.c.template == template, revisions.c.revision == number)
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(RevisionRow, row)


async def history(rd: Read, template: TemplateId, query: ListQuery) -> tuple[list[RevisionRow], str | None]:
    """Return a page of the revisions of a template."""
    # The number is unique in this list, so nothing else is needed to tell rows apart; the id of a page is a text.
    listed = Listed(id=revisions.c.template, sorts={"revision": revisions.c.revision})
    rows, following = await fetch(rd, select(revisions).where(revisions.c.template == template), query, listed)
    return [load(RevisionRow, row) for row in rows], following


async def page(rd: Read, query: ListQuery, visible: Collection[str] | None) -> tuple[list[TemplateView], str | None]:
    """Return a page of the templates of the projects among `visible` (None: all), and of the public ones."""
    statement = _views()
    if visible is not None:
        there = templates.c.project.in_(list(visible))
        statement = statement.where(or_(there, templates.c.visibility == Visibility.PUBLIC))
    rows, following = await fetch(rd, statement, query, LISTED)
    return [load(TemplateView, row) for row in rows], following


async def _keep(tx: Tx, row: TemplateRow, *, by: str) -> None:
    await tx.connection.execute(
        insert(revisions).values(
            template=row.id, revision=row.revision, config=row.config, created_by=by, created_at=row.updated_at
        )
    )


def _views() -> Select[Any]:
    return select(templates, owners.c.name.label("project_name")).select_from(templates.join(owners))
