"""Volumes as files in a folder per volume: the pool driver called `directory`. Fulfils `base.VolumeStore`.

New files come first, then one replacement of the manifest (see `layers`), then the removal of what is of no use any
more. A new volume is made under another name and renamed; one that is deleted is renamed first. Layers have names that
are used once in the world, so that a clone can keep them.

Of a qcow2 volume, snapshots and clones are layers that are not written any more. Of a raw one they are copies, which
share blocks where the file system has reflinks; so only there can they be made while a guest writes.
"""

import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.storage import layers, offer
from nacre.agent.storage.base import BaseDisk, CloneOf, VolumeState, Writer
from nacre.agent.storage.disks import DiskFiles, settle, suffix_of, sync
from nacre.agent.storage.folders import VolumeFolders
from nacre.agent.storage.headers import check_size, is_unwritten
from nacre.agent.storage.layers import Kept, Manifest, Switching
from nacre.agent.storage.reflink import can_reflink
from nacre.lib.clock import Clock
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.ids import PoolId, SnapshotId, VolumeId
from nacre.model.volumes import DiskFormat, PoolObserved

LONGEST_CHAIN = 40
"""Layers under one volume. A clone of a longer chain is a copy, and no more snapshots are taken of it."""


class DirectoryVolumes(VolumeFolders):
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
        super().__init__(root, shared=shared)
        self._clock = clock
        self._files = DiskFiles(qemu_img)
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

    async def create(
        self,
        volume: VolumeId,
        *,
        size_bytes: int,
        base: BaseDisk | None,
        keep_base: bool,
        form: DiskFormat = DiskFormat.QCOW2,
    ) -> None:
        """See `base.VolumeStore`."""
        check_size(base, size_bytes)
        if layers.read(self._folder(volume)) is not None:
            return
        draft = await self._draft(volume)
        name = self._name(form)
        if base is None:
            await self._files.blank(draft / name, form, size_bytes)
        elif keep_base and form is DiskFormat.QCOW2:
            await self._files.over_image(draft / name, base, size_bytes)
        else:
            await self._files.of_image(draft / name, form, base, size_bytes)
        await in_thread(self._publish, draft, Manifest(volume=volume, active=name))

    async def clone(self, volume: VolumeId, of: CloneOf, writer: Writer | None) -> None:
        """See `base.VolumeStore`. A clone of layers shares every one that is not written any more."""
        if layers.read(self._folder(volume)) is not None:
            return
        manifest = await in_thread(self._manifest, of.volume)
        form = of.form or manifest.form
        if of.snapshot is not None:
            bottom = kept_of(manifest, of.snapshot).layer
        elif manifest.form is DiskFormat.RAW:
            bottom = manifest.active
        elif writer is None:
            bottom = await self._at_rest(manifest, copied=of.full or form is not manifest.form)
        else:
            bottom = (await self._freeze(of.volume, None, writer)).layer
        written = writer is not None and of.snapshot is None
        draft = await self._draft(volume)
        if manifest.form is DiskFormat.RAW:
            name = await self._copy_raw(self._folder(of.volume) / bottom, draft, form, written=written)
        else:
            name = await self._clone_layers(of, bottom, draft, form)
        await in_thread(self._publish, draft, Manifest(volume=volume, active=name))

    async def grow(self, volume: VolumeId, size_bytes: int, writer: Writer | None) -> None:
        """See `base.VolumeStore`."""
        manifest = await in_thread(self._manifest, volume)
        if writer is not None:
            await writer.grow(size_bytes)
            return
        path = self._folder(volume) / manifest.active
        await self._files.grow(path, manifest.form, size_bytes)
        await in_thread(sync, path)

    async def snapshot(self, volume: VolumeId, snapshot: SnapshotId, writer: Writer | None) -> None:
        """See `base.VolumeStore`."""
        manifest = await in_thread(self._manifest, volume)
        if manifest.snapshot(snapshot) is not None:
            return
        if manifest.form is DiskFormat.RAW:
            await self._keep_copy(manifest, snapshot, writer)
        else:
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
        name, folder, below = self._name(manifest.form), self._folder(volume), kept_of(manifest, snapshot).layer
        if manifest.form is DiskFormat.RAW:
            await self._lay(folder, name, lambda partial: self._files.copy(folder / below, partial, DiskFormat.RAW))
        else:
            await self._overlay(folder, below, name)
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
            await in_thread(layers.sweep, folder, manifest)
            return
        needless, taker = found
        below = known[needless].below
        assert below is not None
        if writer is not None and taker in layers.chain(known, manifest.active):
            await writer.merge(folder / needless, folder / taker)
        else:
            # What is seen of the taker is the same at every moment of this, so it may be killed at any. A guest that
            # does not read the taker does not read what only that one is on top of either.
            await self._files.rebase(folder / taker, below)
            await in_thread(sync, folder / taker)
        await in_thread(layers.sweep, folder, manifest)

    async def delete(self, volume: VolumeId) -> None:
        """See `base.VolumeStore`."""
        await in_thread(self._delete, volume)

    # What changes

    async def _at_rest(self, manifest: Manifest, *, copied: bool) -> str:
        """Return the layer that shows what a volume holds to which nobody writes, to be shared, or `copied`.

        Nothing changes if the layer that is written may be copied, or if nothing has been written to it: so a volume
        may be cloned any number of times.
        """
        folder = self._folder(manifest.volume)
        known = await in_thread(layers.tree, folder, manifest)
        active = known[manifest.active]
        if manifest.switching is None:
            below = None if active.below is None else known[active.below]
            same = below is not None and below.size_bytes == active.size_bytes
            if below is not None and same and await in_thread(is_unwritten, folder / active.name):
                return below.name
            if copied or len(layers.chain(known, active.name)) >= LONGEST_CHAIN:
                return active.name
        return (await self._freeze(manifest.volume, None, None)).layer

    async def _freeze(self, volume: VolumeId, snapshot: SnapshotId | None, writer: Writer | None) -> Kept:
        """Put an empty layer on top, and return what was written until then: as a snapshot, or for a clone."""
        manifest = await in_thread(self._manifest, volume)
        if manifest.switching is not None:
            manifest = await self._switch(manifest, writer)
        if len(await in_thread(self._chain, volume, manifest.active)) >= LONGEST_CHAIN:
            raise DriverError(
                "volume_chain_too_long",
                f"volume {volume} goes through {LONGEST_CHAIN} layers already",
                hint="delete snapshots and clones that are not needed: what they kept is merged by itself. "
                "A volume to which no machine writes can be cloned any number of times",
                failure_class=FailureClass.WAITING,
            )
        below, name = manifest.active, self._name(manifest.form)
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

    async def _keep_copy(self, manifest: Manifest, snapshot: SnapshotId, writer: Writer | None) -> None:
        """Keep a raw volume as a copy of it, and go on with what there is."""
        folder, name = self._folder(manifest.volume), self._name(DiskFormat.RAW)
        active = folder / manifest.active

        async def copy(partial: Path) -> None:
            if writer is None:
                await self._files.copy(active, partial, DiskFormat.RAW)
            else:
                await self._files.copy_live(active, partial)

        await self._lay(folder, name, copy)
        size = layers.layer_of(folder, name).size_bytes
        kept = Kept(id=snapshot, layer=name, size_bytes=size, taken_at=self._clock.now())
        await in_thread(self._commit, manifest.volume, _with(manifest, snapshots=(*manifest.snapshots, kept)))

    async def _copy_raw(self, source: Path, draft: Path, form: DiskFormat, *, written: bool) -> str:
        """Copy a raw disk to a draft, and name what it became. One that is `written` is copied at one instant."""
        name = self._name(form)
        if not written:
            await self._files.copy(source, draft / name, form)
            return name
        instant = self._name(DiskFormat.RAW)
        await self._files.copy_live(source, draft / instant)
        if form is DiskFormat.RAW:
            return instant
        await self._files.copy(draft / instant, draft / name, form)
        (draft / instant).unlink()
        return name

    async def _clone_layers(self, of: CloneOf, bottom: str, draft: Path, form: DiskFormat) -> str:
        """Share layers with a draft, or copy what they show, and name what is to be written there."""
        source, name = self._folder(of.volume), self._name(form)
        known = await in_thread(lambda: layers.tree(source, self._manifest(of.volume)))
        there = layers.chain(known, bottom)
        short, copied = len(there) < LONGEST_CHAIN, of.full or form is not DiskFormat.QCOW2
        if short and not copied:
            await in_thread(layers.link, source, draft, there)
            await self._overlay(draft, bottom, name)
        elif (
            short
            and form is DiskFormat.QCOW2
            and not known[there[-1]].backing
            and await in_thread(layers.share, source, draft, there)
        ):
            (draft / bottom).rename(draft / name)
        else:
            await self._files.copy(source / bottom, draft / name, form)
        return name

    async def _overlay(self, folder: Path, below: str, name: str) -> int:
        """Make an empty layer on top of another one, of the same size, and return that."""
        size = layers.layer_of(folder, below).size_bytes
        await self._lay(folder, name, lambda partial: self._files.over_layer(partial, below, size))
        return size

    async def _lay(self, folder: Path, name: str, make: Callable[[Path], Awaitable[None]]) -> None:
        """Have a layer made under another name, and give it its own once it is whole."""
        partial = folder / (name + layers.PARTIAL)
        try:
            await make(partial)
            await in_thread(settle, partial, folder / name)
        finally:
            partial.unlink(missing_ok=True)

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
            capabilities=offer.directory(shared=self._shared, reflinks=can_reflink(self._root)),
        )

    def _name(self, form: DiskFormat) -> str:
        return self._token() + suffix_of(form)


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
