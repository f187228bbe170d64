"""Disks as files in the machine's own directory: thin overlays on cached images, or raw. The driver called `directory`.

Made under another name, written to the platter, and renamed: a file with the right name is a whole disk.
"""

from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.storage.base import BaseDisk
from nacre.agent.storage.disks import DiskFiles, facts_of, settle, suffix_of
from nacre.agent.storage.headers import check_size
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.volumes import DiskFormat

_PARTIAL = ".partial"


class DirectoryStorage:
    """Fulfils `base.Storage`."""

    def __init__(self, *, qemu_img: str = "qemu-img") -> None:
        self._files = DiskFiles(qemu_img)

    async def ensure(
        self,
        directory: Path,
        disk: str,
        *,
        base: BaseDisk | None,
        size_bytes: int | None,
        form: DiskFormat = DiskFormat.QCOW2,
    ) -> DiskFile:
        """See `base.Storage.ensure`. A raw disk is a copy of its image, and needs that no more."""
        form = found_in(directory, disk) or form
        path = _path(directory, disk, form)
        found = facts_of(path)
        if found is None:
            await self._create(path, form, base, size_bytes)
        elif form is DiskFormat.QCOW2 and found.backing != (str(base.path) if base else ""):
            raise DriverError(
                "disk_of_another_image",
                f"disk {disk} was made from another image, or the node's image cache has moved",
                hint="move the image cache back to where it was, or delete the machine and create it again",
                failure_class=FailureClass.BLOCKED,
            )
        elif size_bytes is not None:
            await self._files.grow(path, form, size_bytes)
        return DiskFile(id=disk, path=path, format=form.value)

    async def sizes(self, directory: Path) -> dict[str, int]:
        """See `base.Storage.sizes`."""
        return await in_thread(_sizes, directory)

    async def remove(self, directory: Path, disk: str) -> None:
        """See `base.Storage.remove`."""
        for form in DiskFormat:
            path = _path(directory, disk, form)
            for left in (path, path.with_name(path.name + _PARTIAL)):
                left.unlink(missing_ok=True)

    async def _create(self, path: Path, form: DiskFormat, base: BaseDisk | None, size_bytes: int | None) -> None:
        partial = path.with_name(path.name + _PARTIAL)
        partial.unlink(missing_ok=True)
        try:
            check_size(base, size_bytes)
            if base is None and size_bytes is None:
                raise ValueError("a disk without a base needs a size")
            if base is None:
                await self._files.blank(partial, form, size_bytes or 0)
            elif form is DiskFormat.RAW:
                await self._files.of_image(partial, form, base, size_bytes)
            else:
                await self._files.over_image(partial, base, size_bytes)
            await in_thread(settle, partial, path)
        finally:
            partial.unlink(missing_ok=True)


def found_in(directory: Path, disk: str) -> DiskFormat | None:
    """Return the format of a disk that is there. Blocks, shortly."""
    return next((form for form in DiskFormat if _path(directory, disk, form).exists()), None)


def _sizes(directory: Path) -> dict[str, int]:
    there = [path for form in DiskFormat for path in sorted(directory.glob(f"*{suffix_of(form)}"))]
    found = {path.stem: facts_of(path) for path in there}
    return {disk: facts.size_bytes for disk, facts in found.items() if facts is not None}


def _path(directory: Path, disk: str, form: DiskFormat) -> Path:
    return directory / (disk + suffix_of(form))
