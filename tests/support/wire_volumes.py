"""Volumes and pools with no field left at its default, for the golden messages."""

from datetime import UTC, datetime

from nacre.model.ceph import CephAccess
from nacre.model.consistency import Consistency
from nacre.model.convergence import Failure, FailureClass
from nacre.model.hardware import DiskOptions, RateLimits, TokenBucket
from nacre.model.ids import CheckpointId, ImageId, PoolId, ProjectId, SnapshotId, VolumeId
from nacre.model.images import Artifact, Format, ImageManifest, Role
from nacre.model.volumes import (
    CloneCost,
    DiskFormat,
    FormatCapabilities,
    PoolCapabilities,
    PoolIntent,
    PoolKind,
    PoolObserved,
    Restore,
    SnapshotIntent,
    SnapshotObserved,
    SourceKind,
    VolumeAttachment,
    VolumeIntent,
    VolumeObserved,
    VolumePhase,
    VolumeSource,
    Wish,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
POOL = PoolId("pool-01hzzzzzzzzzzzzzzzzzzzzzzz")
VOLUME = VolumeId("vol-01hzzzzzzzzzzzzzzzzzzzzzzz")
CHECKPOINT = CheckpointId("ckpt-01hzzzzzzzzzzzzzzzzzzzzzzz")
KEPT = SnapshotId("snap-01hzzzzzzzzzzzzzzzzzzzzzzz")
IMAGE = ImageId("img-01hzzzzzzzzzzzzzzzzzzzzzzz")
DISK = Artifact(role=Role.DISK, format=Format.QCOW2, size_bytes=4096, sha256="0" * 64, virtual_size_bytes=1 << 20)
BUCKET = TokenBucket(size=1000, refill_ms=500, burst=10)
OPTIONS = DiskOptions(
    read_only=True,
    direct=True,
    queues=2,
    queue_size=64,
    serial="S1",
    pci_segment=1,
    limits=RateLimits(bandwidth=BUCKET, operations=BUCKET),
    limit_group="slow",
)
ATTACHMENT = VolumeAttachment(volume=VOLUME, options=OPTIONS, read_only=True)
POOL_INTENT = PoolIntent(
    id=POOL,
    name="fast",
    kind=PoolKind.CEPH,
    path="fast",
    shared=True,
    ceph=CephAccess(monitors=("10.0.0.1",), user="nacre", key="AQCoMgJrX239HRAAix+2xAXXA9T88NXleONDkQ=="),
)
VOLUME_INTENT = VolumeIntent(
    id=VOLUME,
    project=ProjectId("prj-01hzzzzzzzzzzzzzzzzzzzzzzz"),
    name="data",
    generation=5,
    desired=Wish.PRESENT,
    pool=POOL,
    size_bytes=1 << 30,
    format=DiskFormat.RAW,
    source=VolumeSource(kind=SourceKind.SNAPSHOT, image=IMAGE, volume=VOLUME, snapshot=KEPT, full=True),
    image=ImageManifest(id=IMAGE, artifacts=(DISK,), kernel_args="quiet"),
    snapshots=(SnapshotIntent(id=KEPT, desired=Wish.ABSENT, after=1),),
    restore=Restore(nonce=2, snapshot=KEPT),
    checkpoints=(CHECKPOINT,),
    made=True,
)
VOLUME_SEEN = VolumeObserved(
    id=VOLUME,
    generation=5,
    phase=VolumePhase.READY,
    size_bytes=1 << 30,
    used_bytes=4096,
    restore_nonce=2,
    snapshots=(SnapshotObserved(id=KEPT, size_bytes=1 << 29, taken_at=AT, consistency=Consistency.FILESYSTEM),),
    failure=Failure(
        failure_class=FailureClass.WAITING,
        code="volume_in_use",
        message="in use",
        hint="detach it",
        generation=5,
        at=AT,
        attempts=2,
        next_try_at=AT,
    ),
)
POOL_SEEN = PoolObserved(
    id=POOL,
    available=False,
    reason="not there",
    hint="mount it",
    capacity_bytes=1 << 40,
    used_bytes=1 << 30,
    capabilities=PoolCapabilities(
        shared=True,
        snapshots=True,
        live_snapshots=True,
        clone=CloneCost.LAYERS,
        reflink=True,
        grow=True,
        live_grow=True,
        shrink=True,
        thin=True,
        encryption=True,
        formats=(
            FormatCapabilities(
                format=DiskFormat.RAW,
                clone=CloneCost.REFLINK,
                snapshot=CloneCost.COPY,
                live_snapshots=True,
                live_note="by the file system",
            ),
        ),
    ),
)
