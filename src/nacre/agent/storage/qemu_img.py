"""`qemu-img` as a function: run with a time limit, its failures in our words. Used by storage drivers."""

import asyncio
import shutil
import sys

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass

CHANGE_S = 120.0
"""For what costs the same whatever the size."""
COPY_S = 6 * 3600.0
"""For what goes through all of a disk."""


_BOUND = ("setpriv", "--pdeathsig", "KILL")
"""Has the kernel end a program with the one that began it. Linux only."""


async def run(program: str, *words: str, limit_s: float = CHANGE_S, bound: bool = False) -> bytes:
    """Run it with these words and return what it printed. Raises DriverError; nothing of it runs on, come what may.

    `bound` is for what nobody goes on with: it ends also when this agent is killed, where the system can do that.
    """
    found = shutil.which(program)
    if found is None:
        raise DriverError(
            "storage_unavailable",
            "qemu-img is not installed on the node",
            hint="install it (Debian, Ubuntu: apt-get install qemu-utils; macOS: brew install qemu)",
            failure_class=FailureClass.BLOCKED,
        )
    before = _BOUND if bound and sys.platform == "linux" and shutil.which(_BOUND[0]) else ()
    process = await asyncio.create_subprocess_exec(
        *before,
        found,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit_s):
            said, errors = await process.communicate()
    except TimeoutError as error:
        raise DriverError(
            "storage_slow",
            f"qemu-img {words[0]} took longer than {limit_s:.0f} s",
            hint="look at the node's storage; it is tried again",
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise _failure(words[0], errors.decode(errors="replace"))
    return said


def _failure(verb: str, text: str) -> DriverError:
    if "No space left" in text:
        return DriverError(
            "storage_full",
            "the node's storage is full",
            hint="free space on the node or add a disk; it is tried again by itself",
        )
    if "lock" in text:
        return DriverError(
            "disk_in_use", "another process uses the disk", hint="stop the machine first; it is tried again by itself"
        )
    return DriverError(
        "storage_failed",
        f"qemu-img {verb} failed on the node",
        hint="look at the node's storage and at the image; it is tried again by itself",
    )
