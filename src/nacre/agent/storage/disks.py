"""One disk in one file, in either format: made, copied, measured, grown. Used by drivers that keep disks in folders.

What is made here is of no use before its maker gives it a name. The format is told by the name of a file, never by what
is in it: that belongs to guests, one of which may write there what another format looks like.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage import qemu_img
from nacre.agent.storage.base import BaseDisk
from nacre.agent.storage.headers import FORMATS, read_header
from nacre.agent.storage.reflink import reflinked
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.images import Format
from nacre.model.volumes import DiskFormat


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a disk's file says of itself."""

    size_bytes: int
    """As a guest sees it."""
    backing: str = ""
    """What lies below, if anything."""


def format_of(name: str) -> DiskFormat:
    """Return the format of a file of ours by its name. Pure."""
    return DiskFormat.RAW if name.endswith(suffix_of(DiskFormat.RAW)) else DiskFormat.QCOW2


def suffix_of(form: DiskFormat) -> str:
    """Return how the names of files in a format end. Pure."""
    return f".{form.value}"


def facts_of(path: Path) -> Facts | None:
    """Look at a disk; None if there is none. Blocks, shortly. Raises DriverError if it is damaged."""
    if format_of(path.name) is DiskFormat.RAW:
        try:
            return Facts(size_bytes=path.stat().st_size)
        except FileNotFoundError:
            return None
    header = read_header(path)
    return None if header is None else Facts(size_bytes=header.size_bytes, backing=header.backing)


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


class DiskFiles:
    """Makes disks. `form` is the format of what is made; sizes in bytes. All raise DriverError or OSError."""

    def __init__(self, program: str) -> None:
        """`program` is qemu-img."""
        self._program = program

    async def blank(self, path: Path, form: DiskFormat, size_bytes: int) -> None:
        """Make an empty one, which takes no room."""
        if form is DiskFormat.RAW:
            await in_thread(_blank, path, size_bytes)
        else:
            await self._run("create", "-q", "-f", "qcow2", str(path), str(size_bytes))

    async def over_image(self, path: Path, base: BaseDisk, size_bytes: int | None) -> None:
        """Make a qcow2 file that shows an image, which stays below it."""
        size = () if size_bytes is None else (str(size_bytes),)
        await self._run(
            "create", "-q", "-f", "qcow2", "-b", str(base.path), "-F", FORMATS[base.format], str(path), *size
        )

    async def over_layer(self, path: Path, below: str, size_bytes: int) -> None:
        """Make an empty qcow2 file on top of another one of its folder. Nothing is opened but the new one."""
        await self._run("create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", "qcow2", str(path), str(size_bytes))

    async def of_image(self, path: Path, form: DiskFormat, base: BaseDisk, size_bytes: int | None) -> None:
        """Make a copy of an image that needs the image no more; one that shares blocks if the file system can."""
        raw = base.format is Format.RAW and form is DiskFormat.RAW
        if not raw or not await in_thread(reflinked, base.path, path):
            await self._convert(base.path, FORMATS[base.format], path, form)
        if size_bytes is not None:
            await self.grow(path, form, size_bytes)

    async def copy(self, source: Path, path: Path, form: DiskFormat) -> None:
        """Make a copy of a disk to which nobody writes, with all that lies below it."""
        had = format_of(source.name)
        alone = had is form and not _existing(source).backing
        if not alone or not await in_thread(reflinked, source, path):
            await self._convert(source, had.value, path, form)

    async def copy_live(self, source: Path, path: Path) -> None:
        """Make a copy of a raw disk as it is at one instant, also while a guest writes to it.

        Raises DriverError (`live_copy_unsupported`) where the file system cannot.
        """
        if not await in_thread(reflinked, source, path):
            raise DriverError(
                "live_copy_unsupported",
                "a raw volume is copied at one instant only by a file system with reflinks, "
                "and the pool's has none, while its machine writes to it",
                hint="stop the machine or detach the volume; it goes on by itself then. "
                "Or use a volume of the format qcow2, or a pool on XFS or Btrfs",
                failure_class=FailureClass.WAITING,
            )

    async def grow(self, path: Path, form: DiskFormat, size_bytes: int) -> None:
        """Make a disk larger that nobody uses. One that is as large stays as it is."""
        if _existing(path, form).size_bytes >= size_bytes:
            return
        if form is DiskFormat.RAW:
            await in_thread(os.truncate, path, size_bytes)
        else:
            await self._run("resize", "-q", "-f", "qcow2", str(path), str(size_bytes))

    async def rebase(self, path: Path, below: str) -> None:
        """Have a qcow2 file take in what lies between it and `below`, which is further down."""
        await self._run("rebase", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", str(path), limit_s=qemu_img.COPY_S)

    async def _convert(self, source: Path, had: str, path: Path, form: DiskFormat) -> None:
        # What is read may be open in a guest as well, which does not write to it any more (-U).
        words = ("convert", "-U", "-f", had, "-O", form.value, str(source), str(path))
        await self._run(*words, limit_s=qemu_img.COPY_S)

    async def _run(self, *words: str, limit_s: float = qemu_img.CHANGE_S) -> None:
        await qemu_img.run(self._program, *words, limit_s=limit_s)


def _blank(path: Path, size_bytes: int) -> None:
    with path.open("xb") as file:
        file.truncate(size_bytes)


def _existing(path: Path, form: DiskFormat | None = None) -> Facts:
    """Return what a disk says of itself; `form` where its name does not tell, because it has not got its own yet."""
    found = Facts(size_bytes=path.stat().st_size) if form is DiskFormat.RAW else facts_of(path)
    if found is None:
        raise FileNotFoundError(path)
    return found
