"""Progress of long work on stderr: bars and a spinning line on a terminal, silence elsewhere."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from nacre.cli.exits import note
from nacre.schema.common import OperationOut

Advance = Callable[[int], None]
"""Told how many bytes are done."""
Say = Callable[[str], None]


def _nothing(_: object) -> None:
    """Show nothing."""


@contextmanager
def bar(label: str, total: int | None) -> Generator[Advance, None, None]:
    """Show bytes done of `total`."""
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with shown:
        task = shown.add_task(label, total=total)
        yield lambda done: shown.update(task, completed=done)


@contextmanager
def spinner(label: str) -> Generator[Say, None, None]:
    """Show that something is going on, and what. Off a terminal only what it waits for is told, once."""
    if not sys.stderr.isatty():
        yield _told_once()
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(label)) as status:
        yield lambda text: status.update(escape(text))


def _told_once() -> Say:
    told: set[str] = set()

    def say(text: str) -> None:
        if ": waits: " in text and text not in told:
            told.add(text)
            note(text)

    return say


def of_operation(operation: OperationOut) -> str:
    """Return an operation in a few words."""
    share = f" {operation.progress:.0%}" if operation.progress is not None else ""
    detail = f": {operation.message}" if operation.message else ""
    return f"{operation.type} {operation.object_name}{share}{detail}"
