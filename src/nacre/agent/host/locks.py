"""Locks of machines: one file each, locked by the hypervisor's own process for as long as it lives.

The agent takes the lock, hands the open descriptor down to the process that it starts, and closes its own. So whoever
cannot take the lock knows that there is a process, whatever the records say: it must be adopted, never started again.
"""

import fcntl
import os
from pathlib import Path

from nacre.errors import ConflictError
from nacre.lib import processes


def take(path: Path) -> int:
    """Return a descriptor that holds the lock at `path`, whose folder exists. Raises ConflictError if it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConflictError(
            "machine_locked",
            "a process of the machine is still there and cannot be reached",
            hint="it is looked for again by itself; on the node, `fuser` on the machine's lock file names the process",
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock."""
    if not path.exists():
        return True
    try:
        os.close(take(path))
    except ConflictError:
        return False
    return True


def holders(path: Path) -> list[tuple[int, int]]:
    """Name the processes that have the lock file open (pid and start time), ourselves aside. Linux only; else empty."""
    found: list[tuple[int, int]] = []
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return found
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        started = processes.start_time(pid)
        if pid != os.getpid() and started is not None and _has_open(entry, wanted):
            found.append((pid, started))
    return found


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        for link in (process / "fd").iterdir():
            facts = link.stat()
            if (facts.st_dev, facts.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return False
