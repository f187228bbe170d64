"""Where the files of one machine are, as we and as its Cloud Hypervisor name them. Pure. Used by `config` and `driver`.

The process has the machine's run directory as its working directory and knows every file by a name in it: sockets, and
links to disks and kernels. So its configuration says nothing of this host, and a machine that comes from another host,
or back from a checkpoint, finds its files where those of its new place are.
"""

from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Disk, DiskFile, Launch
from nacre.model.convergence import FailureClass
from nacre.model.hardware import ConsoleMode

API_SOCKET = "api.sock"
CONSOLE_SOCKET = "console.sock"
"""Ours: what the agent connects to."""
SERIAL_SOCKET = "serial.sock"
"""Cloud Hypervisor's own, to which one client is connected: the keeper of the console."""
MIGRATION_SOCKET = "migration.sock"
EVENTS = "events.json"
CONSOLE_LOG = "console.log"
HYPERVISOR_LOG = "hypervisor.log"
VIRTIO_LOG = "virtio-console.log"
RESTORING = "restoring"
"""A folder that lends a checkpoint the paths of this life."""

KERNEL = "kernel"
INITRD = "initrd"
FIRMWARE = "firmware"
_DISK = "disk-"

# The longest path of a unix socket, without the closing zero (unix(7)).
MAX_SOCKET_PATH = 107


def disk_link(disk: str) -> str:
    """Name a disk's file in the run directory."""
    return f"{_DISK}{disk}"


def links(launch: Launch) -> dict[str, Path]:
    """Return every link that the run directory must hold, by name, and where it leads."""
    found = {disk_link(disk.id): target for disk in launch.disks if (target := target_of(disk)) is not None}
    found |= {KERNEL: launch.kernel} if launch.kernel is not None else {}
    found |= {INITRD: launch.initrd} if launch.initrd is not None else {}
    found |= {FIRMWARE: launch.firmware.code} if launch.firmware is not None else {}
    if launch.devices.console is ConsoleMode.FILE:
        found[VIRTIO_LOG] = launch.directory / VIRTIO_LOG
    return found


def target_of(disk: Disk) -> Path | None:
    """Return the file behind a disk; None if it has none on this host."""
    return disk.path if isinstance(disk, DiskFile) else None


def is_ours(name: str) -> bool:
    """Whether something in the run directory belongs to a life that has ended, and may be removed."""
    return name in _NAMES or name.startswith((_DISK, f"{API_SOCKET}.", f"{CONSOLE_SOCKET}."))


def check(launch: Launch) -> None:
    """Raise DriverError if a path is longer than the system takes."""
    longest = max((API_SOCKET, f"{CONSOLE_SOCKET}.new", SERIAL_SOCKET, MIGRATION_SOCKET), key=len)
    if len(str(launch.run_directory / longest).encode()) > MAX_SOCKET_PATH:
        raise DriverError(
            "path_too_long",
            "the path of the machine's sockets is longer than the system allows",
            hint="give the agent a shorter run_dir in its configuration",
            failure_class=FailureClass.BLOCKED,
        )


_NAMES = frozenset(
    {
        *(API_SOCKET, CONSOLE_SOCKET, SERIAL_SOCKET, MIGRATION_SOCKET),
        *(EVENTS, KERNEL, INITRD, FIRMWARE, VIRTIO_LOG),
    }
)
