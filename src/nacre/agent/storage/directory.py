"""Disks as qcow2 files in the machine's own directory: thin overlays on cached images. The driver called `directory`.

Made by qemu-img under another name, written to the platter, and renamed: a file with the right name is a whole disk.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.storage import qemu_img
from nacre.agent.storage.base import BaseDisk
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.images import Format
from nacre.model.units import format_size

_MAGIC = b"QFI\xfb"
FORMATS = {Format.RAW: "raw", Format.QCOW2: "qcow2", Format.VMDK: "vmdk", Format.VHD: "vpc"}


@dataclass(frozen=True)
class Header:
    """What the head of a qcow2 file says. https://www.qemu.org/docs/master/interop/qcow2.html"""

    size_bytes: int
    backing: str


class DirectoryStorage:
    """Fulfils `base.Storage`."""

    def __init__(self, *, qemu_img: str = "qemu-img") -> None:
        self._qemu_img = qemu_img

    async def ensure(self, directory: Path, disk: str, *, base: BaseDisk | None, size_bytes: int | None) -> DiskFile:
        """See `base.Storage.ensure`."""
        path = _path(directory, disk)
        found = read_header(path)
        if found is None:
            await self._create(path, base, size_bytes)
        elif found.backing != (str(base.path) if base else ""):
            raise DriverError(
                "disk_of_another_image",
                f"disk {disk} was made from another image, or the node's image cache has moved",
                hint="move the image cache back to where it was, or delete the machine and create it again",
                failure_class=FailureClass.BLOCKED,
            )
        elif size_bytes is not None and size_bytes > found.size_bytes:
            await self._run("resize", "-q", "-f", "qcow2", str(path), str(size_bytes))
        return DiskFile(id=disk, path=path, format="qcow2")

    async def sizes(self, directory: Path) -> dict[str, int]:
        """See `base.Storage.sizes`."""
        return await in_thread(_sizes, directory)

    async def remove(self, directory: Path, disk: str) -> None:
        """See `base.Storage.remove`."""
        for path in (_path(directory, disk), _partial(directory, disk)):
            path.unlink(missing_ok=True)

    async def _create(self, path: Path, base: BaseDisk | None, size_bytes: int | None) -> None:
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        words = ["create", "-q", "-f", "qcow2"]
        if base is not None:
            words += ["-b", str(base.path), "-F", FORMATS[base.format]]
        elif size_bytes is None:
            raise ValueError("a disk without a base needs a size")
        words.append(str(partial))
        if size_bytes is not None:
            words.append(str(size_bytes))
        try:
            check_size(base, size_bytes)
            await self._run(*words)
            settle(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    async def _run(self, *words: str) -> None:
        await qemu_img.run(self._qemu_img, *words)


def _sizes(directory: Path) -> dict[str, int]:
    found = {path.stem: read_header(path) for path in sorted(directory.glob("*.qcow2"))}
    return {disk: header.size_bytes for disk, header in found.items() if header is not None}


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


def settle(partial: Path, path: Path) -> None:
    """Give a finished file its name so that it stays, whatever happens to the host."""
    sync(partial)
    partial.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file or a folder durable."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _path(directory: Path, disk: str) -> Path:
    return directory / f"{disk}.qcow2"


def _partial(directory: Path, disk: str) -> Path:
    return directory / f"{disk}.qcow2.partial"
