"""Volumes as RBD images, by the `rbd` command line: the pool driver called `ceph`. Fulfils `base.VolumeStore`.

An image is called as its volume is. It is one once its metadata say so (`Manifest`); before, and when it is being
deleted, it is rubbish that whoever makes or deletes the volume removes. Clones are of the second format, which needs
no parent by name: a volume that clones share goes to the pool's trash until the last of them is gone.
"""

import errno
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import RbdDisk
from nacre.agent.storage import offer, sharing
from nacre.agent.storage.base import BaseDisk, CloneOf, VolumeState, Writer
from nacre.agent.storage.ceph import commands
from nacre.agent.storage.ceph.answers import ClusterUsage, Info, Snapshot, Trashed, Usage, Watchers
from nacre.agent.storage.ceph.reach import Reach
from nacre.agent.storage.headers import check_size
from nacre.lib.threads import in_thread
from nacre.model.ceph import CephAccess
from nacre.model.checkpoints import is_part
from nacre.model.convergence import FailureClass
from nacre.model.ids import PoolId, SnapshotId, VolumeId, looks_like_id
from nacre.model.volumes import DiskFormat, PoolObserved, SnapshotObserved

FEATURES = "layering,exclusive-lock,object-map,fast-diff,deep-flatten"
T = TypeVar("T")

_KEY = "nacre.volume"
_FOR = "for-"
"""What the snapshots are called that are there only until a clone is made."""
_JSON = ("--format", "json")
_QUIET = "--no-progress"


class Restoring(msgspec.Struct, frozen=True, kw_only=True):
    """A restore that has begun: what is in the image is neither old nor new until it is carried through."""

    snapshot: SnapshotId
    nonce: int | None = None
    """What is noted when it is done, if anything."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an image's metadata say of the volume. One value, so it changes at once."""

    volume: VolumeId
    """A clone begins with the metadata of what it was made from: those are not its own."""
    restore_nonce: int = 0
    restoring: Restoring | None = None
    generation: int = 0
    """The newest of the volume that was had here (see `sharing`)."""


class CephVolumes:
    """One pool, as this node reaches it."""

    def __init__(self, pool: str, access: CephAccess, folder: Path) -> None:
        """`pool` is as the cluster calls it. `folder` will hold the files that lead to it."""
        self._reach = Reach(pool=pool, access=access, folder=folder)
        self._written = False

    async def probe(self, pool: PoolId) -> PoolObserved:
        """See `base.VolumeStore`. The size is what fits beside what others keep in the cluster, copies not counted."""
        try:
            await self._prepare()
            said = msgspec.json.decode(await commands.usage(self._reach), type=ClusterUsage)
            await self._run("ls", *_JSON)
        except DriverError as error:
            return PoolObserved(id=pool, available=False, reason=error.message, hint=error.hint)
        found = next((one.stats for one in said.pools if one.name == self._reach.pool), None)
        if found is None:
            return PoolObserved(
                id=pool,
                available=False,
                reason="the cluster does not say how large the pool is",
                hint="is a manager running there, and may the pool's user ask it? Look at `ceph -s` there",
            )
        return PoolObserved(
            id=pool,
            available=True,
            capacity_bytes=found.stored + found.max_avail,
            used_bytes=found.stored,
            capabilities=offer.CEPH,
        )

    async def sweep(self) -> None:
        """See `base.VolumeStore`. What is being made may be another node's; what is deleted is removed if it can be."""
        removed = True
        while removed:
            removed = False
            for one in await self._ask("trash", "ls", type=list[Trashed]) or []:
                if _is(one.name, "vol"):
                    kept = (errno.ENOTEMPTY, errno.EBUSY, errno.ENOENT)
                    removed |= await self._run("trash", "rm", _QUIET, one.id, allow=kept) is not None

    @asynccontextmanager
    async def alone(self, volume: VolumeId, generation: int) -> AsyncGenerator[None]:
        """See `base.VolumeStore`. The cluster itself does one thing at a time to an image."""
        manifest = await self._manifest(volume)
        if manifest is not None:
            sharing.check(volume, manifest.generation, generation)
            if manifest.generation < generation:
                await self._publish(msgspec.structs.replace(manifest, generation=generation))
        yield

    async def look(self, volume: VolumeId) -> VolumeState | None:
        """See `base.VolumeStore`."""
        manifest = await self._manifest(volume)
        if manifest is None:
            return None
        snapshots = await self._snapshots(volume)
        usage = await self._ask("du", volume, type=Usage)
        if usage is None:
            return None
        return VolumeState(
            size_bytes=next(one.provisioned_size for one in usage.images if not one.snapshot),
            used_bytes=sum(one.used_size for one in usage.images),
            snapshots=tuple(
                SnapshotObserved(id=SnapshotId(one.name), size_bytes=one.size, taken_at=one.taken_at)
                for one in snapshots
                if _is(one.name, "snap") or is_part(SnapshotId(one.name))
            ),
            restore_nonce=manifest.restore_nonce,
            unfinished=manifest.restoring is not None,
            mergeable=any(one.name.startswith(_FOR) for one in snapshots),
        )

    async def disk(self, volume: VolumeId) -> RbdDisk:
        """See `base.VolumeStore`."""
        await self._existing(volume)
        reach = self._reach
        return RbdDisk(
            id=volume,
            pool=reach.pool,
            image=volume,
            configuration=reach.configuration,
            user=reach.user,
            secret=reach.secret,
        )

    async def check_free(self, volume: VolumeId) -> None:
        """See `base.VolumeStore`. Who has an image open to write watches it, on whatever host."""
        found = await self._ask("status", volume, type=Watchers)
        if found is not None and found.watchers:
            raise DriverError(
                "volume_in_use",
                f"somebody has volume {volume} open already",
                hint="who was killed counts as having it open for half a minute; it is tried again by itself",
                failure_class=FailureClass.WAITING,
            )

    async def create(
        self,
        volume: VolumeId,
        *,
        size_bytes: int,
        base: BaseDisk | None,
        keep_base: bool,  # noqa: ARG002  # images are copied: the cluster cannot lean on a node's file
        form: DiskFormat = DiskFormat.RAW,  # noqa: ARG002  # what the cluster keeps is raw, and nothing else
    ) -> None:
        """See `base.VolumeStore`."""
        check_size(base, size_bytes)
        if await self._manifest(volume) is not None:
            return
        await self._remove(volume)
        await self._run("create", "--size", f"{size_bytes}B", "--image-feature", FEATURES, volume)
        if base is not None:
            await commands.fill(self._reach, volume, base)
        await self._publish(Manifest(volume=volume))

    async def clone(self, volume: VolumeId, of: CloneOf, writer: Writer | None) -> None:  # noqa: ARG002  # who writes hears of it from the cluster
        """See `base.VolumeStore`."""
        if await self._manifest(volume) is not None:
            return
        await self._existing(of.volume)
        await self._remove(volume)
        passing = f"{of.volume}@{_FOR}{volume}"
        if of.snapshot is None:
            await self._run("snap", "rm", _QUIET, passing, allow=(errno.ENOENT,))
            await self._run("snap", "create", _QUIET, passing)
        source = passing if of.snapshot is None else f"{of.volume}@{of.snapshot}"
        words = ("copy", _QUIET) if of.full else ("clone", "--rbd-default-clone-format", "2")
        features = ("--image-feature", FEATURES)
        limit = commands.COPY_S if of.full else commands.CHANGE_S
        target = ("--dest-pool", self._reach.pool)
        made = await self._run(*words, *features, *target, source, volume, allow=(errno.ENOENT,), limit_s=limit)
        if made is None:
            raise _no_snapshot(of.volume, of.snapshot)
        if of.snapshot is None:
            await self._run("snap", "rm", _QUIET, passing, allow=(errno.ENOENT,))
        await self._publish(Manifest(volume=volume))

    async def grow(self, volume: VolumeId, size_bytes: int, writer: Writer | None) -> None:
        """See `base.VolumeStore`."""
        if writer is not None:
            await writer.grow(size_bytes)
            return
        found = await self._ask("info", volume, type=Info)
        if found is None:
            raise _missing(volume)
        if found.size < size_bytes:
            await self._run("resize", _QUIET, "--size", f"{size_bytes}B", volume)

    async def snapshot(self, volume: VolumeId, snapshot: SnapshotId, writer: Writer | None) -> None:  # noqa: ARG002  # who writes hears of it from the cluster
        """See `base.VolumeStore`. Who writes is asked by the cluster to pause for it."""
        await self._existing(volume)
        # A part of a checkpoint that is there already is of another instant than the rest: whoever asks clears it away.
        known = () if is_part(snapshot) else (errno.EEXIST,)
        await self._run("snap", "create", _QUIET, f"{volume}@{snapshot}", allow=known)

    async def drop(self, volume: VolumeId, snapshot: SnapshotId) -> None:
        """See `base.VolumeStore`."""
        await self._existing(volume)
        await self._run("snap", "rm", _QUIET, f"{volume}@{snapshot}", allow=(errno.ENOENT,))

    async def restore(self, volume: VolumeId, snapshot: SnapshotId, nonce: int | None) -> None:
        """See `base.VolumeStore`. Goes through all of the volume: until then no machine gets it."""
        manifest = await self._existing(volume)
        if nonce is not None and manifest.restore_nonce >= nonce:
            return
        if not any(one.name == snapshot for one in await self._snapshots(volume)):
            raise _no_snapshot(volume, snapshot)
        begun = msgspec.structs.replace(manifest, restoring=Restoring(nonce=nonce, snapshot=snapshot))
        await self._publish(begun)
        await self._roll_back(begun)

    async def finish(self, volume: VolumeId, writer: Writer | None) -> None:  # noqa: ARG002  # nobody has it open
        """See `base.VolumeStore`."""
        await self._roll_back(await self._existing(volume))

    async def merge(self, volume: VolumeId, writer: Writer | None) -> None:  # noqa: ARG002  # nothing is read anew
        """See `base.VolumeStore`. Removes what a clone that was never made has left."""
        for one in await self._snapshots(volume):
            if one.name.startswith(_FOR):
                await self._run("snap", "rm", _QUIET, f"{volume}@{one.name}", allow=(errno.ENOENT,))

    async def delete(self, volume: VolumeId) -> None:
        """See `base.VolumeStore`. What somebody has open, on any host, stays whole."""
        await self.check_free(volume)
        await self._run("image-meta", "remove", volume, _KEY, allow=(errno.ENOENT,))
        await self._remove(volume)

    # What changes

    async def _publish(self, manifest: Manifest) -> None:
        text = msgspec.json.encode(manifest).decode()
        await self._run("image-meta", "set", manifest.volume, _KEY, text)

    async def _roll_back(self, manifest: Manifest) -> None:
        begun = manifest.restoring
        if begun is None:
            return
        spec = f"{manifest.volume}@{begun.snapshot}"
        if await self._run("snap", "rollback", _QUIET, spec, allow=(errno.ENOENT,), limit_s=commands.COPY_S) is None:
            raise _no_snapshot(manifest.volume, begun.snapshot)
        done = manifest.restore_nonce if begun.nonce is None else begun.nonce
        await self._publish(msgspec.structs.replace(manifest, restore_nonce=done, restoring=None))

    async def _remove(self, volume: VolumeId) -> None:
        """Leave nothing of an image, finished or not, that no clone shares."""
        found = await self._ask("info", volume, type=Info)
        for one in await self._snapshots(volume) if found is not None else ():
            await self._run("snap", "rm", _QUIET, f"{volume}@{one.name}", allow=(errno.ENOENT,))
        shared = await self._run("rm", _QUIET, volume, allow=(errno.ENOTEMPTY, errno.ENOENT), limit_s=commands.COPY_S)
        if shared is None and found is not None:
            await self._run("trash", "mv", volume, allow=(errno.ENOENT,))
        if found is not None and found.parent is not None and found.parent.trash:
            await self.sweep()

    # What is there

    async def _manifest(self, volume: VolumeId) -> Manifest | None:
        """Return what an image says of its volume; None if there is none, or it is not whole."""
        said = await self._run("image-meta", "get", volume, _KEY, allow=(errno.ENOENT,))
        if said is None:
            return None
        try:
            found = msgspec.json.decode(said, type=Manifest)
        except msgspec.MsgspecError as error:
            raise DriverError(
                "volume_damaged",
                "what the volume's image says of it cannot be read",
                hint=f"restore {_KEY} in the image's metadata (`rbd image-meta`), or delete the volume",
                failure_class=FailureClass.BLOCKED,
            ) from error
        return found if found.volume == volume else None

    async def _existing(self, volume: VolumeId) -> Manifest:
        manifest = await self._manifest(volume)
        if manifest is None:
            raise _missing(volume)
        return manifest

    async def _snapshots(self, volume: VolumeId) -> list[Snapshot]:
        return await self._ask("snap", "ls", volume, type=list[Snapshot]) or []

    async def _ask(self, *words: str, type: type[T]) -> T | None:  # noqa: A002  # as msgspec calls it
        """Return what a question about an image is answered with; None if there is no such image."""
        await self._prepare()
        said = await commands.question(self._reach, *words, *_JSON, allow=(errno.ENOENT,))
        return None if said is None else msgspec.json.decode(said, type=type)

    async def _run(self, *words: str, allow: tuple[int, ...] = (), limit_s: float = commands.CHANGE_S) -> bytes | None:
        await self._prepare()
        return await commands.rbd(self._reach, *words, allow=allow, limit_s=limit_s)

    async def _prepare(self) -> None:
        if not self._written:
            await in_thread(self._reach.write)
            self._written = True


def _is(name: str, kind: str) -> bool:
    return name.startswith(f"{kind}-") and looks_like_id(name)


def _missing(volume: VolumeId) -> DriverError:
    return DriverError(
        "volume_missing",
        f"volume {volume} is not in its pool",
        hint="look at the pool in its cluster: `rbd ls` and `rbd trash ls`",
        failure_class=FailureClass.BLOCKED,
    )


def _no_snapshot(volume: VolumeId, snapshot: SnapshotId | None) -> DriverError:
    return DriverError(
        "snapshot_missing",
        f"volume {volume} has no snapshot {snapshot or 'to be cloned'} yet",
        hint="it is tried again when the snapshot has been taken",
        failure_class=FailureClass.WAITING,
    )
