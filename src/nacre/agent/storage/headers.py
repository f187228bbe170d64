"""What the heads of disk files say: how large a guest sees them, and what lies below. Blocks; short."""

import struct
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.base import BaseDisk
from nacre.model.convergence import FailureClass
from nacre.model.images import Format
from nacre.model.units import format_size

FORMATS = {Format.RAW: "raw", Format.QCOW2: "qcow2", Format.VMDK: "vmdk", Format.VHD: "vpc"}
"""What QEMU calls the formats of images."""
_MAGIC = b"QFI\xfb"


@dataclass(frozen=True)
class Header:
    """What the head of a qcow2 file says. https://www.qemu.org/docs/master/interop/qcow2.html"""

    size_bytes: int
    backing: str


def read_header(path: Path) -> Header | None:
    """Read the head of a qcow2 file; None if there is no file. Raises DriverError if it is something else."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
            if len(head) < 32 or head[:4] != _MAGIC:
                raise DriverError(
                    "disk_damaged",
                    "the machine's disk file is not a qcow2 image any more",
                    hint="restore the file on the node from a copy, or delete the machine",
                    failure_class=FailureClass.BLOCKED,
                )
            offset, length, size = struct.unpack(">8xQI4xQ", head)
            file.seek(offset)
            return Header(size_bytes=size, backing=file.read(length).decode() if offset else "")
    except FileNotFoundError:
        return None


def is_unwritten(path: Path) -> bool:
    """Whether a sound qcow2 file shows what lies below it and nothing else: its first table leads nowhere.

    Nobody may write to it meanwhile. https://www.qemu.org/docs/master/interop/qcow2.html
    """
    with path.open("rb") as file:
        file.seek(36)
        entries, offset = struct.unpack(">IQ", file.read(12))
        file.seek(offset)
        return not any(file.read(entries * 8))


def check_size(base: BaseDisk | None, size_bytes: int | None) -> None:
    """Raise DriverError if a disk of this size cannot hold the image."""
    if base is None or size_bytes is None:
        return
    has = virtual_size(base)
    if size_bytes < has:
        raise DriverError(
            "disk_smaller_than_image",
            f"a disk of {format_size(size_bytes)} cannot hold the image, which has {format_size(has)}",
            hint="leave the size out, or ask for at least as much as the image has",
            failure_class=FailureClass.PERMANENT,
        )


def virtual_size(base: BaseDisk) -> int:
    """The size that a guest sees of an image; 0 for formats whose head is not worth reading here."""
    try:
        if base.format is Format.RAW:
            return base.path.stat().st_size
        header = read_header(base.path) if base.format is Format.QCOW2 else None
    except FileNotFoundError:
        return 0
    return header.size_bytes if header else 0
