"""The table of moves and its queries: each takes one machine off one node, and perhaps to another.

A machine is in at most one move that has not ended, which a unique index sees to.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Index, Table, Text, text

from nacre.control.store.db import metadata
from nacre.control.store.types import Choice, Timestamp
from nacre.model.ids import DrainId, MoveId, NodeId, ProjectId, VmId
from nacre.model.moves import MoveReason, MoveState

moves = Table(
    "moves",
    metadata,
    Column("id", Text, primary_key=True),
    Column("vm", Text, nullable=False),
    Column("vm_name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("reason", Choice(MoveReason), nullable=False),
    Column("state", Choice(MoveState), nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text),
    Column("pinned", Text),
    Column("drain", Text),
    Column("message", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Column("ended_at", Timestamp),
    Index(
        "uq_moves_vm",
        "vm",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("ix_moves_drain", "drain"),
    Index("ix_moves_source_ended_at", "source", "ended_at"),
    Index("ix_moves_target_ended_at", "target", "ended_at"),
)


@dataclass(frozen=True, kw_only=True)
class MoveRow:
    """A move as stored."""

    id: MoveId
    vm: VmId
    vm_name: str
    project: ProjectId
    reason: MoveReason
    state: MoveState
    source: NodeId
    target: NodeId | None = None
    """Where it goes. What it needs is reserved there from when the target is chosen until it is placed there."""
    pinned: NodeId | None = None
    """The only target that was asked for; None leaves that to the scheduler."""
    drain: DrainId | None = None
    message: str = ""
    """What is waited for, or why it ended as it did."""
    created_by: str
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
