"""Folders of volumes: how one becomes true and how it goes, and what is found in it. Under the drivers in folders.

A folder whose name begins with a dot is none of a volume: one that is being made, or one that is being removed.
"""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.storage import layers, sharing
from nacre.agent.storage.base import VolumeState
from nacre.agent.storage.disks import format_of, sync
from nacre.agent.storage.layers import Manifest
from nacre.lib.files import sync_folder
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.ids import VolumeId
from nacre.model.volumes import SnapshotObserved

NEW = ".new-"
_GONE = ".gone-"


class VolumeFolders:
    """Those of one pool on this node."""

    def __init__(self, root: Path, *, shared: bool) -> None:
        self._root = root
        self._shared = shared

    @asynccontextmanager
    async def alone(self, volume: VolumeId, generation: int) -> AsyncGenerator[None]:
        """See `base.VolumeStore`."""
        if not self._shared:
            yield
            return
        lock = sharing.Lock(self._root, volume)
        try:
            await in_thread(lock.take)
            await in_thread(self._claim, volume, generation)
            yield
        finally:
            await in_thread(lock.leave)

    # What changes

    def _claim(self, volume: VolumeId, generation: int) -> None:
        folder = self._folder(volume)
        manifest = layers.read(folder)
        if manifest is None:
            return
        sharing.check(volume, manifest.generation, generation)
        if manifest.generation < generation:
            layers.write(folder, msgspec.structs.replace(manifest, generation=generation))

    async def _draft(self, volume: VolumeId) -> Path:
        draft = self._draft_place(volume)

        def make() -> None:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(mode=0o700, parents=True)

        await in_thread(make)
        return draft

    def _publish(self, draft: Path, manifest: Manifest) -> None:
        for path in draft.iterdir():
            sync(path)
        layers.write(draft, manifest)
        folder = self._folder(manifest.volume)
        draft.rename(folder)
        sync_folder(folder.parent)

    def _commit(self, volume: VolumeId, manifest: Manifest) -> None:
        layers.write(self._folder(volume), manifest)
        layers.sweep(self._folder(volume), manifest)

    def _delete(self, volume: VolumeId) -> None:
        folder = self._folder(volume)
        gone = folder.with_name(f"{_GONE}{folder.name}")
        for left in (gone, self._draft_place(volume)):
            if left.exists():
                shutil.rmtree(left)
        if folder.exists():
            folder.rename(gone)
            sync_folder(folder.parent)
            shutil.rmtree(gone)
        if self._shared:
            sharing.forget(self._root, volume)

    # What is there

    def _sweep(self) -> None:
        if self._shared or not self._root.is_dir():
            return
        for path in self._root.iterdir():
            if path.name.startswith((NEW, _GONE)):
                shutil.rmtree(path)
            elif (manifest := layers.read(path)) is not None:
                layers.sweep(path, manifest)

    def _look(self, volume: VolumeId) -> VolumeState | None:
        folder = self._folder(volume)
        manifest = layers.read(folder)
        if manifest is None:
            return None
        known = layers.tree(folder, manifest)
        # In a shared pool, what is not in the manifest may be what another node is about to put there.
        rubbish = not self._shared and bool(layers.left_over(folder, known))
        return VolumeState(
            size_bytes=known[manifest.active].size_bytes,
            used_bytes=sum(layer.used_bytes for layer in known.values()),
            snapshots=tuple(
                SnapshotObserved(id=one.id, size_bytes=one.size_bytes, taken_at=one.taken_at)
                for one in manifest.snapshots
            ),
            restore_nonce=manifest.restore_nonce,
            unfinished=manifest.switching is not None,
            coming=None if manifest.switching is None else manifest.switching.snapshot,
            mergeable=rubbish or layers.to_merge(manifest, known) is not None,
        )

    def _manifest(self, volume: VolumeId) -> Manifest:
        manifest = layers.read(self._folder(volume))
        if manifest is None:
            raise DriverError(
                "volume_missing",
                f"volume {volume} is not in its pool on the node",
                hint="is the pool's file system mounted? Look at the pool's folder on the node",
                failure_class=FailureClass.BLOCKED,
            )
        return manifest

    def _chain(self, volume: VolumeId, top: str) -> list[str]:
        folder = self._folder(volume)
        return layers.chain(layers.tree(folder, self._manifest(volume)), top)

    def _folder(self, volume: VolumeId) -> Path:
        return self._root / volume

    def _draft_place(self, volume: VolumeId) -> Path:
        folder = self._folder(volume)
        return folder.with_name(f"{NEW}{folder.name}")

    def _file(self, volume: VolumeId, path: Path) -> DiskFile:
        return DiskFile(id=volume, path=path, format=format_of(path.name).value)
