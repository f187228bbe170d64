"""Volumes that are still to be made are found quickly."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_volumes_unmade",
        "volumes",
        ["project"],
        sqlite_where=sa.text("NOT made AND desired = 'present'"),
        postgresql_where=sa.text("NOT made AND desired = 'present'"),
    )
