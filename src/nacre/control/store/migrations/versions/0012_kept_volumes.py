"""Whether a volume has been there, and in which state it was when a snapshot of it was taken."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Apply."""
    op.add_column("volumes", sa.Column("made", sa.Boolean(), nullable=False, server_default=sa.false()))
    volumes = sa.table("volumes", sa.column("made", sa.Boolean()), sa.column("phase", sa.Text()))
    op.execute(volumes.update().where(volumes.c.phase == "ready").values(made=True))
    op.add_column("snapshots", sa.Column("consistency", sa.Text(), nullable=True))
