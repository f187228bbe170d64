"""Bodies of /v1/pools, /v1/volumes and what is attached to machines."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.ceph import MAX_MONITORS
from nacre.model.consistency import Consistency
from nacre.model.convergence import Conditions
from nacre.model.hardware import DiskOptions
from nacre.model.ids import ImageId, PoolId, SnapshotId, VolumeId
from nacre.model.volumes import (
    DiskFormat,
    PoolCapabilities,
    PoolKind,
    SnapshotPhase,
    SourceKind,
    VolumeBytes,
    VolumePhase,
    Wish,
)
from nacre.schema.common import Body, Out, ProjectRef, VmRef
from nacre.schema.vms import NodeRef


class CephBody(Body, frozen=True, kw_only=True):
    """A Ceph cluster, and as whom nodes reach it."""

    monitors: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_MONITORS)]
    """Addresses of its monitors, with ports where those are not the usual ones: `10.0.0.1`, `v2:[fd00::1]:3300`."""
    user: str
    """The user there, without `client.` before it."""
    key: Annotated[str, msgspec.Meta(max_length=1024)]
    """The user's key. Kept sealed, given to the pool's nodes, and never shown."""


class PoolCreate(Body, frozen=True, kw_only=True):
    """A new pool: a folder that nodes have, or a pool in a Ceph cluster."""

    name: str
    """Unique on the platform."""
    kind: PoolKind = PoolKind.DIRECTORY
    """What kind of storage it is."""
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    """Absolute path of the folder on the nodes, which their agents must allow in `pool_roots`; or, of the kind `ceph`,
    what the cluster calls the pool."""
    shared: bool = False
    """The folder is the same on all of its nodes, such as a mounted NFS or CephFS. A pool in Ceph always is."""
    nodes: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)] = ()
    """Names or ids of the nodes that have it; none means all nodes there are and will be."""
    ceph: CephBody | None = None
    """The cluster, for the kind `ceph`."""


class PoolUpdate(Body, frozen=True, kw_only=True):
    """Which nodes have a pool: all of them anew, or some more and some less."""

    nodes: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)] | None = None
    """Names or ids of the nodes that have it from now on, all of them; an empty list means all nodes there are and will
    be."""
    add: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)] = ()
    """Names or ids of nodes that have it as well from now on."""
    remove: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)] = ()
    """Names or ids of nodes that do not have it any more. No volume may need them."""


class CephOut(Out, frozen=True, kw_only=True):
    """A Ceph cluster."""

    monitors: tuple[str, ...]
    """Addresses of its monitors."""
    user: str
    """As whom nodes reach it."""


class PoolOnNode(Out, frozen=True, kw_only=True):
    """A pool as one node finds it."""

    node: NodeRef
    """The node."""
    available: bool
    """Whether the node can use it."""
    reason: str
    """Why it is not available there."""
    hint: str
    """What to do if it cannot."""
    capacity_bytes: int
    """How much there is room for in all."""
    used_bytes: int
    """By anyone, as the file system or the cluster says."""
    capabilities: PoolCapabilities
    """What can be done with volumes in it on this node."""


class PoolOut(Out, frozen=True, kw_only=True):
    """A pool, and how it is where it is."""

    id: PoolId
    """Its id, which never changes."""
    name: str
    """Its name."""
    kind: PoolKind
    """What kind of storage it is."""
    path: str
    """The folder, or what the cluster calls the pool. Empty for the pool that every node has in its agent's folder."""
    shared: bool
    """Whether all of its nodes see the same volumes."""
    ceph: CephOut | None
    """The cluster that it is in, if its kind is `ceph`."""
    nodes: tuple[PoolOnNode, ...]
    """The nodes that have told of it."""
    members: tuple[NodeRef, ...] | None = None
    """The nodes that should have it; null means all nodes there are and will be."""
    volumes: int
    """How many volumes are in it."""
    promised_bytes: int
    """What its volumes may grow to."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it was last changed."""
    etag: str
    """Names this state of it; give it in If-Match to change nothing newer."""


class VolumeCreate(Body, frozen=True, kw_only=True):
    """A new volume: blank, or from one of an image, a volume and a snapshot."""

    name: str
    """Unique in its project: lower-case letters, digits and dashes."""
    project: str = "default"
    """Name or id of the project that it belongs to."""
    labels: dict[str, str] = {}
    """Free labels, to select by."""
    pool: str = "local"
    """Name or id of the pool. A clone is in the pool of what it is made from."""
    size_bytes: VolumeBytes | None = None
    """Needed for a blank one; otherwise that of what it is made from, or more."""
    image: str | None = None
    """Name or id of an image whose disk it starts as."""
    volume: str | None = None
    """Name or id of a volume of the same project that it is a clone of, as that is when the clone is made."""
    snapshot: str | None = None
    """Name or id of a snapshot of `volume`, to clone that instead."""
    full: bool = False
    """Copy all of it, so that it needs no file of what it was made from."""
    format: DiskFormat | None = None
    """How it is kept: `qcow2`, in layers that snapshots and clones share, or `raw`, which every hypervisor opens. Null
    for the usual: that of what it is a clone of, else `qcow2`; in a Ceph cluster always `raw`."""


class VolumeClone(Body, frozen=True, kw_only=True):
    """A clone of a volume."""

    name: str
    """Name of the clone, unique in its project."""
    snapshot: str | None = None
    """Name or id of a snapshot of the volume, to clone that instead of what is in it now."""
    labels: dict[str, str] = {}
    """Free labels of the clone."""
    full: bool = False
    """Copy all of it, so that it needs no file of the volume."""
    format: DiskFormat | None = None
    """How the clone is kept, `qcow2` or `raw`. Null: as the volume is; another one needs `full`."""


class VolumeUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    labels: dict[str, str] | None = None
    """Free labels, all of them."""
    size_bytes: VolumeBytes | None = None
    """Larger than it is. A machine that uses the volume sees it grow."""


class VolumeRestore(Body, frozen=True, kw_only=True):
    """What to put a volume back to."""

    snapshot: str
    """Name or id of one of its snapshots."""


class SnapshotCreate(Body, frozen=True, kw_only=True):
    """A new snapshot: the volume as it is when a node takes it."""

    name: str
    """Unique among the snapshots of the volume."""
    expires_at: datetime | None = None
    """Deleted at this time, unless protected."""
    protected: bool = False
    """Neither deleted nor expired until that is taken back."""


class SnapshotUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    expires_at: datetime | None = None
    """Deleted at this time, unless protected."""
    keep: bool = False
    """Take back `expires_at`: it does not expire."""
    protected: bool | None = None
    """Whether it cannot be deleted."""


class VolumeAttach(Body, frozen=True, kw_only=True):
    """A volume as a disk of a machine."""

    volume: str
    """Name or id of a volume of the machine's project, not attached to any."""
    options: DiskOptions = DiskOptions()
    """How it is connected."""
    read_only: bool = False
    """The machine cannot write to it."""
    delete_with_vm: bool = False
    """Deleted together with the machine; else it is kept."""


class VolumeRef(Out, frozen=True, kw_only=True):
    """A volume."""

    id: VolumeId
    """Its id, which never changes."""
    name: str
    """Its name."""


class PoolRef(Out, frozen=True, kw_only=True):
    """A pool."""

    id: PoolId
    """Its id, which never changes."""
    name: str
    """Its name."""


class SourceOut(Out, frozen=True, kw_only=True):
    """What a volume was made from. That may be gone by now."""

    kind: SourceKind
    """What it was made from."""
    image: ImageId | None
    """The image that it was made from."""
    volume: VolumeId | None
    """The volume that it is a clone of."""
    snapshot: SnapshotId | None
    """The snapshot that it was made from."""


class VolumeOut(Out, frozen=True, kw_only=True):
    """A volume: what was asked, what is, and how far apart they are."""

    id: VolumeId
    """Its id, which never changes."""
    name: str
    """Its name."""
    project: ProjectRef
    """The project that it belongs to."""
    labels: dict[str, str]
    """Free labels, to select by."""
    pool: PoolRef
    """The pool that it is in."""
    node: NodeRef | None
    """Where it lies. Null until it is first attached to a machine that has a node; then it is made."""
    size_bytes: int
    """As asked for."""
    actual_size_bytes: int
    """As the node has it; 0 before it is made."""
    format: DiskFormat
    """How it is kept."""
    used_bytes: int
    """What its files take, those included that clones share."""
    source: SourceOut
    """What it was made from."""
    desired: Wish
    """Whether it should be there."""
    phase: VolumePhase
    """What it is doing."""
    vm: VmRef | None
    """The machine that it is attached to."""
    conditions: Conditions
    """How far it is from what was asked."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it was last changed."""
    etag: str
    """Names this state of it; give it in If-Match to change nothing newer."""


class SnapshotOut(Out, frozen=True, kw_only=True):
    """A snapshot of a volume."""

    id: SnapshotId
    """Its id, which never changes."""
    name: str
    """Its name."""
    volume: VolumeRef
    """The volume that it is of."""
    phase: SnapshotPhase
    """What has become of it."""
    size_bytes: int
    """Of the volume when it was taken."""
    taken_at: datetime | None
    """When it was taken; null while it is not yet."""
    consistency: Consistency | None
    """In which state it is: `filesystem` if nobody wrote to the volume, or the guest held its file systems still;
    else `crash`, as after a power cut. Null while it has not been taken, or if that was before this was known."""
    expires_at: datetime | None
    """When it is deleted by itself; null for never."""
    protected: bool
    """Whether it cannot be deleted."""
    created_by: str
    """Who made it."""
    created_at: datetime
    """When it was made."""


class AttachmentOut(Out, frozen=True, kw_only=True):
    """A volume as a disk of a machine."""

    volume: VolumeRef
    """The volume."""
    vm: VmRef
    """The machine that has it."""
    serial: str
    """What the guest reads as the disk's serial number: `/dev/disk/by-id/virtio-<serial>` in most."""
    options: DiskOptions
    """How it is connected."""
    read_only: bool
    """The guest cannot write to it."""
    delete_with_vm: bool
    """It is deleted together with the machine."""
    open: bool
    """The running machine has it."""
    leaving: bool
    """It is being taken back from the running machine."""
