"""Pools in Ceph clusters: where those are, and the sealed keys to them."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Apply."""
    op.add_column("pools", sa.Column("ceph", sa.Text(), nullable=True))
    op.add_column("pools", sa.Column("sealed", sa.LargeBinary(), nullable=True))
