"""The table of projects and its queries."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Integer, Table, Text, delete, func, insert, select, update

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.rows import load
from nacre.control.store.types import Labels, Timestamp
from nacre.errors import NacreError
from nacre.model.ids import ProjectId

projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("labels", Labels, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
)

LISTED = Listed(
    id=projects.c.id,
    sorts={"name": projects.c.name, "created_at": projects.c.created_at, "updated_at": projects.c.updated_at},
    filters={"name": projects.c.name},
    labels=projects.c.labels,
)


@dataclass(frozen=True, kw_only=True)
class ProjectRow:
    """A project as stored."""

    id: ProjectId
    name: str
    description: str
    labels: dict[str, str]
    version: int
    created_at: datetime
    updated_at: datetime


async def get(rd: Read, id_or_name: str, *, lock: bool = False) -> ProjectRow | None:
    """Return the project with this id or name; `lock` keeps it from being deleted until the transaction ends."""
    query = select(projects).where((projects.c.id == id_or_name) | (projects.c.name == id_or_name))
    if lock:
        query = query.with_for_update()
    row = (await rd.connection.execute(query)).one_or_none()
    return None if row is None else load(ProjectRow, row)


async def add(tx: Tx, row: ProjectRow, *, taken: NacreError) -> None:
    """Insert a project. Raises `taken` if the name is taken."""
    await insert_unique(tx, insert(projects).values(**vars(row)), taken=taken)


async def save(tx: Tx, row: ProjectRow) -> None:
    """Store what may change of a project."""
    await tx.connection.execute(
        update(projects)
        .where(projects.c.id == row.id)
        .values(description=row.description, labels=row.labels, version=row.version, updated_at=row.updated_at)
    )


async def remove(tx: Tx, project: ProjectId) -> None:
    """Delete a project that holds nothing."""
    await tx.connection.execute(delete(projects).where(projects.c.id == project))


async def contents(rd: Read, project: ProjectId) -> dict[str, int]:
    """Count what a project holds, by noun."""
    counts: dict[str, int] = {}
    # By name, because their modules import this one.
    for noun in ("vms", "images", "templates", "instance_types", "volumes"):
        table = metadata.tables[noun]
        query = select(func.count()).select_from(table).where(table.c.project == project)
        counts[noun] = (await rd.connection.execute(query)).scalar_one()
    return counts


async def page(rd: Read, query: ListQuery, visible: frozenset[ProjectId] | None) -> tuple[list[ProjectRow], str | None]:
    """Return a page of the projects among `visible` (None: all)."""
    statement = select(projects)
    if visible is not None:
        statement = statement.where(projects.c.id.in_(visible))
    rows, following = await fetch(rd, statement, query, LISTED)
    return [load(ProjectRow, row) for row in rows], following
