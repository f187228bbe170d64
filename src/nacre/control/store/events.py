"""The table of events and its queries. Only ever added to; the cursor is in the order of commits."""

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, Table, Text

from nacre.control.store.db import metadata
from nacre.control.store.types import Timestamp

events = Table(
    "events",
    metadata,
    Column("cursor", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Timestamp, nullable=False),
    Column("type", Text, nullable=False),
    Column("actor_kind", Text, nullable=False),
    Column("actor_id", Text, nullable=False),
    Column("actor_name", Text, nullable=False),
    Column("noun", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("object_name", Text, nullable=False),
    Column("project", Text),
    Column("message", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Index("ix_events_object_id_cursor", "object_id", "cursor"),
    Index("ix_events_project_cursor", "project", "cursor"),
    sqlite_autoincrement=True,
)
