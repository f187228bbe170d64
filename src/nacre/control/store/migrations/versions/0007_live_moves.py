"""Moves of machines that run: how a move is made, and the streams by which machines go."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "move_streams",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("move", sa.Text(), nullable=False),
        sa.Column("vm", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("arrival", sa.Text(), nullable=False),
        sa.Column("addresses", sa.JSON(), nullable=False),
        sa.Column("arrival_message", sa.Text(), nullable=False),
        sa.Column("sending", sa.Text(), nullable=False),
        sa.Column("sending_message", sa.Text(), nullable=False),
        sa.Column("transferred_bytes", sa.BigInteger(), nullable=False),
        sa.Column("remaining_bytes", sa.BigInteger(), nullable=False),
        sa.Column("downtime_ms", sa.Float(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_move_streams")),
    )
    op.create_index("ix_move_streams_move", "move_streams", ["move"], unique=False)
    # Moves and drains that are under way stop and start their machines, as they were told.
    op.add_column("moves", sa.Column("method", sa.Text(), nullable=False, server_default="restart"))
    op.add_column("moves", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("moves", sa.Column("stream", sa.Text(), nullable=True))
    op.add_column("moves", sa.Column("ordered", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("moves", sa.Column("stopped_because", sa.Text(), nullable=False, server_default=""))
    op.add_column("moves", sa.Column("bandwidth_bytes", sa.BigInteger(), nullable=True))
    op.add_column("moves", sa.Column("downtime_ms", sa.Integer(), nullable=True))
    op.add_column("drains", sa.Column("method", sa.Text(), nullable=False, server_default="restart"))
    op.add_column("vms", sa.Column("arrived_by", sa.Text(), nullable=True))
