"""Where the files of one machine's Firecracker are, for the host and for its process. Used by `driver`. Blocks.

The process works in the machine's run directory, or in the root of its jail, and knows everything by names relative to
it (`config`). The agent always goes through the run directory: a jail is a symbolic link in it. What is put in place is
taken away again when the process is proven dead.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import ids
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
from nacre.agent.hypervisors.launch import Launch
from nacre.model.convergence import FailureClass
from nacre.model.hardware import ConsoleMode

CONSOLE_SOCKET = "console.sock"
CONSOLE_INPUT = "console.in"
CONSOLE_LOG = "console.log"

# The longest path of a unix socket, without the closing zero (unix(7)).
MAX_SOCKET_PATH = 107

_JAIL = "jail"
_MADE = (API_SOCKET, CONSOLE_SOCKET, CONSOLE_INPUT, LOG, METRICS, f"{METRICS}.sums", _JAIL)
_PLACED = (KERNEL, INITRD, SAVED_STATE, SAVED_MEMORY)
# Becomes the process: a folder to work in, what is typed (kept open for writing too, so that it never ends), and a log
# for what the console prints, to which is only ever appended.
_OPEN = 'cd "$1" && exec <>"$2" >>"$3" && shift 3 && exec "$@"'
# A jailer closes all but the first three descriptors. So the lock, which is the first of those that it inherits here,
# becomes its standard error; what it says there is read from the lock file.
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
        """Return those of a machine that may run already."""
        link = launch.run_directory / _JAIL
        return cls.of(launch, Jail(link.readlink()) if link.is_symlink() else None)

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

    @property
    def log(self) -> Path:
        """What Firecracker itself has logged in this life."""
        return self.work / LOG

    @property
    def metrics(self) -> Path:
        """What it counts."""
        return self.work / METRICS

    def disk(self, name: str) -> Path:
        """The file of a disk, as it is there for the process."""
        return self.work / DISKS / ids.device(name)

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
        for each in placed:
            self.put(each)
        for path in (self.log, self.metrics):
            path.touch(0o600)
            if self.jail is not None:
                self.jail.give(path)
        os.mkfifo(self.console_input, 0o600)
        self.console_log.touch(0o600)

    def put(self, placed: Placed) -> None:
        """Put one file where the process finds it, in place of what was there."""
        target = self.work / placed.name
        target.unlink(missing_ok=True)
        if self.jail is not None:
            self.jail.link(placed, target)
        else:
            target.symlink_to(placed.source)

    def take(self, name: str) -> None:
        """Take away the file of a disk that the process has let go of."""
        self.disk(name).unlink(missing_ok=True)

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
        opening = ["/bin/sh", "-c", _OPEN if self.jail is None else _OPEN_JAILED, "firecracker", str(self.run)]
        opening += [str(self.console_input) if serial else os.devnull, str(self.console_log)]
        name = ids.machine(launch.vm)
        if self.jail is None:
            return [*opening, binary, "--id", name, *words]
        return [*opening, *self.jail.command(jailer, binary, name), "--", *words]
