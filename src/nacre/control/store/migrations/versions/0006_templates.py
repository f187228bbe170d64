"""Templates with their revisions, instance types, and what machines were made from."""
# pyright: basic

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0004"


def upgrade() -> None:
    """Apply."""
    labels = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.create_table(
        "instance_types",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("labels", labels, nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_instance_types_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance_types")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_instance_types_project_name")),
    )
    op.create_index(
        "uq_instance_types_name",
        "instance_types",
        ["name"],
        unique=True,
        sqlite_where=sa.text("project IS NULL"),
        postgresql_where=sa.text("project IS NULL"),
    )
    op.create_table(
        "templates",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("labels", labels, nullable=False),
        sa.Column("visibility", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_templates_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_templates")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_templates_project_name")),
    )
    op.create_index("ix_templates_visibility_name", "templates", ["visibility", "name"], unique=False)
    op.create_table(
        "template_revisions",
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["template"], ["templates.id"], name=op.f("fk_template_revisions_template")),
        sa.PrimaryKeyConstraint("template", "revision", name=op.f("pk_template_revisions")),
    )
    op.add_column("vms", sa.Column("template", sa.Text(), nullable=True))
    op.add_column("vms", sa.Column("instance_type", sa.Text(), nullable=True))
    op.add_column("vms", sa.Column("origins", sa.Text(), nullable=True))
    op.create_index("ix_vms_template", "vms", ["template"], unique=False)
    op.create_index("ix_vms_instance_type", "vms", ["instance_type"], unique=False)
