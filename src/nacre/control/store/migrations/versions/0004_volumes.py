"""Pools, volumes, their snapshots and attachments."""
# pyright: basic

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "pools",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("nodes", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pools")),
        sa.UniqueConstraint("name", name=op.f("uq_pools_name")),
    )
    op.create_table(
        "pool_reports",
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("seen", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name=op.f("fk_pool_reports_node"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["pool"], ["pools.id"], name=op.f("fk_pool_reports_pool"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pool", "node", name=op.f("pk_pool_reports")),
    )
    op.create_table(
        "volumes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("delete_requested_by", sa.Text(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("restore_nonce", sa.Integer(), nullable=False),
        sa.Column("restore_snapshot", sa.Text(), nullable=True),
        sa.Column("observed_generation", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("seen_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("applied_restore_nonce", sa.Integer(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name=op.f("fk_volumes_node")),
        sa.ForeignKeyConstraint(["pool"], ["pools.id"], name=op.f("fk_volumes_pool")),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_volumes_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volumes")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_volumes_project_name")),
    )
    op.create_index("ix_volumes_node", "volumes", ["node"], unique=False)
    op.create_index("ix_volumes_pool", "volumes", ["pool"], unique=False)
    op.create_table(
        "snapshots",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("protected", sa.Boolean(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name=op.f("fk_snapshots_volume")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("volume", "name", name=op.f("uq_snapshots_volume_name")),
    )
    op.create_table(
        "attachments",
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("vm", sa.Text(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("read_only", sa.Boolean(), nullable=False),
        sa.Column("delete_with_vm", sa.Boolean(), nullable=False),
        sa.Column("leaving", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["vm"], ["vms.id"], name=op.f("fk_attachments_vm")),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name=op.f("fk_attachments_volume")),
        sa.PrimaryKeyConstraint("volume", name=op.f("pk_attachments")),
        sa.UniqueConstraint("vm", "slot", name=op.f("uq_attachments_vm_slot")),
    )
    op.add_column("vms", sa.Column("tie", sa.Text(), nullable=True))
    # The pool that every node has, in its agent's own folder.
    op.execute(
        "INSERT INTO pools (id, name, kind, path, shared, nodes, version, created_at, updated_at) "
        "VALUES ('pool-00000000000000000000000000', 'local', 'directory', '', false, '[]', 1, 0, 0)"
    )
