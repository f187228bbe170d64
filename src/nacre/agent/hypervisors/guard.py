"""The program that holds the hypervisor of one machine with a lease: when the lease ends, it freezes the guest.

Run as `python -I -S guard.py LEASE STATUS -- ARGV...` by `guarding.py`. Standard library only and little of it, because
there is one for every such machine. It needs no agent: that may be stopped, killed or replaced meanwhile.

LEASE is a file `DEADLINE BOOT`, replaced by renaming: until when (nanoseconds of CLOCK_BOOTTIME, which counts time
asleep and which nobody sets) and in which boot of the host the guest may run. A lease that cannot be read has ended.
STATUS is a descriptor on which is written `PID START` of the hypervisor, then `E ERRNO` if it could not be run; or `L`
if too little is left of the lease to start it. When nothing more can be written to it, the hypervisor runs. Descriptors
from 3 up to STATUS go to the hypervisor, and none of them is kept, because one holds its lock.

The kernel ends the hypervisor (PR_SET_PDEATHSIG) when the guard dies, whatever it died of; the guard ends when the
hypervisor does, with its exit code. It is deaf to signals that ask it to end: who wants to end a machine ends the
hypervisor.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

TYPE_CHECKING = False  # `typing` would cost more memory than all the rest
if TYPE_CHECKING:
    from typing import NoReturn

LEASE_MISSING = 75
"""Exit code: nothing was started, because the lease has ended or is about to."""
NOT_RUN = 127
"""Exit code: the hypervisor could not be executed."""
BY_SIGNAL = 128
"""Exit codes from here on: the hypervisor was ended by the signal of this number more."""
LEAST_LEFT_NS = 2_000_000_000
"""A guest is not started with less than this left of its lease."""
LEAST_TO_THAW_NS = 500_000_000
"""A guest is not thawed with less than this left: we may have to wait between looking at the clock and thawing."""

_LOOK_S = 0.5
_LOOK_FROZEN_S = 0.1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TIMER_ABSTIME = 1  # time.h
_LOCK_WHAT_IS_USED = 1 | 4  # MCL_CURRENT | MCL_ONFAULT, linux/mman.h
_HEARD = (signal.SIGCHLD, signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_BOOT = "/proc/sys/kernel/random/boot_id"


class Lease:
    """Until when the guest may run."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._boot = _read(_BOOT)

    def deadline(self) -> int:
        """Return when it ends by `now`; 0 if it cannot be read or is of another boot."""
        deadline, _, boot = _read(self._path).partition(" ")
        return int(deadline) if deadline.isdecimal() and boot and boot == self._boot else 0

    def may_start(self) -> bool:
        """Whether enough is left to start a guest."""
        return self.deadline() - now() >= LEAST_LEFT_NS


class Timer:
    """Makes SIGALRM come at a time of CLOCK_BOOTTIME, exactly, also when the host has slept meanwhile."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        self._libc = libc
        self._id = ctypes.c_void_p()
        # Without a sigevent the signal is SIGALRM (timer_create(2)). Should there be no timer, looking often has to do.
        self._made = not libc.timer_create(time.CLOCK_BOOTTIME, None, ctypes.byref(self._id))
        self._at = 0

    def set(self, at: int) -> None:
        """Ring at this time; at once if it is over."""
        if self._made and at != self._at:
            # struct itimerspec: interval and value, each seconds and nanoseconds; a value of zero would disarm it.
            spec = (ctypes.c_long * 4)(0, 0, at // 10**9, max(1, at % 10**9))
            self._libc.timer_settime(self._id, _TIMER_ABSTIME, ctypes.byref(spec), None)
            self._at = at


def now() -> int:
    """Nanoseconds since the host booted, those asleep too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def main(words: list[str]) -> int:
    """Run the hypervisor under its lease and return the exit code."""
    path, status, _, *argv = words
    libc = ctypes.CDLL(None)
    lease = Lease(path)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    if not lease.may_start():
        _say(int(status), "L\n")
        return LEASE_MISSING
    child = _start(argv, int(status), lease, libc)
    libc.mlockall(
        _LOCK_WHAT_IS_USED
    )  # if it may: on a host that is out of memory, no waiting for a disk at the deadline
    return _hold(child, lease, Timer(libc))


def _start(argv: list[str], status: int, lease: Lease, libc: ctypes.CDLL) -> int:
    """Start the hypervisor, tell who it is, and let go of what belongs to it."""
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        os.set_inheritable(status, False)
        _become(argv, status, lease, guard, libc)
    _say(status, f"{child} {_start_time(child)}\n")
    for descriptor in range(3, status + 1):
        os.close(descriptor)
    return child


def _become(argv: list[str], status: int, lease: Lease, guard: int, libc: ctypes.CDLL) -> NoReturn:
    """Turn this child into the hypervisor, if the lease still lasts when nothing but that is left to do."""
    code = NOT_RUN
    try:
        os.setsid()
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() == guard:  # else it died before its death could mean anything
            if lease.may_start():
                os.execvp(argv[0], argv)  # noqa: S606
            code = LEASE_MISSING
            _say(status, "L\n")
    except OSError as error:
        _say(status, f"E {error.errno}\n")
    finally:
        os._exit(code)


def _hold(child: int, lease: Lease, timer: Timer) -> int:
    """Freeze and thaw the hypervisor as its lease says, until it ends; return the exit code that says how."""
    frozen = True  # so that it is thawed once, which does no harm and has all that freezing takes in memory
    while True:
        deadline = lease.deadline()
        left = deadline - now()
        if left <= 0:
            # Every time: somebody may have sent it SIGCONT, which wakes us as SIGCHLD.
            os.kill(child, signal.SIGSTOP)
        elif frozen and left >= LEAST_TO_THAW_NS:
            os.kill(child, signal.SIGCONT)
            frozen = False
        frozen = frozen or left <= 0
        if not frozen:
            timer.set(deadline)
        signal.sigtimedwait(_HEARD, _LOOK_FROZEN_S if frozen else min(_LOOK_S, left / 10**9))
        done, status = os.waitpid(child, os.WNOHANG)
        if done == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else BY_SIGNAL - code


def _start_time(pid: int) -> str:
    """Field 22 of its stat (proc(5)). It cannot vanish before we take note of its end."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]


def _say(status: int, text: str) -> None:
    try:
        os.write(status, text.encode())
    except OSError:
        return  # the agent has died meanwhile; another one finds the guest by its sockets


def _read(path: str) -> str:
    """Return the beginning of a file, empty if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 1024).decode("ascii", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
