"""Where the files of one machine's Firecracker are, for the host and for its process. Used by `driver`. Blocks.

The process works in the machine's run directory, or in the root of its jail, and knows everything by names relative to
it (`config`). The agent always goes through the run directory: a jail is a symbolic link in it. What is put in place is
taken away again when the process is proven dead.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import folders, ids
from nacre.agent.hypervisors.firecracker.config import (
    API_SOCKET,
    DISKS,
    INITRD,
    KERNEL,
    LOG,
    METRICS,
    SAVED_MEMORY,
    SAVED_STATE,
    Placed,
)
from nacre.agent.hypervisors.firecracker.jail import Jail
from nacre.agent.hypervisors.firecracker.metrics import CUT_AT, Sums, collect
from nacre.agent.hypervisors.launch import Launch
from nacre.model.convergence import FailureClass
from nacre.model.hardware import ConsoleMode

CONSOLE_SOCKET = "console.sock"
CONSOLE_INPUT = "console.in"
CONSOLE_LOG = "console.log"
SUMS = "metrics.sums"

# The longest path of a unix socket, without the closing zero (unix(7)).
MAX_SOCKET_PATH = 107

_JAIL = "jail"
_LAST_WORDS = 4096
_MADE = (API_SOCKET, CONSOLE_SOCKET, CONSOLE_INPUT, LOG, METRICS, SUMS, _JAIL)
_PLACED = (KERNEL, INITRD, SAVED_STATE, SAVED_MEMORY)
# Becomes the process: a folder to work in, what is typed (kept open for writing too, so that it never ends), and a log
# for what the console prints, to which is only ever appended.
_OPEN = 'cd "$1" && exec <>"$2" >>"$3" && shift 3 && exec "$@"'
# A jailer closes all but the first three descriptors. So the lock, which is the first of those that it inherits here,
# becomes its standard error, and what it says there is moved from the lock file to the log by `words_to`.
_OPEN_JAILED = 'cd "$1" && exec <>"$2" >>"$3" 2>&3 && shift 3 && exec "$@"'


@dataclass(frozen=True)
class Places:
    """The paths of one machine."""

    run: Path
    console_log: Path
    jail: Jail | None = None

    @classmethod
    def of(cls, launch: Launch, jail: Jail | None = None) -> "Places":
        """Return those of a machine that starts, in a jail or not."""
        return cls(launch.run_directory, launch.directory / CONSOLE_LOG, jail)

    @classmethod
    def found(cls, launch: Launch) -> "Places":
        """Return those of a machine that may run already. Only a link of ours is believed."""
        link = launch.run_directory / _JAIL
        ours = link.is_symlink() and link.lstat().st_uid == os.geteuid()
        return cls.of(launch, Jail(link.readlink()) if ours else None)

    @property
    def work(self) -> Path:
        """The folder that the process works in, as the host knows it."""
        return self.run if self.jail is None else self.jail.root

    @property
    def api(self) -> Path:
        """Socket of its API."""
        return self.run / API_SOCKET

    @property
    def console_socket(self) -> Path:
        """Socket of the console, which the agent makes."""
        return self.run / CONSOLE_SOCKET

    @property
    def console_input(self) -> Path:
        """Pipe to the console."""
        return self.run / CONSOLE_INPUT

    def last_words(self) -> bytes:
        """The end of what Firecracker itself has logged in this life; nothing if there is no log (any more)."""
        try:
            with folders.held(self.work) as work, folders.opened(work, LOG) as file:
                return os.pread(file, _LAST_WORDS, max(0, os.fstat(file).st_size - _LAST_WORDS))
        except OSError:  # whatever is there instead, it is no log
            return b""

    def counted(self) -> Sums:
        """What it has counted. One at a time. Raises OSError."""
        with folders.held(self.work) as work, folders.opened(work, METRICS, os.O_RDWR) as file:
            return collect(file, self.run / SUMS)

    def tidy(self) -> None:
        """Keep what Firecracker writes in bounds: its log and its counters, which are added up. Raises OSError."""
        self.counted()
        with folders.held(self.work) as work, folders.opened(work, LOG, os.O_RDWR) as file:
            size = os.fstat(file).st_size
            if os.fstat(file).st_blocks * 512 > CUT_AT:
                # It goes on where it was; what is before becomes a hole, which takes no room.
                end = os.pread(file, _LAST_WORDS, max(0, size - _LAST_WORDS))
                os.ftruncate(file, 0)
                os.pwrite(file, end, max(0, size - _LAST_WORDS))

    def grow(self, disk: str, size_bytes: int) -> int:
        """Make the file of a disk longer, and return how long it was. A block device stays as it is. Raises OSError."""
        with folders.held(self.work, DISKS) as disks:
            name = ids.device(disk)
            if self.jail is None:
                name = os.readlink(name, dir_fd=disks)
            if not stat.S_ISREG(os.stat(name, dir_fd=disks, follow_symlinks=False).st_mode):
                return 0
            with folders.opened(disks, name, os.O_RDWR) as file:
                before = os.fstat(file).st_size
                if before < size_bytes:
                    os.ftruncate(file, size_bytes)
                return before

    def prepare(self, placed: Sequence[Placed]) -> None:
        """Put everything in place. Raises DriverError, OSError."""
        if len(str(self.console_socket).encode()) > MAX_SOCKET_PATH:
            raise DriverError(
                "path_too_long",
                "the path of the machine's sockets is longer than the system allows",
                hint="give the agent a shorter run_dir in its configuration",
                failure_class=FailureClass.BLOCKED,
            )
        self.clean()
        if self.jail is not None:
            self.jail.make()
            (self.run / _JAIL).symlink_to(self.jail.root)
            self.api.symlink_to(self.jail.root / API_SOCKET)
        (self.work / DISKS).mkdir()
        (self.work / DISKS).chmod(0o755)  # ours, and read by the process's user
        for each in placed:
            self.put(each)
        with folders.held(self.work) as work:
            for name in (LOG, METRICS):
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=work))
                if self.jail is not None:
                    self.jail.give(work, name)
        os.mkfifo(self.console_input, 0o600)
        self.console_log.touch(0o600)
        if self.jail is not None:
            self.jail.lend(self.console_input, self.console_log)

    def put(self, placed: Placed) -> None:
        """Put one file where the process finds it, in place of what was there. Raises DriverError, OSError."""
        *above, name = placed.name.split("/")
        with folders.held(self.work, *above) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            if self.jail is not None:
                self.jail.link(placed, folder, name)
            else:
                os.symlink(placed.source, name, dir_fd=folder)

    def take(self, disk: str) -> None:
        """Take away the file of a disk that the process has let go of."""
        with folders.held(self.work, DISKS) as folder, contextlib.suppress(FileNotFoundError):
            os.unlink(ids.device(disk), dir_fd=folder)

    def words_to(self, log: Path, lock_fd: int) -> None:
        """Move what a jailer has said, and could only say to the lock file, to a log."""
        if self.jail is None:
            return
        said = os.pread(lock_fd, _LAST_WORDS, 0)
        if said:
            with log.open("ab") as file:
                file.write(said)
            os.ftruncate(lock_fd, 0)

    def clean(self) -> None:
        """Take everything away. Only when the process is dead, or has never been."""
        if self.jail is not None:
            self.jail.remove()
        for name in (*_MADE, *_PLACED):
            (self.run / name).unlink(missing_ok=True)
        disks = self.run / DISKS
        if disks.exists():
            shutil.rmtree(disks)

    def command(self, launch: Launch, binary: str, *, pci: bool, jailer: str) -> list[str]:
        """Return the command line. The lock is the first descriptor that it inherits."""
        serial = launch.devices.serial is ConsoleMode.SOCKET
        words = ["--api-sock", API_SOCKET, "--log-path", LOG, "--level", "Info", "--metrics-path", METRICS]
        if pci:
            words.append("--enable-pci")
        closed = self.jail if self.jail is not None and self.jail.closed else None
        opening = ["/bin/sh", "-c", _OPEN if closed is None else _OPEN_JAILED, "firecracker"]
        opening += [str(self.work if closed is None else self.run)]
        opening += [str(self.console_input) if serial else os.devnull, str(self.console_log)]
        name = ids.machine(launch.vm)
        if closed is None:
            return [*opening, binary, "--id", name, *words]
        return [*opening, *closed.command(jailer, binary, name), "--", *words]
