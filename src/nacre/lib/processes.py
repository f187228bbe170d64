"""Processes that outlive us: named without doubt, watched, ended, and started on their own feet.

Called by the agent and its drivers, and by `nacre up`. A pid alone names nothing (the kernel hands it out again);
pid + start time + boot id names one process for ever. Never matches by name, never signals what it has not verified.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_LINUX = sys.platform == "linux"
_NO_PROCESS = (errno.ESRCH, errno.ENOENT, errno.EINVAL)
"""What pidfd_open(2) says of a number that is free, or that a thread has by now: newer kernels, older kernels."""
_POLL_S = 0.05  # only where there are no pidfds (macOS)
_DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Python ignores the first two; whoever started us may have had us ignore the others (nohup(1), `&` in a script)."""


@cache
def boot_id() -> str:
    """Name this boot of the host. Another value means: every process from before is gone."""
    if _LINUX:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"boot-{int(psutil.boot_time())}"


def start_time(pid: int) -> int | None:
    """Return when `pid` started (clock ticks since boot), None if there is no such process. Zombies have one too."""
    stat = _stat(pid)
    return stat.start_time if stat else None


def is_alive(pid: int, started: int) -> bool:
    """Whether exactly this process still runs. A zombie is dead: it holds no memory, files or locks any more."""
    stat = _stat(pid)
    return stat is not None and stat.start_time == started and stat.state not in "ZX"


def is_stopped(pid: int, started: int) -> bool:
    """Whether exactly this process stands still, as after SIGSTOP."""
    stat = _stat(pid)
    return stat is not None and stat.start_time == started and stat.state == "T"


def owner(pid: int) -> int | None:
    """Return the user that a process runs as; None if there is no such process, or no telling here."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def parent(pid: int, started: int) -> "Peer | None":
    """Return the process that started exactly this one, or that took it over since; None if either is gone."""
    stat = _stat(pid)
    if stat is None or stat.start_time != started:
        return None
    above = _stat(stat.parent)
    return None if above is None else Peer(pid=stat.parent, start_time=above.start_time)


def descriptor_of(pid: int, started: int) -> int | None:
    """Return a pidfd of exactly this process, ended or not; None if it is forgotten, or where there are no pidfds."""
    if not _LINUX:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except (OverflowError, ValueError):
        return None
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise
    # Checked after the pidfd is held: from here on the pid cannot come to mean anything else unnoticed.
    if start_time(pid) == started:
        return pidfd
    os.close(pidfd)
    return None


class Process:
    """One verified process, held by a pidfd: whatever is sent arrives there or nowhere.

    Made by `Process.open`. The process need not be a child; if it is one, waiting for it also reaps it.
    """

    def __init__(self, pid: int, started: int, pidfd: int | None) -> None:
        self.pid = pid
        self.start_time = started
        self.exit_status: int | None = None
        """After `wait`, for a child: its exit code, or minus the signal that ended it. None if nobody can know."""
        self._pidfd = pidfd

    @classmethod
    def open(cls, pid: int, started: int) -> Self | None:
        """Take hold of a process; None if it is gone, dead, or the pid means another one by now."""
        process = cls(pid, started, descriptor_of(pid, started))
        if not is_alive(pid, started):
            process.reap()
            process.close()
            return None
        return process

    def alive(self) -> bool:
        """Whether it still runs."""
        return is_alive(self.pid, self.start_time)

    def send(self, number: signal.Signals) -> bool:
        """Send a signal. False if the process has ended before."""
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.alive():
                os.kill(self.pid, number)
            else:
                return False
        except ProcessLookupError:
            return False
        return True

    async def wait(self, timeout: float | None = None) -> bool:
        """Return True when it has ended, False after `timeout` seconds. Any number of tasks may wait."""
        try:
            async with asyncio.timeout(timeout):
                await self._ended()
        except TimeoutError:
            return False
        self.reap()
        return True

    async def kill(self, timeout: float = 10.0) -> bool:
        """End it by SIGKILL and wait. False if it is still there (in an uninterruptible wait of the kernel)."""
        self.send(signal.SIGKILL)
        return await self.wait(timeout)

    def reap(self) -> None:
        """Collect the exit status if this is an ended child. Harmless otherwise."""
        if self.exit_status is not None:
            return
        with contextlib.suppress(ChildProcessError):
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done == self.pid:
                self.exit_status = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Let go. The process is not touched."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def _ended(self) -> None:
        if self._pidfd is None:
            while self.alive():  # noqa: ASYNC110  # there is nothing to wait on here
                await asyncio.sleep(_POLL_S)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        watched = os.dup(self._pidfd)  # a loop knows one callback per descriptor, and several tasks may wait
        try:
            loop.add_reader(watched, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(watched)
        finally:
            os.close(watched)


async def kill(pid: int, started: int, timeout: float = 10.0) -> bool:
    """End exactly this process and return True when it is gone, at once if it was. False if it would not go."""
    process = Process.open(pid, started)
    if process is None:
        return True
    with process:
        return await process.kill(timeout)


async def wait_exit(pid: int, started: int, timeout: float | None = None) -> bool:
    """Return True when exactly this process has ended, at once if it had. False after `timeout` seconds."""
    process = Process.open(pid, started)
    if process is None:
        return True
    with process:
        return await process.wait(timeout)


def spawn(
    argv: Sequence[str],
    *,
    output: Path,
    environment: Mapping[str, str] | None = None,
    inherit: Sequence[int] = (),
) -> Process:
    """Start a program that outlives us: own session, no stdin, output appended to a file.

    It inherits the descriptors in `inherit` (from 3 upwards, in order) and nothing else of ours. Raises OSError.
    """
    actions: list[tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in _leaked()),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # Sources are first lifted above every target, because a dup2 onto itself would leave close-on-exec set.
    lifted = [_lift(fd) for fd in inherit]
    actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + place) for place, fd in enumerate(lifted)]
    try:
        pid = os.posix_spawnp(
            argv[0],
            list(argv),
            dict(os.environ if environment is None else environment),
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=_DEFAULTED,
        )
    finally:
        for fd in lifted:
            os.close(fd)
    # Even if it has ended already, it is our unreaped child and can be asked.
    started = start_time(pid)
    if started is None:
        raise ProcessLookupError(f"process {pid} vanished while it was started")
    return Process(pid, started, os.pidfd_open(pid) if _LINUX else None)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A process, such as the one at the other end of a unix socket, as the kernel says."""

    pid: int
    start_time: int


def peer(connection: socket.socket) -> Peer | None:
    """Return the process at the other end of a connected unix socket; for a client, who listens. None if it is gone."""
    if _LINUX:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = struct.unpack("3i", raw)[0]
    else:
        pid = connection.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID: sys/un.h of macOS
    started = start_time(pid)
    return None if started is None else Peer(pid=pid, start_time=started)


def peer_user(connection: socket.socket) -> int | None:
    """Return who was at the other end of a connected unix socket when it began to listen, or to connect (unix(7)).

    None where that is not known.
    """
    if not _LINUX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


async def listener(path: Path, timeout: float = 1.0) -> Peer | None:
    """Return the process that listens on a unix socket; None if nobody does, or its queue stayed full.

    Makes one connection and drops it, so ask only when nobody else is meant to be served.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                await _connect(loop, probe, path)
        except (OSError, TimeoutError):
            return None
        return peer(probe)


async def _connect(loop: asyncio.AbstractEventLoop, probe: socket.socket, path: Path) -> None:
    while True:
        try:
            await loop.sock_connect(probe, str(path))
        except BlockingIOError:  # a full backlog; unix sockets do not queue
            await asyncio.sleep(0.02)
        else:
            return


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    start_time: int


def _stat(pid: int) -> _Stat | None:
    if not _LINUX:
        return _psutil_stat(pid)
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): the second field is the name in brackets and may itself hold spaces and brackets.
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], parent=int(fields[1]), start_time=int(fields[19]))


def _psutil_stat(pid: int) -> _Stat | None:
    try:
        found = psutil.Process(pid)
        state = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_STOPPED: "T"}.get(found.status(), "S")
        return _Stat(state=state, parent=found.ppid(), start_time=int(found.create_time() * 100))
    except psutil.NoSuchProcess:
        return None


def _lift(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)


def _leaked() -> list[int]:
    """Descriptors that our own parent left open to us and that a child would get too. Python's own are never."""
    found: list[int] = []
    for entry in Path("/proc/self/fd" if _LINUX else "/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            if int(entry.name) > 2 and os.get_inheritable(int(entry.name)):
                found.append(int(entry.name))
    return found
