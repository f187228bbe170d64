"""Checkpoints of machines, and machines that are made from them."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("vm", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("memory", sa.Boolean(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=True),
        sa.Column("consistency", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("disk_bytes", sa.BigInteger(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("taken_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("protected", sa.Boolean(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["vm"], ["vms.id"], name=op.f("fk_checkpoints_vm")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("vm", "name", name=op.f("uq_checkpoints_vm_name")),
    )
    op.create_table(
        "checkpoint_volumes",
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("volume", sa.Text(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("delete_with_vm", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint"], ["checkpoints.id"], name=op.f("fk_checkpoint_volumes_checkpoint")),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name=op.f("fk_checkpoint_volumes_volume")),
        sa.PrimaryKeyConstraint("checkpoint", "volume", name=op.f("pk_checkpoint_volumes")),
    )
    op.create_index("ix_checkpoint_volumes_volume", "checkpoint_volumes", ["volume"], unique=False)
    op.add_column("vms", sa.Column("applied_restore_nonce", sa.Integer(), server_default="0", nullable=False))
    op.add_column("vms", sa.Column("restore", sa.Text(), nullable=True))
    op.add_column("vms", sa.Column("source", sa.Text(), nullable=True))
    op.add_column("vms", sa.Column("checkpoints", sa.Integer(), server_default="0", nullable=False))
