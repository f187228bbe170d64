"""Console logs: files that hypervisors append to, read at their end and kept in bounds. Used by `consoles`. Blocks."""

import os
from pathlib import Path

LOG_LIMIT = 4 << 20
LOG_KEPT = 1 << 20
_COMPARED = 16 << 10


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


def trim(path: Path, limit: int = LOG_LIMIT, kept: int = LOG_KEPT) -> bool:
    """Shorten a log that has outgrown `limit` to its last `kept` bytes, from the next line on. True if it was.

    In place, because the hypervisor has the file open and appends to it. What it appends in the instant between reading
    and cutting is lost.
    """
    if size(path) <= limit:
        return False
    with path.open("r+b") as file:
        file.seek(-kept, os.SEEK_END)
        content = file.read()
        content = content[content.find(b"\n") + 1 :]
        file.seek(0)
        file.write(content)
        file.flush()
        file.truncate()
    return True


def overlap(seen: bytes, data: bytes) -> int:
    """Return how many bytes `data` begins with that `seen` ends with. Pure."""
    for length in range(min(len(seen), len(data), _COMPARED), 0, -1):
        if seen.endswith(data[:length]):
            return length
    return 0
