"""Write the draft of a revision: what is between the newest revision and the tables as `store` now declares them.

For developers: `python -m nacre.control.store.migrations.draft "adds this and that"`. To be read before it is kept:
a renamed column looks like one dropped and one added. Never run by the product.
"""

import argparse
import textwrap
from typing import Any, Literal

from alembic.autogenerate import produce_migrations, render_python_code
from alembic.operations.ops import UpgradeOps
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, create_engine
from sqlalchemy.types import TypeDecorator

from nacre.control.store.migrations import FOLDER, upgrade
from nacre.control.store.tables import metadata

_TEMPLATE = '''"""{title}."""
# pyright: basic

import sqlalchemy as sa
from alembic import op
{imports}
revision = "{revision}"
down_revision = {down_revision}


def upgrade() -> None:
    """Apply."""
{body}
'''


def draft(message: str) -> str | None:
    """Return the source of the next revision, None if there is nothing to change."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        _, head = upgrade(connection)
        options: dict[str, Any] = {"compare_type": True, "target_metadata": metadata, "render_item": _render_item}
        context = MigrationContext.configure(connection, opts=options)
        changes = produce_migrations(context, metadata).upgrade_ops
        if changes is None or changes.is_empty():
            return None
        body = _code(changes, context)
    engine.dispose()
    return _TEMPLATE.format(
        title=message[:1].upper() + message[1:],
        imports="from sqlalchemy.dialects import postgresql\n" if "postgresql." in body else "",
        revision=f"{int(head or 0) + 1:04}",
        down_revision=f'"{head}"' if head else None,
        body=textwrap.indent(body, "    "),
    )


def _code(changes: UpgradeOps, context: MigrationContext) -> str:
    rendered = render_python_code(changes, render_item=_render_item, migration_context=context)
    return textwrap.dedent("\n".join(line for line in rendered.splitlines() if not line.lstrip().startswith("#")))


def _render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Spell our column types as what they are in the database: a revision must not change when the code does."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{type(item.impl_instance).__name__}()"
    if kind == "type" and isinstance(item, JSON) and item._variant_mapping:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return 'sa.JSON().with_variant(postgresql.JSONB(), "postgresql")'
    return False


def main() -> None:
    """Write the next revision into `versions`."""
    parser = argparse.ArgumentParser(description="Draft the next revision of the database schema.")
    parser.add_argument("message", help="what it does, in a few words")
    message = parser.parse_args().message
    source = draft(message)
    if source is None:
        print("nothing to do: the revisions lead to the tables as they are")  # noqa: T201
        return
    number = int(ScriptDirectory(FOLDER).get_current_head() or 0) + 1
    slug = "".join(c if c.isalnum() else "_" for c in message.lower())[:40].strip("_")
    path = FOLDER / "versions" / f"{number:04}_{slug}.py"
    path.write_text(source)
    print(f"wrote {path}; read it, then run the tests of control/store")  # noqa: T201


if __name__ == "__main__":
    main()
