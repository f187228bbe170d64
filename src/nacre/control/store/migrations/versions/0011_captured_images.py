"""Images of disks that were machines'."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Apply."""
    op.add_column("images", sa.Column("captured", sa.Text(), nullable=True))
