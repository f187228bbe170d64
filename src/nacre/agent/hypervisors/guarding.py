"""The agent's side of guards: starting a hypervisor under one, finding the guard of one that runs, and leases as files.

Called by drivers, which start the same command line with a guard or without, and by the host's keeper of leases. What a
guard does is in `guard.py`.
"""

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nacre.agent.hypervisors import guard as program
from nacre.agent.hypervisors.base import Guard
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Confinement, Launch
from nacre.lib import processes
from nacre.lib.processes import Process
from nacre.model.convergence import FailureClass

LEASE_MISSING = "lease_missing"
"""Code of the failure of a machine that must not be started without a lease."""
PROGRAM = Path(program.__file__)
LEAST_LEFT_S = program.LEAST_LEFT_NS / 1e9
"""With less than this left of its lease, a guest is not started."""
FOREVER = float(1 << 60)
"""A deadline for a guest that needs no lease any more, in seconds. So far off that it is not read as exactly this."""

_BEGUN_S = 15.0
_END_S = 2.0


class Guarded(Process):
    """A hypervisor under a guard that we started. The guard knows how it ended and is waited for as well."""

    def __init__(self, pid: int, started: int, held_by: Process) -> None:
        super().__init__(pid, started, processes.descriptor_of(pid, started))
        self.guard = held_by

    async def wait(self, timeout: float | None = None) -> bool:
        """Return True when it and its guard have ended, False after `timeout` seconds."""
        if not await super().wait(timeout):
            return False
        ended = await self.guard.wait(_END_S if timeout is None else timeout)
        self.reap()
        return ended

    def reap(self) -> None:
        """Take the exit status from the guard."""
        self.guard.reap()
        if self.guard.exit_status is not None:
            self.exit_status = _status(self.guard.exit_status)

    def close(self) -> None:
        """Let go of both."""
        super().close()
        self.guard.close()


def obstacle() -> str:
    """Say why guests cannot be guarded on this host; empty if they can."""
    if sys.platform != "linux":
        return "guests can be guarded on Linux only, because elsewhere they would outlive their guard"
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "prctl") or not hasattr(libc, "timer_create"):
        return "the host's C library lacks prctl or timer_create"
    return ""


async def spawn(
    argv: Sequence[str],
    *,
    lease: Path | None,
    output: Path,
    inherit: Sequence[int] = (),
    user: Confinement | None = None,
) -> Process:
    """Start a hypervisor, under a guard if there is a `lease` file, as another `user` if one is given.

    Otherwise as `processes.spawn`. Raises OSError if it cannot be run and DriverError (`lease_missing`) if its lease
    has ended; then nothing runs.
    """
    if lease is None:
        return processes.spawn([*_become(user), *argv], output=output, inherit=inherit)
    if why := obstacle():
        raise DriverError(
            "guard_unavailable",
            f"the machine needs a guard: {why}",
            hint="set it to ha none, or place it on another node",
            failure_class=FailureClass.BLOCKED,
        )
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        identity = "" if user is None else f"{user.uid}:{user.gid}:{','.join(map(str, user.groups))}"
        words = [sys.executable, "-I", "-S", str(PROGRAM), str(lease), str(3 + len(inherit)), identity, "--", *argv]
        held_by = processes.spawn(words, output=output, inherit=[*inherit, writing])
        os.close(writing)
        writing = -1
        return await _begun(held_by, reading)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def _become(user: Confinement | None) -> list[str]:
    """Return the words that make a program run as a user, without a way back (setpriv(1))."""
    if user is None:
        return []
    groups = ["--groups", ",".join(map(str, user.groups))] if user.groups else ["--clear-groups"]
    return ["setpriv", "--reuid", str(user.uid), "--regid", str(user.gid), *groups, "--no-new-privs", "--"]


def guard_of(process: Process) -> Guard | None:
    """Return the guard that holds a process; None if it has none."""
    above = processes.parent(process.pid, process.start_time)
    if above is None or sys.platform != "linux":
        return None
    try:
        words = Path(f"/proc/{above.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    # Not by its whole path: the guest may be of before an upgrade that has put us elsewhere.
    if words[1:3] != [b"-I", b"-S"] or not words[3].endswith(os.fsencode(f"/{PROGRAM.parent.name}/{PROGRAM.name}")):
        return None
    return Guard(pid=above.pid, start_time=above.start_time, lease=Path(os.fsdecode(words[4])))


def is_frozen(process: Process, guard: Guard | None) -> bool:
    """Whether a guarded process stands still."""
    return guard is not None and processes.is_stopped(process.pid, process.start_time)


def is_for(guard: Guard | None, launch: Launch) -> bool:
    """Whether a guard holds the machine of `launch`, going by its lease. For guests that are frozen and cannot say."""
    return guard is not None and launch.lease is not None and guard.lease == launch.lease


def read_lease(path: Path) -> float:
    """Return until when a lease lasts, in seconds of `Clock.boottime`; 0 if there is none."""
    return program.Lease(str(path)).deadline() / 1e9


def is_forever(path: Path) -> bool:
    """Whether a lease never ends."""
    return read_lease(path) > FOREVER / 2


def write_lease(path: Path, deadline: float) -> None:
    """Replace a lease. Raises OSError."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(f"{int(deadline * 1e9)} {processes.boot_id()}\n")
    draft.replace(path)


def lease_missing() -> DriverError:
    """Return the error for a machine that must not be started, because its node may have been given up."""
    return DriverError(
        LEASE_MISSING,
        "the node has no lease to run the machine, so it may run elsewhere",
        hint="it starts by itself as soon as the node's control plane has granted one",
        failure_class=FailureClass.WAITING,
    )


async def _begun(held_by: Process, reading: int) -> Process:
    """Return the hypervisor once it runs, or has run."""
    try:
        words = (await _heard(reading)).split()
        if "L" in words:
            raise lease_missing()
        if "E" in words:
            number = int(words[words.index("E") + 1])
            raise OSError(number, os.strerror(number))
        if not words:
            raise DriverError(
                "guard_failed",
                "the guard of the machine ended before it had started anything",
                hint="the node keeps its last words in hypervisor.log in the machine's directory",
            )
        return Guarded(int(words[0]), int(words[1]), held_by)
    except BaseException:
        await asyncio.shield(_abandon(held_by, reading))
        raise


async def _heard(reading: int) -> str:
    """Read what the guard says until the hypervisor runs or nothing will. Raises DriverError if that takes too long."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(reading, readable.set)
    said = b""
    try:
        async with asyncio.timeout(_BEGUN_S):
            while True:
                await readable.wait()
                readable.clear()
                try:
                    part = os.read(reading, 256)
                except BlockingIOError:
                    continue
                said += part
                if not part:
                    return said.decode()
    except TimeoutError as error:
        raise DriverError(
            "guard_silent", "the guard of the machine does not begin", hint="it is tried again; is the node overloaded?"
        ) from error
    finally:
        loop.remove_reader(reading)


async def _abandon(held_by: Process, reading: int) -> None:
    """End a guard, and return when what it may have started has ended with it."""
    await held_by.kill()
    held_by.close()
    with contextlib.suppress(DriverError):
        words = (await _heard(reading)).split()
        started = Process.open(int(words[0]), int(words[1])) if len(words) >= 2 else None
        if started is not None:
            await started.wait(_END_S)
            started.close()


def _status(code: int) -> int:
    return program.BY_SIGNAL - code if code > program.BY_SIGNAL else code
