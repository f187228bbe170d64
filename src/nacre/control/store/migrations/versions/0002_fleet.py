"""Node wishes, leases, moves, drains, copies and the scheduling policy."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "copies",
        sa.Column("vm", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("vm_name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("vm", "fence", name=op.f("pk_copies")),
    )
    op.create_index("ix_copies_node", "copies", ["node"], unique=False)
    op.create_table(
        "drains",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("node_name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("wish_before", sa.Text(), nullable=False),
        sa.Column("wish_after", sa.Text(), nullable=False),
        sa.Column("parallel", sa.Integer(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("deadline", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drains")),
    )
    op.create_index("ix_drains_node", "drains", ["node"], unique=False)
    op.create_index(
        "uq_drains_node",
        "drains",
        ["node"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "moves",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("vm", sa.Text(), nullable=False),
        sa.Column("vm_name", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("pinned", sa.Text(), nullable=True),
        sa.Column("drain", sa.Text(), nullable=True),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_moves")),
    )
    op.create_index("ix_moves_drain", "moves", ["drain"], unique=False)
    op.create_index("ix_moves_source_ended_at", "moves", ["source", "ended_at"], unique=False)
    op.create_index("ix_moves_target_ended_at", "moves", ["target", "ended_at"], unique=False)
    op.create_index(
        "uq_moves_vm",
        "moves",
        ["vm"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "scheduling",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheduling")),
    )
    # What is there already gets the value that means "as before".
    op.add_column("enrolments", sa.Column("uses", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("enrolments", sa.Column("used", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE enrolments SET used = 1 WHERE used_at IS NOT NULL")
    op.add_column("nodes", sa.Column("wish", sa.Text(), nullable=False, server_default="active"))
    op.execute("UPDATE nodes SET wish = 'cordoned' WHERE cordoned")
    op.drop_column("nodes", "cordoned")
    op.add_column("nodes", sa.Column("taints", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("nodes", sa.Column("enrolment", sa.Text(), nullable=False, server_default=""))
    op.add_column("nodes", sa.Column("tenure", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("nodes", sa.Column("renewals", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("lease_s", sa.Float(), nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("reliability", sa.Text(), nullable=True))
    op.add_column("nodes", sa.Column("revision", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("vms", sa.Column("fence", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("vms", sa.Column("moving", sa.Text(), nullable=True))
    op.add_column("vms", sa.Column("ha_since", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("vms", sa.Column("priority", sa.Integer(), nullable=False, server_default="100"))
    op.add_column("vms", sa.Column("decision", sa.Text(), nullable=True))
    op.add_column("vms", sa.Column("nominated", sa.Text(), nullable=True))
