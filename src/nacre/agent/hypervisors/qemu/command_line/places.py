"""Names of a machine's sockets and files, of its parts inside QEMU, and its UUIDs. Pure."""

import hashlib
import uuid
from pathlib import Path

from nacre.model.ids import RunId, VmId

QMP_SOCKET = "qmp.sock"
CONSOLE_SOCKET = "console.sock"
CONSOLE_LOG = "console.log"
VIRTIO_CONSOLE_SOCKET = "virtio-console.sock"
VIRTIO_CONSOLE_LOG = "virtio-console.log"
DISPLAY_SOCKET = "display.sock"
GUEST_SOCKET = "guest.sock"
SOCKETS = (QMP_SOCKET, CONSOLE_SOCKET, VIRTIO_CONSOLE_SOCKET, DISPLAY_SOCKET, GUEST_SOCKET)

# The longest path of a unix socket, without the closing zero (unix(7); macOS has four less).
MAX_SOCKET_PATH = 103

_NAMESPACE = uuid.UUID("7ac3d1f2-5a0e-4f6b-9c57-0d1e9b8f6a31")  # ours, made once
_MAX_NAME = 31  # of a block node, block.h


def uuid_of(vm: VmId) -> str:
    """The UUID that QEMU and the guest's firmware know a machine by: the same for every life of it."""
    return str(uuid.uuid5(_NAMESPACE, vm))


def generation_of(run: RunId) -> str:
    """The generation id of a life: another one tells the guest that it is a copy and must not reuse its randomness."""
    return str(uuid.uuid5(_NAMESPACE, run))


def node_of(disk: str, part: str = "") -> str:
    """Name a block node of a disk. Without `part` it is the uppermost one, which has the disk's name if that fits."""
    name = f"{disk}-{part}" if part else disk
    return name if len(name) <= _MAX_NAME else f"{_digest(disk)}-{part or 'disk'}"


def device_of(name: str) -> str:
    """Name the device of a disk or NIC."""
    return f"{name}-device"


def chardev_of(name: str) -> str:
    """Name the connection of a device that another process serves."""
    return f"{name}-vhost"


def limits_of(name: str) -> str:
    """Name the limits of one disk."""
    return f"{name}-limits"


def secret_of(name: str) -> str:
    """Name the key that opens a disk."""
    return f"{name}-key"


def group_of(name: str) -> str:
    """Name the limits that disks share."""
    return f"group-{name}"


def socket_paths(directory: Path) -> tuple[Path, ...]:
    """Return where the machine's sockets may be."""
    return tuple(directory / name for name in SOCKETS)


def _digest(name: str) -> str:
    return "n" + hashlib.sha256(name.encode()).hexdigest()[:16]
