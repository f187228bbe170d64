"""The table of instance types and its queries. Those without a project are the platform's."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    Select,
    Table,
    Text,
    UniqueConstraint,
    delete,
    insert,
    or_,
    select,
    text,
    update,
)

from nacre.control.store.conflicts import insert_unique
from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.listing import Listed, ListQuery, fetch
from nacre.control.store.projects import projects as owners
from nacre.control.store.rows import load
from nacre.control.store.types import Labels, Model, Timestamp
from nacre.errors import NacreError
from nacre.model.ids import InstanceTypeId, ProjectId
from nacre.schema.vms import VmConfig

instance_types = Table(
    "instance_types",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id")),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("labels", Labels, nullable=False),
    Column("config", Model(VmConfig), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    UniqueConstraint("project", "name"),
    # NULL is equal to nothing: of the platform's types, this makes the names unique.
    Index(
        "uq_instance_types_name",
        "name",
        unique=True,
        sqlite_where=text("project IS NULL"),
        postgresql_where=text("project IS NULL"),
    ),
)

LISTED = Listed(
    id=instance_types.c.id,
    sorts={
        "name": instance_types.c.name,
        "created_at": instance_types.c.created_at,
        "updated_at": instance_types.c.updated_at,
    },
    filters={"name": instance_types.c.name},
    labels=instance_types.c.labels,
)


@dataclass(frozen=True, kw_only=True)
class InstanceTypeRow:
    """An instance type as stored."""

    id: InstanceTypeId
    project: ProjectId | None
    name: str
    description: str
    labels: dict[str, str]
    config: VmConfig
    revision: int
    created_by: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class InstanceTypeView(InstanceTypeRow):
    """An instance type with the name that is shown beside it."""

    project_name: str | None


async def get(rd: Read, instance_type: str, *, lock: bool = False) -> InstanceTypeRow | None:
    """Return the instance type with this id; `lock` keeps it as it is until the transaction ends."""
    query = select(instance_types).where(instance_types.c.id == instance_type)
    row = (await rd.connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return None if row is None else load(InstanceTypeRow, row)


async def view(rd: Read, instance_type: InstanceTypeId) -> InstanceTypeView:
    """Return an instance type that exists, with the name of its project."""
    query = _views().where(instance_types.c.id == instance_type)
    return load(InstanceTypeView, (await rd.connection.execute(query)).one())


async def named(rd: Read, name: str, project: ProjectId) -> InstanceTypeRow | None:
    """Return the instance type of a project with this name, or else that of the platform."""
    query = (
        select(instance_types)
        .where(instance_types.c.name == name, _of({project}))
        .order_by(instance_types.c.project.is_(None))
    )
    row = (await rd.connection.execute(query.limit(1))).one_or_none()
    return None if row is None else load(InstanceTypeRow, row)


async def add(tx: Tx, row: InstanceTypeRow, *, taken: NacreError) -> None:
    """Insert an instance type. Raises `taken` if the name is taken in its project, or on the platform."""
    await insert_unique(tx, insert(instance_types).values(**vars(row)), taken=taken)


async def save(tx: Tx, row: InstanceTypeRow) -> None:
    """Store what may change of an instance type that this transaction has locked."""
    fixed = {"id", "project", "name", "created_by", "created_at"}
    values = {key: value for key, value in vars(row).items() if key not in fixed}
    await tx.connection.execute(update(instance_types).where(instance_types.c.id == row.id).values(**values))


async def remove(tx: Tx, instance_type: InstanceTypeId) -> None:
    """Delete an instance type. Machines that were made from it are not touched."""
    await tx.connection.execute(delete(instance_types).where(instance_types.c.id == instance_type))


async def page(
    rd: Read, query: ListQuery, visible: Collection[str] | None
) -> tuple[list[InstanceTypeView], str | None]:
    """Return a page of the instance types of the projects among `visible` (None: all), and of the platform's."""
    statement = _views()
    if visible is not None:
        statement = statement.where(_of(visible))
    rows, following = await fetch(rd, statement, query, LISTED)
    return [load(InstanceTypeView, row) for row in rows], following


def _of(projects: Collection[str]) -> Any:
    return or_(instance_types.c.project.in_(list(projects)), instance_types.c.project.is_(None))


def _views() -> Select[Any]:
    query = select(instance_types, owners.c.name.label("project_name"))
    return query.select_from(instance_types.outerjoin(owners))
