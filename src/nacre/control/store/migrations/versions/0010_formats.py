"""How volumes are kept: those that there are in folders as qcow2, those in clusters raw."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Apply."""
    op.add_column("volumes", sa.Column("format", sa.Text(), server_default="qcow2", nullable=False))
    op.execute("UPDATE volumes SET format = 'raw' WHERE pool IN (SELECT id FROM pools WHERE kind = 'ceph')")
