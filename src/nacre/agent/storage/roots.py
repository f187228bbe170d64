"""Root disks of machines as layers, made like volumes: for machines with checkpoints and those made from one.

Every machine's folder has at most one, in `root`, and it is called as the machine is. A root disk begins as one file
beside that folder (see `directory`), and becomes the lowest layer when a layer is first needed; a raw one becomes the
one that is written. The file keeps its old name as well for as long as a process may look for it there.
"""

import os
import shutil
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.storage import layers
from nacre.agent.storage.directory import found_in
from nacre.agent.storage.disks import facts_of, format_of, suffix_of
from nacre.agent.storage.folders import NEW
from nacre.agent.storage.layers import Manifest
from nacre.agent.storage.volumes import DirectoryVolumes, kept_of
from nacre.lib.files import sync_folder
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.ids import SnapshotId, VmId, VolumeId
from nacre.model.volumes import DiskFormat

ROOT = "root"
"""What hypervisors call it."""


def disk_of(vm: VmId) -> VolumeId:
    """Return what a machine's root disk is called."""
    return VolumeId(vm)


class RootDisks(DirectoryVolumes):
    """The root disks of all machines of a node. `machines` is the folder of their folders."""

    async def layered(self, vm: VmId) -> bool:
        """Make layers of a machine's root disk, also while it runs. False if it has no root disk. May be repeated."""
        return await in_thread(self._layered, vm)

    async def settled(self, vm: VmId) -> bool:
        """Whether a machine's root disk has layers. It does not run: what only its process needed goes."""
        return await in_thread(self._settled, vm)

    async def check_base(self, vm: VmId, base: Path | None) -> None:
        """Raise DriverError unless a root disk lies on that image, or is a copy that needs none."""
        lowest = await in_thread(self._lowest, disk_of(vm))
        if lowest is not None and lowest != ("" if base is None else str(base)):
            raise DriverError(
                "disk_of_another_image",
                "the root disk was made from another image, or the node's image cache has moved",
                hint="move the image cache back to where it was, or delete the machine and create it again",
                failure_class=FailureClass.BLOCKED,
            )

    async def share(self, vm: VmId, snapshot: SnapshotId, place: Path) -> Path:
        """Give what a snapshot is made of a second home in an empty folder, and return its top there.

        It stays as it is for as long as it has that home, whatever becomes of the disk: layers with two are not merged.
        """
        return await in_thread(self._share, disk_of(vm), snapshot, place)

    def _share(self, disk: VolumeId, snapshot: SnapshotId, place: Path) -> Path:
        top = kept_of(self._manifest(disk), snapshot).layer
        layers.link(self._folder(disk), place, self._chain(disk, top))
        return place / top

    def _layered(self, vm: VmId) -> bool:
        folder = self._folder(disk_of(vm))
        if layers.read(folder) is not None:
            return True
        form = found_in(folder.parent, ROOT)
        if form is None:
            return False
        first = folder.parent / (ROOT + suffix_of(form))
        facts_of(first)  # what is damaged is not made a part of anything
        draft = self._draft_place(disk_of(vm))
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        os.link(first, draft / first.name)
        self._publish(draft, Manifest(volume=disk_of(vm), active=first.name))
        return True

    def _settled(self, vm: VmId) -> bool:
        folder = self._folder(disk_of(vm))
        shutil.rmtree(self._draft_place(disk_of(vm)), ignore_errors=True)
        if layers.read(folder) is None:
            return False
        form = found_in(folder.parent, ROOT)
        if form is not None:
            (folder.parent / (ROOT + suffix_of(form))).unlink()
            sync_folder(folder.parent)
        return True

    def _lowest(self, disk: VolumeId) -> str | None:
        """Return what lies below all of a disk's layers; None if nothing ever does."""
        manifest = self._manifest(disk)
        if manifest.form is DiskFormat.RAW:
            return None
        known = layers.tree(self._folder(disk), manifest)
        return known[layers.chain(known, manifest.active)[-1]].backing

    def _sweep(self) -> None:
        for place in self._root.iterdir():
            shutil.rmtree(place / f"{NEW}{ROOT}", ignore_errors=True)
            folder = place / ROOT
            if (manifest := layers.read(folder)) is not None:
                layers.sweep(folder, manifest)

    def _folder(self, volume: VolumeId) -> Path:
        return self._root / volume / ROOT

    def _file(self, volume: VolumeId, path: Path) -> DiskFile:  # noqa: ARG002  # every machine calls its own alike
        return DiskFile(id=ROOT, path=path, format=format_of(path.name).value)
