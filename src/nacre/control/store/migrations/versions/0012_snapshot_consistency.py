"""In which state a volume was when a snapshot of it was taken."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Apply."""
    op.add_column("snapshots", sa.Column("consistency", sa.Text(), nullable=True))
