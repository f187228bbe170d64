"""What every storage driver is: of machines' own disks (`Storage`), and of pools of volumes (`VolumeStore`).

Called by `agent/vms` and `agent/volumes`. A driver makes and removes disks. It never starts anything and never touches
what it did not make.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nacre.agent.hypervisors.launch import DiskFile, RbdDisk
from nacre.model.ids import PoolId, SnapshotId, VolumeId
from nacre.model.images import Format
from nacre.model.volumes import DiskFormat, PoolObserved, SnapshotObserved


@dataclass(frozen=True, kw_only=True)
class BaseDisk:
    """A verified disk image in the node's cache, from which machines' disks are derived. Never written to."""

    path: Path
    format: Format


class Storage(Protocol):
    """A driver."""

    async def ensure(
        self,
        directory: Path,
        disk: str,
        *,
        base: BaseDisk | None,
        size_bytes: int | None,
        form: DiskFormat = DiskFormat.QCOW2,
    ) -> DiskFile:
        """Return the disk called `disk` of the machine that owns `directory`, making it or growing it if need be.

        With a base it starts as a copy of it (and takes its size if none is given), without one it is blank and needs
        a size. `form` is for a new one: what is there already stays as it is kept. May be repeated, also after a crash
        at any moment; the machine must not be running. Content is never lost and a disk never shrinks. Raises
        DriverError.
        """
        ...

    async def sizes(self, directory: Path) -> dict[str, int]:
        """Return the disks that there are of a machine, and how large the guest sees them. Raises DriverError."""
        ...

    async def remove(self, directory: Path, disk: str) -> None:
        """Remove a disk and what an interrupted `ensure` left of it. May be repeated."""
        ...


class Writer(Protocol):
    """Who writes to a volume now: a guest that runs. Each may be repeated."""

    async def switch(self, layer: DiskFile) -> None:
        """Have the guest go on with `layer`, an empty one on top of what it writes now."""
        ...

    async def merge(self, layer: Path, taker: Path) -> None:
        """Have `taker`, the layer on top of `layer`, take it in, so that it is not needed any more."""
        ...

    async def grow(self, size_bytes: int) -> None:
        """Have the guest see a larger disk."""
        ...


@dataclass(frozen=True, kw_only=True)
class VolumeState:
    """A volume as it lies in its pool."""

    size_bytes: int
    used_bytes: int
    snapshots: tuple[SnapshotObserved, ...] = ()
    restore_nonce: int = 0
    unfinished: bool = False
    """A guest was being told to write elsewhere when the agent ended: `VolumeStore.finish` first."""
    coming: SnapshotId | None = None
    """The snapshot that there will be once that is finished."""
    mergeable: bool = False
    """There are layers that nobody needs, or files that somebody who was killed has left: for `VolumeStore.merge`."""


@dataclass(frozen=True, kw_only=True)
class CloneOf:
    """What a new volume is a clone of: a volume as it is now, or as a snapshot keeps it."""

    volume: VolumeId
    snapshot: SnapshotId | None = None
    full: bool = False
    form: DiskFormat | None = None
    """How the clone is to be kept; None: as what it is made from. Another one means that all of it is copied."""


class VolumeStore(Protocol):
    """A pool, as a driver sees it: volumes that belong to nobody's machine.

    Whoever calls sees to it that only one call at a time is about a volume, and passes the one who writes to it, if
    there is one. Each call may be repeated; killed at any moment it leaves what was or what was asked for, and what
    else it leaves goes with the next `sweep`. All raise DriverError.
    """

    async def probe(self, pool: PoolId) -> PoolObserved:
        """Say what the pool can do here, how large it is and how full."""
        ...

    async def sweep(self) -> None:
        """Remove what was left by whoever was killed."""
        ...

    def alone(self, volume: VolumeId, generation: int) -> AbstractAsyncContextManager[None]:
        """Have a volume alone among the nodes that see the pool, for one of which it is at this generation.

        Raises DriverError: `volume_elsewhere` for good if a newer generation of it was had here before, or
        `volume_busy` while another node has it. Everything that changes a volume, and every handing over to a machine,
        happens inside.
        """
        ...

    async def look(self, volume: VolumeId) -> VolumeState | None:
        """Return a volume as it is; None if there is none."""
        ...

    async def disk(self, volume: VolumeId) -> DiskFile | RbdDisk:
        """Return what a hypervisor opens."""
        ...

    async def check_free(self, volume: VolumeId) -> None:
        """Raise DriverError (`volume_in_use`) if the storage knows that somebody has it open, on any host."""
        ...

    async def create(
        self,
        volume: VolumeId,
        *,
        size_bytes: int,
        base: BaseDisk | None,
        keep_base: bool,
        form: DiskFormat = DiskFormat.QCOW2,
    ) -> None:
        """Make a volume, blank or from an image, which is copied unless `keep_base` says that it stays.

        A raw one is always a copy. Pools that know one format only make that.
        """
        ...

    async def clone(self, volume: VolumeId, of: CloneOf, writer: Writer | None) -> None:
        """Make a volume from another one of this pool, to which `writer` writes."""
        ...

    async def grow(self, volume: VolumeId, size_bytes: int, writer: Writer | None) -> None:
        """Make a volume larger."""
        ...

    async def snapshot(self, volume: VolumeId, snapshot: SnapshotId, writer: Writer | None) -> None:
        """Keep a volume as it is now."""
        ...

    async def drop(self, volume: VolumeId, snapshot: SnapshotId) -> None:
        """Forget a snapshot. The volume and its other snapshots stay as they are."""
        ...

    async def restore(self, volume: VolumeId, snapshot: SnapshotId, nonce: int | None) -> None:
        """Put a volume that nobody uses back to a snapshot, and note that `nonce` is done, if there is one to note."""
        ...

    async def finish(self, volume: VolumeId, writer: Writer | None) -> None:
        """Carry through what was begun on a guest when the agent ended."""
        ...

    async def merge(self, volume: VolumeId, writer: Writer | None) -> None:
        """Merge one layer that nobody needs into another, if there is any."""
        ...

    async def delete(self, volume: VolumeId) -> None:
        """Leave nothing of a volume and its snapshots. Clones stay."""
        ...
