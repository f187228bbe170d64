"""The table of drains and its queries: each empties one node. Its results are the moves that belong to it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Index, Integer, Table, Text, text

from nacre.control.store.db import metadata
from nacre.control.store.types import Choice, Timestamp
from nacre.model.ids import DrainId, NodeId
from nacre.model.moves import DrainState
from nacre.model.nodes import NodeWish

drains = Table(
    "drains",
    metadata,
    Column("id", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("node_name", Text, nullable=False),
    Column("state", Choice(DrainState), nullable=False),
    Column("wish_before", Choice(NodeWish), nullable=False),
    Column("wish_after", Choice(NodeWish), nullable=False),
    Column("parallel", Integer, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("deadline", Timestamp),
    Column("ended_at", Timestamp),
    Index(
        "uq_drains_node",
        "node",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class DrainRow:
    """A drain as stored."""

    id: DrainId
    node: NodeId
    node_name: str
    state: DrainState
    wish_before: NodeWish
    """What the operator wanted of the node before; an abort goes back to it."""
    wish_after: NodeWish
    """What the node is for once it is empty: cordoned, or in maintenance."""
    parallel: int
    """How many machines may be on their way at once."""
    message: str = ""
    created_by: str
    created_at: datetime
    deadline: datetime | None = None
    """When it gives up."""
    ended_at: datetime | None = None
