"""Pages of a list: filters, labels, sorting, and a cursor that survives inserts. Used by the `list_` of every noun.

A cursor is the sort key and the id of the last row shown, so no row is skipped or shown twice when others come or go.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Float, Integer, Row, Select, and_, or_

from nacre.control.store.db import Read
from nacre.control.store.types import Choice, Timestamp
from nacre.errors import InvalidInputError
from nacre.schema.common import DEFAULT_PAGE

_CURSOR = msgspec.json.Decoder(tuple[str, str | int | float, str])


@dataclass(frozen=True, kw_only=True)
class ListQuery:
    """What a caller asks of a list."""

    limit: int = DEFAULT_PAGE
    cursor: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    filters: Mapping[str, str] = field(default_factory=dict[str, str])
    sort: str | None = None
    """A field, with `-` before it for descending."""
    project: str | None = None
    """Name or id."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a noun's list can be filtered and sorted by. Sort columns must not be NULL."""

    id: ColumnElement[str]
    sorts: Mapping[str, ColumnElement[Any]]
    """The first is the default."""
    filters: Mapping[str, ColumnElement[Any]] = field(default_factory=dict[str, ColumnElement[Any]])
    labels: ColumnElement[Any] | None = None


async def fetch(
    rd: Read, statement: Select[Any], query: ListQuery, listed: Listed
) -> tuple[list[Row[Any]], str | None]:
    """Run `statement` (already restricted to what the caller may see) and return a page of rows and the next cursor.

    The rows carry `page_key` and `page_id` after the columns of `statement`. Raises InvalidInputError.
    """
    name, descending = _sort(query, listed)
    key = listed.sorts[name]
    statement = statement.add_columns(key.label("page_key"), listed.id.label("page_id"))
    statement = _filtered(statement, query, listed)
    if query.cursor is not None:
        statement = statement.where(_after(query, name, descending, key, listed.id))
    order = (key.desc(), listed.id.desc()) if descending else (key.asc(), listed.id.asc())
    rows = (await rd.connection.execute(statement.order_by(*order).limit(query.limit + 1))).all()
    shown = list(rows[: query.limit])
    last = shown[-1] if len(rows) > query.limit else None
    return shown, None if last is None else _encode(_spelled(name, descending), last.page_key, last.page_id)


def _sort(query: ListQuery, listed: Listed) -> tuple[str, bool]:
    asked = query.sort or next(iter(listed.sorts))
    name = asked.removeprefix("-")
    if name not in listed.sorts:
        raise InvalidInputError(
            "invalid_sort",
            f"cannot sort by {name!r}",
            hint=f"sort by one of: {', '.join(listed.sorts)}; with - before it for descending",
            field="sort",
        )
    return name, asked.startswith("-")


def _spelled(name: str, descending: bool) -> str:
    return f"-{name}" if descending else name


def _filtered(statement: Select[Any], query: ListQuery, listed: Listed) -> Select[Any]:
    for name, value in query.filters.items():
        if name not in listed.filters:
            raise InvalidInputError(
                "invalid_filter",
                f"cannot filter by {name!r}",
                hint=f"filter by one of: {', '.join(listed.filters) or 'nothing'}",
                field=name,
            )
        column = listed.filters[name]
        if isinstance(column.type, Choice) and value not in column.type.values:
            known = ", ".join(column.type.values)
            raise InvalidInputError("invalid_filter", f"no {name} is {value!r}", hint=f"one of: {known}", field=name)
        statement = statement.where(column == value)
    if query.labels and listed.labels is None:
        raise InvalidInputError("invalid_filter", "these have no labels", hint="leave the labels out", field="label")
    for label, value in query.labels.items():
        if listed.labels is not None:
            statement = statement.where(listed.labels[label].as_string() == value)
    return statement


def _after(
    query: ListQuery, name: str, descending: bool, key: ColumnElement[Any], id_: ColumnElement[str]
) -> ColumnElement[bool]:
    spelled, raw, last = _decode(query.cursor or "")
    if spelled != _spelled(name, descending) or "\0" in f"{raw}{last}":
        raise _bad_cursor()
    value = _from_wire(raw, key)
    beyond = key < value if descending else key > value
    tie = id_ < last if descending else id_ > last
    return or_(beyond, and_(key == value, tie))


def _from_wire(raw: str | float, key: ColumnElement[Any]) -> Any:
    """A cursor comes from the client, who may have made it up: only what the column can hold gets through."""
    kind = key.type
    try:
        match raw:
            case str() if isinstance(kind, Timestamp):
                return datetime.fromisoformat(raw).astimezone(UTC)
            case str() if isinstance(kind, Choice):
                return kind.kind(raw)
            case str() if kind.python_type is str and not isinstance(kind, Timestamp | Choice):
                return raw
            case int() if isinstance(kind, Integer) and abs(raw) < _largest(kind):
                return raw
            case int() | float() if isinstance(kind, Float):
                return float(raw)
            case _:
                raise _bad_cursor()
    except (ValueError, OverflowError) as error:
        raise _bad_cursor() from error


def _largest(kind: Integer) -> int:
    return 1 << (63 if isinstance(kind, BigInteger) else 31)


def _encode(sort: str, key: object, id_: str) -> str:
    wire = key.isoformat() if isinstance(key, datetime) else key
    return base64.urlsafe_b64encode(msgspec.json.encode([sort, wire, id_])).decode().rstrip("=")


def _decode(cursor: str) -> tuple[str, str | int | float, str]:
    try:
        return _CURSOR.decode(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise _bad_cursor() from error


def _bad_cursor() -> InvalidInputError:
    return InvalidInputError(
        "invalid_cursor",
        "the cursor is not one of this list",
        hint="use `next` of the page before, with the same sort, or start without a cursor",
        field="cursor",
    )


__all__ = ["ListQuery", "Listed", "fetch"]
