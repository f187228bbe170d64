"""Progress of long work on stderr: bars and a spinning line on a terminal, silence elsewhere."""

import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from nacre.cli.exits import note, one_line
from nacre.schema.common import OperationOut

Advance = Callable[[int], None]
"""Told how many bytes are done."""
Say = Callable[[str], None]

_PASSING = re.compile(r" \d+%|; tried again at .*")
"""What changes in a reason that stays the same."""


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
        reason = _PASSING.sub("", text)
        if ": waits: " in text and reason not in told:
            told.add(reason)
            note(text)

    return say


def of_operation(operation: OperationOut, why: str = "") -> str:
    """Return an operation in a few words, and what keeps it if that is known."""
    share = f" {operation.progress:.0%}" if operation.progress is not None else ""
    message = operation.message
    if why and not message.startswith("waits: "):
        message = f"waits: {message if why in message else why}"
    return one_line(f"{operation.type} {operation.object_name}{share}{f': {message}' if message else ''}")
