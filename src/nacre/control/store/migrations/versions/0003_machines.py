"""What the images of machines are made of, beside the machines."""
# pyright: basic

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply."""
    # Empty for machines that are there already: nothing is known, and nothing is asked of a node for it.
    op.add_column("vms", sa.Column("image_roles", sa.Text(), nullable=False, server_default=""))
