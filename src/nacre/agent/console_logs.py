"""Console logs: files that hypervisors append to, read at their end and kept in bounds. Used by `consoles`. Blocks."""

import contextlib
import os
from pathlib import Path

LOG_LIMIT = 4 << 20
LOG_KEPT = 1 << 20
_COMPARED = 64


def size(path: Path) -> int:
    """Return the size of a log; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def tail(path: Path, most: int) -> bytes:
    """Return the last bytes of a log. Raises FileNotFoundError."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read(most)


def since(path: Path, offset: int, most: int) -> tuple[bytes, int]:
    """Return what a log holds from `offset` on, `most` bytes of it from its end, and where it ends."""
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            begin = max(offset, end - most, 0)
            file.seek(begin)
            content = file.read(max(0, end - begin))
            return content, begin + len(content)
    except FileNotFoundError:
        return b"", 0


def trim(path: Path, limit: int = LOG_LIMIT, kept: int = LOG_KEPT) -> int:
    """Shorten a log that has outgrown `limit` to its last `kept` bytes, from the next line on.

    Returns by how much everything in it has moved towards its beginning. In place, because the hypervisor has the file
    open and appends to it. What it appends in the instant between reading and cutting is lost. One that writes on where
    it was leaves a hole, which takes no room and does not count.
    """
    before = size(path)
    if before <= limit:
        return 0
    with path.open("r+b") as file:
        if before - _hole(file.fileno()) <= limit:
            return 0
        file.seek(before - kept)
        content = file.read()
        end = before - kept + len(content)
        content = content[content.find(b"\n") + 1 :]
        file.seek(0)
        file.write(content)
        file.flush()
        file.truncate()
    return end - len(content)


def trim_others(console_log: Path) -> None:
    """Shorten what else is written about a machine, beside its console log: nobody reads these, so they may move."""
    for path in console_log.parent.glob("*.log"):
        if path != console_log:
            with contextlib.suppress(FileNotFoundError):
                trim(path)


def _hole(file: int) -> int:
    """Return how much of a file is the first hole in it."""
    end = os.fstat(file).st_size
    begin = os.lseek(file, 0, os.SEEK_HOLE)
    return 0 if begin >= end else os.lseek(file, begin, os.SEEK_DATA) - begin


def joined(stored: bytes, heard: bytes) -> bytes:
    """Join what was stored with what was heard, which begins with what the stored part ends with. Pure."""
    first = heard[:_COMPARED]
    at = stored.find(first) if heard else -1
    while at >= 0:
        if heard.startswith(stored[at:]) or stored[at:].startswith(heard):
            return stored[:at] + max(stored[at:], heard, key=len)
        at = stored.find(first, at + 1)
    for length in range(min(len(stored), len(first)), 0, -1):
        if stored.endswith(first[:length]):
            return stored + heard[length:]
    return stored + heard
