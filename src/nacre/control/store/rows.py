"""From a database row to the frozen dataclass of its noun, by the names of its fields. Used by store modules only."""

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Row

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")


def load(kind: type[D], row: Row[Any]) -> D:
    """Return `row` as a `kind`, whose fields are named like columns. Columns without a field are left out."""
    columns = row._mapping  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - public, despite its name
    return kind(**{name: columns[name] for name in _names(kind)})


@cache
def _names(kind: type[D]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
