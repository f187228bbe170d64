"""Volumes as qcow2 files in a folder per volume: the pool driver called `directory`. Fulfils `base.VolumeStore`.

New files come first, then one replacement of the manifest (see `layers`), then the removal of what is of no use any
more. A new volume is made under another name and renamed; one that is deleted is renamed first. Layers have names that
are used once in the world, so that a clone can keep them.
"""

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.storage import layers, qemu_img
from nacre.agent.storage.base import BaseDisk, CloneOf, VolumeState, Writer
from nacre.agent.storage.directory import FORMATS, check_size, settle, sync
from nacre.agent.storage.layers import Kept, Manifest, Switching
from nacre.agent.storage.reflink import can_reflink
from nacre.lib.clock import Clock
from nacre.lib.files import sync_folder
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.ids import PoolId, SnapshotId, VolumeId
from nacre.model.volumes import CloneCost, PoolCapabilities, PoolObserved, SnapshotObserved

LONGEST_CHAIN = 40
"""Layers under one volume. A clone of a longer chain is a copy, and no more snapshots are taken of it."""
NEW = ".new-"
_GONE = ".gone-"


class DirectoryVolumes:
    """One pool on this node."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Clock,
        shared: bool = False,
        qemu_img: str = "qemu-img",
        token: Callable[[], str] = lambda: secrets.token_hex(10),
    ) -> None:
        """`token` gives names that were never given before."""
        self._root = root
        self._clock = clock
        self._shared = shared
        self._qemu_img = qemu_img
        self._token = token

    async def probe(self, pool: PoolId) -> PoolObserved:
        """See `base.VolumeStore`."""
        return await in_thread(self._probe, pool)

    async def sweep(self) -> None:
        """See `base.VolumeStore`. In a shared pool, what is being made may be another node's."""
        await in_thread(self._sweep)

    async def look(self, volume: VolumeId) -> VolumeState | None:
        """See `base.VolumeStore`."""
        return await in_thread(self._look, volume)

    async def disk(self, volume: VolumeId) -> DiskFile:
        """See `base.VolumeStore`."""
        manifest = await in_thread(self._manifest, volume)
        return self._file(volume, self._folder(volume) / manifest.active)

    async def check_free(self, volume: VolumeId) -> None:
        """See `base.VolumeStore`. Folders do not know; hypervisors lock the files that they open themselves."""

    async def create(self, volume: VolumeId, *, size_bytes: int, base: BaseDisk | None, keep_base: bool) -> None:
        """See `base.VolumeStore`."""
        check_size(base, size_bytes)
        if layers.read(self._folder(volume)) is not None:
            return
        draft = await self._draft(volume)
        name = self._name()
        if base is not None and not keep_base:
            words = ("-f", FORMATS[base.format], "-O", "qcow2", str(base.path), str(draft / name))
            await self._run("convert", *words, limit_s=qemu_img.COPY_S)
            await self._run("resize", "-q", "-f", "qcow2", str(draft / name), str(size_bytes))
        else:
            under = () if base is None else ("-b", str(base.path), "-F", FORMATS[base.format])
            await self._run("create", "-q", "-f", "qcow2", *under, str(draft / name), str(size_bytes))
        await in_thread(self._publish, draft, Manifest(volume=volume, active=name))

    async def clone(self, volume: VolumeId, of: CloneOf, writer: Writer | None) -> None:
        """See `base.VolumeStore`. The clone shares every layer that is not written any more."""
        if layers.read(self._folder(volume)) is not None:
            return
        source = self._folder(of.volume)
        manifest = await in_thread(self._manifest, of.volume)
        if of.snapshot is not None:
            bottom = kept_of(manifest, of.snapshot).layer
        else:
            bottom = (await self._freeze(of.volume, None, writer)).layer
        there = await in_thread(self._chain, of.volume, bottom)
        draft = await self._draft(volume)
        name = self._name()
        if of.full or len(there) >= LONGEST_CHAIN:
            words = ("-U", "-f", "qcow2", "-O", "qcow2", str(source / bottom), str(draft / name))
            await self._run("convert", *words, limit_s=qemu_img.COPY_S)
        else:
            await in_thread(layers.link, source, draft, there)
            await self._overlay(draft, bottom, name)
        await in_thread(self._publish, draft, Manifest(volume=volume, active=name))

    async def grow(self, volume: VolumeId, size_bytes: int, writer: Writer | None) -> None:
        """See `base.VolumeStore`."""
        manifest = await in_thread(self._manifest, volume)
        path = self._folder(volume) / manifest.active
        if writer is not None:
            await writer.grow(size_bytes)
        elif layers.layer_of(path.parent, path.name).size_bytes < size_bytes:
            await self._run("resize", "-q", "-f", "qcow2", str(path), str(size_bytes))
            await in_thread(sync, path)

    async def snapshot(self, volume: VolumeId, snapshot: SnapshotId, writer: Writer | None) -> None:
        """See `base.VolumeStore`."""
        if (await in_thread(self._manifest, volume)).snapshot(snapshot) is None:
            await self._freeze(volume, snapshot, writer)

    async def drop(self, volume: VolumeId, snapshot: SnapshotId) -> None:
        """See `base.VolumeStore`."""
        manifest = await in_thread(self._manifest, volume)
        left = tuple(one for one in manifest.snapshots if one.id != snapshot)
        await in_thread(self._commit, volume, _with(manifest, snapshots=left))

    async def restore(self, volume: VolumeId, snapshot: SnapshotId, nonce: int | None) -> None:
        """See `base.VolumeStore`."""
        manifest = await in_thread(self._manifest, volume)
        if nonce is not None and manifest.restore_nonce >= nonce:
            return
        name = self._name()
        await self._overlay(self._folder(volume), kept_of(manifest, snapshot).layer, name)
        done = manifest.restore_nonce if nonce is None else nonce
        await in_thread(self._commit, volume, _with(manifest, active=name, restore_nonce=done))

    async def finish(self, volume: VolumeId, writer: Writer | None) -> None:
        """See `base.VolumeStore`."""
        manifest = await in_thread(self._manifest, volume)
        if manifest.switching is not None:
            await self._switch(manifest, writer)

    async def merge(self, volume: VolumeId, writer: Writer | None) -> None:
        """See `base.VolumeStore`."""
        manifest = await in_thread(self._manifest, volume)
        folder = self._folder(volume)
        known = await in_thread(layers.tree, folder, manifest)
        found = layers.to_merge(manifest, known)
        if found is None:
            return
        needless, taker = found
        below = known[needless].below
        assert below is not None
        if writer is not None:
            await writer.merge(folder / needless)
        else:
            # What a guest sees of the taker is the same at every moment of this, so it may be killed at any.
            words = ("-q", "-f", "qcow2", "-b", below, "-F", "qcow2", str(folder / taker))
            await self._run("rebase", *words, limit_s=qemu_img.COPY_S)
            await in_thread(sync, folder / taker)
        await in_thread(layers.sweep, folder, manifest)

    async def delete(self, volume: VolumeId) -> None:
        """See `base.VolumeStore`."""
        await in_thread(self._delete, volume)

    # What changes

    async def _freeze(self, volume: VolumeId, snapshot: SnapshotId | None, writer: Writer | None) -> Kept:
        """Put an empty layer on top, and return what was written until then: as a snapshot, or for a clone."""
        manifest = await in_thread(self._manifest, volume)
        if manifest.switching is not None:
            manifest = await self._switch(manifest, writer)
        if len(await in_thread(self._chain, volume, manifest.active)) >= LONGEST_CHAIN:
            raise DriverError(
                "volume_chain_too_long",
                f"volume {volume} goes through {LONGEST_CHAIN} layers already",
                hint="delete snapshots that are not needed; what they kept is merged by itself",
                failure_class=FailureClass.WAITING,
            )
        below, name = manifest.active, self._name()
        size = await self._overlay(self._folder(volume), below, name)
        kept = Kept(id=snapshot or SnapshotId(""), layer=below, size_bytes=size, taken_at=self._clock.now())
        switching = Switching(layer=name, snapshot=snapshot)
        if writer is None:
            await in_thread(self._commit, volume, _switched(manifest, switching, kept))
        else:
            manifest = _with(manifest, switching=switching)
            await in_thread(self._commit, volume, manifest)
            await self._switch(manifest, writer)
        return kept

    async def _switch(self, manifest: Manifest, writer: Writer | None) -> Manifest:
        switching = manifest.switching
        assert switching is not None
        folder = self._folder(manifest.volume)
        if writer is not None:
            await writer.switch(self._file(manifest.volume, folder / switching.layer))
        size = layers.layer_of(folder, manifest.active).size_bytes
        kept = Kept(
            id=switching.snapshot or SnapshotId(""),
            layer=manifest.active,
            size_bytes=size,
            taken_at=self._clock.now(),
        )
        done = _switched(manifest, switching, kept)
        await in_thread(self._commit, manifest.volume, done)
        return done

    async def _overlay(self, folder: Path, below: str, name: str) -> int:
        """Make an empty layer on top of another one, of the same size, and return that. Nothing is opened but it."""
        size = layers.layer_of(folder, below).size_bytes
        partial = folder / (name + layers.PARTIAL)
        partial.unlink(missing_ok=True)
        await self._run("create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", "qcow2", str(partial), str(size))
        await in_thread(settle, partial, folder / name)
        return size

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
        return VolumeState(
            size_bytes=known[manifest.active].size_bytes,
            used_bytes=sum(layer.used_bytes for layer in known.values()),
            snapshots=tuple(
                SnapshotObserved(id=one.id, size_bytes=one.size_bytes, taken_at=one.taken_at)
                for one in manifest.snapshots
            ),
            restore_nonce=manifest.restore_nonce,
            unfinished=manifest.switching is not None,
            mergeable=layers.to_merge(manifest, known) is not None,
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

    def _probe(self, pool: PoolId) -> PoolObserved:
        if not self._root.is_dir():
            return PoolObserved(
                id=pool,
                available=False,
                reason="its folder is not there",
                hint="make the folder on the node, or mount what should be there",
            )
        usage = shutil.disk_usage(self._root)
        return PoolObserved(
            id=pool,
            available=True,
            capacity_bytes=usage.total,
            used_bytes=usage.used,
            capabilities=PoolCapabilities(
                shared=self._shared,
                snapshots=True,
                live_snapshots=True,
                clone=CloneCost.LAYERS,
                reflink=can_reflink(self._root),
                grow=True,
                live_grow=True,
                thin=True,
            ),
        )

    def _folder(self, volume: VolumeId) -> Path:
        return self._root / volume

    def _draft_place(self, volume: VolumeId) -> Path:
        folder = self._folder(volume)
        return folder.with_name(f"{NEW}{folder.name}")

    def _file(self, volume: VolumeId, path: Path) -> DiskFile:
        return DiskFile(id=volume, path=path, format="qcow2")

    def _name(self) -> str:
        return self._token() + layers.SUFFIX

    async def _run(self, *words: str, limit_s: float = qemu_img.CHANGE_S) -> None:
        await qemu_img.run(self._qemu_img, *words, limit_s=limit_s)


def _with(manifest: Manifest, **changes: object) -> Manifest:
    return msgspec.structs.replace(manifest, **changes)


def _switched(manifest: Manifest, switching: Switching, kept: Kept) -> Manifest:
    """Return the manifest of a volume that is written elsewhere now. What was written stays, as a snapshot if it is."""
    snapshots = manifest.snapshots if switching.snapshot is None else (*manifest.snapshots, kept)
    return _with(manifest, active=switching.layer, snapshots=snapshots, switching=None)


def kept_of(manifest: Manifest, snapshot: SnapshotId) -> Kept:
    """Return a snapshot of a volume. Raises DriverError if it has none of that name."""
    found = manifest.snapshot(snapshot)
    if found is None:
        raise DriverError(
            "snapshot_missing",
            f"volume {manifest.volume} has no snapshot {snapshot} on the node yet",
            hint="it is tried again when the snapshot has been taken",
            failure_class=FailureClass.WAITING,
        )
    return found
