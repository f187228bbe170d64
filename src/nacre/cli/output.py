"""Results on stdout: tables for people, JSON and YAML for programs.

The programs' form is exactly what the API answers. Tables carry no control characters that came from elsewhere.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

import msgspec

from nacre.cli.exits import one_line
from nacre.cli.session import Session

T = TypeVar("T")

_COLOURS = {
    "running": "green",
    "ready": "green",
    "succeeded": "green",
    "crashed": "red",
    "failed": "red",
    "offline": "red",
    "unknown": "red",
    "stopped": "dim",
    "superseded": "dim",
    "cancelled": "dim",
}
_UNITS = ((86400 * 2, 86400, "d"), (3600 * 2, 3600, "h"), (60 * 2, 60, "m"), (0, 1, "s"))


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of a table: its title and how to get its text from an object."""

    title: str
    text: Callable[[T], str]


def items(
    session: Session, objects: Sequence[T], columns: Sequence[Column[T]], *, empty: str, narrowed: bool = False
) -> None:
    """Print a list. `empty` is said on stderr when there is nothing for a table, and of a `narrowed` list only that."""
    if session.output != "table":
        document(session, list(objects))
    elif not objects:
        print("nothing here matches the filter" if narrowed else empty, file=sys.stderr)
    else:
        table([c.title for c in columns], [[c.text(item) for c in columns] for item in objects])


def details(session: Session, objects: Sequence[T], facts: Callable[[T], Sequence[tuple[str, str]]]) -> None:
    """Print one object, or several after one another, with all facts about each."""
    if session.output != "table":
        document(session, objects[0] if len(objects) == 1 else list(objects))
        return
    for index, item in enumerate(objects):
        if index:
            print()
        pairs = [(name, text) for name, text in facts(item) if text]
        width = max((len(name) for name, _ in pairs), default=0)
        for name, text in pairs:
            lines = [one_line(line) for line in text.split("\n")]
            print(f"{name:<{width}}  " + f"\n{'':<{width}}  ".join(lines))


def outcome(session: Session, objects: Sequence[T], sentence: Callable[[T], str]) -> None:
    """Print what a change led to: a sentence each for people, the API's answer for programs."""
    if session.output != "table":
        document(session, objects[0] if len(objects) == 1 else list(objects))
        return
    for item in objects:
        print(one_line(sentence(item)))


def document(session: Session, value: object) -> None:
    """Print `value` as JSON or YAML."""
    if session.output == "yaml":
        import yaml

        print(yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False, allow_unicode=True), end="")
    else:
        print(msgspec.json.format(msgspec.json.encode(value)).decode())


def line(value: object) -> str:
    """Return `value` as JSON on one line, for streams."""
    return msgspec.json.encode(value).decode()


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: as wide as needed into a pipe, fitted to the window on a terminal."""
    clean = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _fitted(titles, clean)
        return
    widths = [max(len(text) for text in column) for column in zip(titles, *clean, strict=True)]
    for row in (titles, *clean):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _fitted(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        drawn.add_column(title, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    Console(highlight=False).print(drawn)


def age(then: datetime | None, *, now: datetime | None = None) -> str:
    """Return how long ago something was: `45s`, `12m`, `3d`; `-` for never."""
    if then is None:
        return "-"
    seconds = max(0, int(((now or datetime.now(UTC)) - then).total_seconds()))
    return next(f"{seconds // unit}{name}" for least, unit, name in _UNITS if seconds >= least)


def moment(then: datetime | None) -> str:
    """Return a time of day as people read it, in their zone; empty for never."""
    return "" if then is None else then.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def pairs(labels: dict[str, str]) -> str:
    """Return labels on one line."""
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
