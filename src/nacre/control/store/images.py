"""The table of images and its queries, with what is known of each artifact on its way in.

An image is work for the reconciler when `work_at` has come. Claiming it moves `work_at` to the end of the claim, so a
claim whose holder died is due again by itself; every later write names the claim and does nothing if it was lost.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
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
    func,
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
from nacre.model.ids import ImageId, ProjectId
from nacre.model.images import Artifact, Capture, Format, ImageDefaults, ImageState, Role, Visibility


class Origin(StrEnum):
    """Where an artifact comes from."""

    UPLOAD = "upload"
    URL = "url"
    PATH = "path"
    IMAGE = "image"  # another image has it
    CHECKPOINT = "checkpoint"  # the root disk of a machine, on its node


class Stage(StrEnum):
    """How far an artifact is."""

    RECEIVING = "receiving"
    CONVERTING = "converting"  # all bytes are here, verified, and in a format that nodes do not take
    DONE = "done"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact, from what was asked for to what it became. Never shown as it is: `location` may be a signed URL."""

    role: Role
    origin: Origin
    location: str = ""
    sha256: str | None = None
    """What the caller says that it must be."""
    size_bytes: int | None = None
    """What the caller says that it must be."""
    format: Format | None = None
    """What the caller says that it must be; while converting, what it is."""
    stage: Stage = Stage.RECEIVING
    received_bytes: int = 0
    """So many bytes are on the disk for good."""
    best_bytes: int = 0
    """How far any try came: what is less is no progress."""
    total_bytes: int | None = None
    """What the source has announced."""
    validator: str = ""
    """The source's name for this version of the file, to resume by."""
    progress_at: datetime | None = None
    artifact: Artifact | None = None
    """Set when done."""


images = Table(
    "images",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("labels", Labels, nullable=False),
    Column("visibility", Choice(Visibility), nullable=False),
    Column("state", Choice(ImageState), nullable=False),
    Column("kernel_args", Text, nullable=False),
    Column("defaults", Model[ImageDefaults](ImageDefaults), nullable=False),
    Column("captured", Model(Capture)),
    Column("parts", Model[tuple[Part, ...]](tuple[Part, ...]), nullable=False),
    Column("error_code", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("work_at", Timestamp),
    Column("claim", Text),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    UniqueConstraint("project", "name"),
    Index("ix_images_work_at", "work_at"),
    Index("ix_images_visibility_name", "visibility", "name"),
)

LISTED = Listed(
    id=images.c.id,
    sorts={"name": images.c.name, "created_at": images.c.created_at, "updated_at": images.c.updated_at},
    filters={"name": images.c.name, "state": images.c.state, "visibility": images.c.visibility},
    labels=images.c.labels,
)


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """An image as stored."""

    id: ImageId
    project: ProjectId
    name: str
    labels: dict[str, str]
    visibility: Visibility
    state: ImageState
    kernel_args: str
    defaults: ImageDefaults
    captured: Capture | None = None
    """The checkpoint that its disk is of, if it is of one."""
    parts: tuple[Part, ...]
    error_code: str
    error: str
    hint: str
    generation: int
    version: int
    attempts: int
    work_at: datetime | None
    claim: str | None
    created_by: str
    created_at: datetime
    updated_at: datetime

    def part(self, role: Role) -> Part | None:
        """Return the artifact with this role, if the image is to have one."""
        return next((part for part in self.parts if part.role is role), None)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """What has arrived and was verified."""
        return tuple(part.artifact for part in self.parts if part.artifact is not None)


@dataclass(frozen=True, kw_only=True)
class ImageView(ImageRow):
    """An image with the name that is shown beside it."""

    project_name: str


async def get(rd: Read, image: str, *, lock: bool = False) -> ImageRow | None:
    """Return the image with this id; `lock` keeps it as it is until the transaction ends."""
    query = select(images).where(images.c.id == image)
    row = (await rd.connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return None if row is None else load(ImageRow, row)


async def hold(tx: Tx, image: str) -> ImageRow | None:
    """Return the image with this id and keep it from being deleted until the transaction ends."""
    query = select(images).where(images.c.id == image).with_for_update(read=True)
    row = (await tx.connection.execute(query)).one_or_none()
    return None if row is None else load(ImageRow, row)


async def view(rd: Read, image: ImageId) -> ImageView:
    """Return an image that exists, with the name of its project."""
    return load(ImageView, (await rd.connection.execute(_views().where(images.c.id == image))).one())


async def many(rd: Read, ids: Collection[str]) -> list[ImageRow]:
    """Return those of these images that exist."""
    rows = (await rd.connection.execute(select(images).where(images.c.id.in_(list(ids))))).all()
    return [load(ImageRow, row) for row in rows]


async def captured(rd: Read, ids: Collection[str]) -> set[ImageId]:
    """Return those of these images whose disk was a machine's."""
    query = select(images.c.id).where(images.c.id.in_(list(ids)), images.c.captured.is_not(None))
    return {ImageId(image) for image in (await rd.connection.execute(query)).scalars()}


async def coming_from(rd: Read, checkpoints: Collection[str]) -> list[ImageRow]:
    """Return the images that are still being made from one of these checkpoints."""
    query = select(images).where(images.c.state == ImageState.FETCHING, images.c.captured.is_not(None))
    rows = [load(ImageRow, row) for row in await rd.connection.execute(query.order_by(images.c.id))]
    return [row for row in rows if row.captured is not None and row.captured.checkpoint in checkpoints]


async def named(rd: Read, name: str, projects: Collection[str] | None, *, public: bool = True) -> list[ImageRow]:
    """Return the images with this name in these projects (None: all), and with `public` the public ones elsewhere."""
    query = select(images).where(images.c.name == name)
    if projects is not None:
        there = images.c.project.in_(list(projects))
        query = query.where(or_(there, images.c.visibility == Visibility.PUBLIC) if public else there)
    rows = (await rd.connection.execute(query.order_by(images.c.id))).all()
    return [load(ImageRow, row) for row in rows]


async def add(tx: Tx, row: ImageRow, *, taken: NacreError) -> None:
    """Insert an image. Raises `taken` if the name is taken in its project."""
    await insert_unique(tx, insert(images).values(**vars(row)), taken=taken)


async def save(tx: Tx, row: ImageRow) -> None:
    """Store all that may change of an image that this transaction has locked."""
    fixed = {"id", "project", "name", "created_by", "created_at"}
    values = {key: value for key, value in vars(row).items() if key not in fixed}
    await tx.connection.execute(update(images).where(images.c.id == row.id).values(**values))


async def remove(tx: Tx, image: ImageId) -> None:
    """Delete the row of an image whose files are gone."""
    await tx.connection.execute(delete(images).where(images.c.id == image))


async def page(rd: Read, query: ListQuery, visible: Collection[str] | None) -> tuple[list[ImageView], str | None]:
    """Return a page of the images of the projects among `visible` (None: all), and of the public ones."""
    statement = _views()
    if visible is not None:
        there = images.c.project.in_(list(visible))
        statement = statement.where(or_(there, images.c.visibility == Visibility.PUBLIC))
    rows, following = await fetch(rd, statement, query, LISTED)
    return [load(ImageView, row) for row in rows], following


async def claim_due(tx: Tx, states: Collection[ImageState], claim: str, until: datetime) -> ImageRow | None:
    """Claim the image in one of `states` whose work has waited longest. None if nothing is due."""
    due = (
        select(images.c.id)
        .where(images.c.work_at <= tx.now(), images.c.state.in_(list(states)))
        .order_by(images.c.work_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    image = (await tx.connection.execute(due)).scalar_one_or_none()
    if image is None:
        return None
    await tx.connection.execute(update(images).where(images.c.id == image).values(claim=claim, work_at=until))
    return await get(tx, image)


async def renew(tx: Tx, image: str, claim: str, until: datetime) -> bool:
    """Keep a claim for longer. False if it was lost."""
    statement = update(images).where(images.c.id == image, images.c.claim == claim).values(work_at=until)
    return (await tx.connection.execute(statement)).rowcount > 0


async def next_work(rd: Read) -> datetime | None:
    """Return when the next work is due, None if there is none. Also the end of each claim counts."""
    return (await rd.connection.execute(select(func.min(images.c.work_at)))).scalar_one()


async def idle_uploads(rd: Read, since: datetime) -> list[ImageId]:
    """Return the uploads of which nothing has been heard since then."""
    query = select(images.c.id).where(images.c.state == ImageState.UPLOADING, images.c.updated_at < since)
    return [ImageId(image) for image in (await rd.connection.execute(query)).scalars()]


def _views() -> Select[Any]:
    return select(images, owners.c.name.label("project_name")).select_from(images.join(owners))
