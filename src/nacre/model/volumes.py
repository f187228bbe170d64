"""Storage: pools, the volumes in them and the snapshots of those; what a user asks for and what a node reports.

Used by every layer. A volume is a disk that outlives machines; a machine's root disk is not one. Sizes in bytes. Pure.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from nacre.errors import InvalidInputError
from nacre.model.ceph import CephAccess
from nacre.model.consistency import Consistency
from nacre.model.convergence import Failure
from nacre.model.hardware import DiskOptions
from nacre.model.ids import CheckpointId, ImageId, NodeId, PoolId, ProjectId, SnapshotId, VolumeId
from nacre.model.images import ImageManifest
from nacre.model.units import MIB

LOCAL_POOL = PoolId("pool-00000000000000000000000000")
"""The pool that every node has, in its agent's own folder."""
LOCAL_POOL_NAME = "local"
MIN_VOLUME = 1 * MIB
MAX_VOLUME = 64 << 40
MAX_SNAPSHOTS = 32
"""Of one volume. Bounds how many layers a read may have to go through."""
MAX_ATTACHED = 24

VolumeBytes = Annotated[int, msgspec.Meta(ge=MIN_VOLUME, le=MAX_VOLUME, multiple_of=512)]


class PoolKind(StrEnum):
    """What a pool is made of."""

    DIRECTORY = "directory"  # files in a folder of the node
    CEPH = "ceph"  # RBD images in a pool of a Ceph cluster


class Wish(StrEnum):
    """Whether something should be there."""

    PRESENT = "present"
    ABSENT = "absent"


class DiskFormat(StrEnum):
    """How a disk is kept in what holds it."""

    QCOW2 = "qcow2"  # in layers, which snapshots and clones share
    RAW = "raw"  # as the guest sees it: the only one that every hypervisor opens


class CloneCost(StrEnum):
    """What a clone takes."""

    LAYERS = "layers"  # the clone shares what does not change: no more than some metadata, whatever the size
    REFLINK = "reflink"  # the same, by the file system, which keeps what both have once until one of them writes
    COPY = "copy"  # every byte is copied


class FormatCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What volumes of one format can do in a pool."""

    format: DiskFormat
    """How they are kept."""
    clone: CloneCost
    """How a volume is cloned."""
    snapshot: CloneCost
    """What a snapshot takes, and putting a volume back to one."""
    live_snapshots: bool = False
    """Whether they are taken while a machine writes."""
    live_note: str = ""
    """Why not, or what it takes."""


class PoolCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What volumes of a pool can do, as found on a node."""

    shared: bool = False
    """Several nodes see the same volumes."""
    snapshots: bool = False
    """Whether snapshots can be taken."""
    live_snapshots: bool = False
    """While a machine that runs under QEMU writes."""
    clone: CloneCost = CloneCost.COPY
    """How a volume is cloned."""
    reflink: bool = False
    """Whether the file system copies by sharing blocks; found out by trying."""
    grow: bool = False
    """Whether volumes grow."""
    live_grow: bool = False
    """While a machine that runs under QEMU uses it."""
    shrink: bool = False
    """Whether volumes shrink."""
    thin: bool = False
    """Takes only what was written."""
    encryption: bool = False
    """Whether what is stored is encrypted."""
    formats: tuple[FormatCapabilities, ...] = ()
    """The formats in which volumes may be kept, the usual one first, and what differs between them."""


class PoolIntent(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that a node should use, besides its own."""

    id: PoolId
    name: str
    kind: PoolKind
    path: str
    """The folder on the node, or what the cluster calls the pool."""
    shared: bool = False
    ceph: CephAccess | None = None
    """The cluster that it is in."""


class PoolObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a node found of a pool."""

    id: PoolId
    available: bool
    reason: str = ""
    """Why it is not available."""
    hint: str = ""
    capacity_bytes: int = 0
    used_bytes: int = 0
    """By anyone: the file system's own words, or the cluster's."""
    capabilities: PoolCapabilities = PoolCapabilities()


class SourceKind(StrEnum):
    """What a new volume starts as."""

    BLANK = "blank"
    IMAGE = "image"
    VOLUME = "volume"
    SNAPSHOT = "snapshot"


class VolumeSource(msgspec.Struct, frozen=True, kw_only=True):
    """What a new volume starts as."""

    kind: SourceKind = SourceKind.BLANK
    image: ImageId | None = None
    volume: VolumeId | None = None
    """With `snapshot`: the volume that it is of."""
    snapshot: SnapshotId | None = None
    full: bool = False
    """Copy all of it, so that it needs no file of what it was made from."""


class SnapshotIntent(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot of a volume."""

    id: SnapshotId
    desired: Wish
    after: int = 0
    """It is of the volume as it is once the restore with this nonce is done."""


class Restore(msgspec.Struct, frozen=True, kw_only=True):
    """Put a volume back to what it was. Done when `nonce` exceeds what the agent has applied."""

    nonce: int
    snapshot: SnapshotId


class VolumeIntent(msgspec.Struct, frozen=True, kw_only=True):
    """One volume of a node's desired state."""

    id: VolumeId
    project: ProjectId
    name: str
    generation: int
    desired: Wish
    pool: PoolId
    size_bytes: int
    format: DiskFormat = DiskFormat.QCOW2
    """As it is to be kept. In a cluster it is always raw."""
    source: VolumeSource = VolumeSource()
    image: ImageManifest | None = None
    """Of the source, if that is an image."""
    snapshots: tuple[SnapshotIntent, ...] = ()
    restore: Restore | None = None
    checkpoints: tuple[CheckpointId, ...] = ()
    """Of machines, that it is part of. What it keeps for any other goes."""
    made: bool = False
    """A node has had it: who does not find it must not make a blank one in its place."""


class VolumeAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as a disk of a machine."""

    volume: VolumeId
    options: DiskOptions = DiskOptions()
    read_only: bool = False


class Tie(msgspec.Struct, frozen=True, kw_only=True):
    """What the volumes of a machine mean for where it can be."""

    volumes: tuple[VolumeId, ...]
    """Attached, in the order in which the guest sees them."""
    nodes: tuple[NodeId, ...] = ()
    """The nodes that reach all of them; empty if every node does."""
    because: str = ""
    """The name of one that not every node reaches."""
    disk_bytes: int = 0
    """What they take of the disk that a node shares with machines."""


class VolumePhase(StrEnum):
    """What a volume is doing."""

    PENDING = "pending"  # no node holds it yet
    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"
    ABSENT = "absent"  # nothing of it is left
    UNKNOWN = "unknown"  # its node is out of reach


class SnapshotPhase(StrEnum):
    """What a snapshot is doing."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


class SnapshotObserved(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that is there."""

    id: SnapshotId
    size_bytes: int
    taken_at: datetime
    consistency: Consistency = Consistency.CRASH
    """Never `memory`."""


class VolumeObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows of one volume."""

    id: VolumeId
    generation: int
    """The newest intent that the agent has accepted."""
    phase: VolumePhase
    size_bytes: int = 0
    used_bytes: int = 0
    """What its files take; what clones share is counted with each."""
    restore_nonce: int = 0
    snapshots: tuple[SnapshotObserved, ...] = ()
    failure: Failure | None = None


def satisfies(wanted: VolumeIntent, seen: VolumeObserved) -> bool:
    """Whether a volume is as it was asked for."""
    if wanted.desired is Wish.ABSENT:
        return seen.phase is VolumePhase.ABSENT
    there = {snapshot.id for snapshot in seen.snapshots}
    taken = all((one.id in there) is (one.desired is Wish.PRESENT) for one in wanted.snapshots)
    restored = wanted.restore is None or seen.restore_nonce >= wanted.restore.nonce
    return seen.phase is VolumePhase.READY and seen.size_bytes >= wanted.size_bytes and taken and restored


def serial_of(volume: VolumeId) -> str:
    """Return what a guest reads as the serial number of a volume: the tail of its id, which is all that fits."""
    return volume[-20:]


def check_path(path: str) -> str:
    """Return `path` if a pool may be there as far as its form goes. Raises InvalidInputError."""
    if not path.startswith("/") or "\0" in path or any(part in {".", ".."} for part in path.split("/")):
        raise InvalidInputError(
            "invalid_pool_path",
            f"{path!r} is not an absolute path without `.` and `..`",
            hint="give the folder as it is called on the nodes, such as /srv/nacre",
            field="path",
        )
    return path.rstrip("/") or "/"
