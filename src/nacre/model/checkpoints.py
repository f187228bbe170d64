"""Checkpoints of machines: all of their disks at one instant, and their memory if it was asked for.

Used by every layer. A checkpoint belongs to one machine and goes with it. Its part of a disk is a snapshot that is
called as the checkpoint is; what new machines are made from it share that. Sizes in bytes. Pure.
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from nacre.model.consistency import Consistency
from nacre.model.convergence import Failure
from nacre.model.ids import PREFIXES, CheckpointId, SnapshotId, VmId, VolumeId
from nacre.model.volumes import Wish

MAX_CHECKPOINTS = 32
"""Of one machine. Bounds how many layers a read of its disks may have to go through."""


WORD = "checkpoint "
"""What the words for a checkpoint begin with, where a volume could be meant as well: no name has a space in it."""


class CheckpointPhase(StrEnum):
    """What has become of a checkpoint."""

    CREATING = "creating"
    READY = "ready"
    FAILED = "failed"  # it could not be taken; there is nothing of it but this
    DELETING = "deleting"


class CheckpointIntent(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint of a machine."""

    id: CheckpointId
    """Its id, which never changes."""
    desired: Wish
    """Whether it should be there."""
    after: int = 0
    """It is of the machine as it is once the restore with this nonce is done."""
    memory: bool = False
    """Memory and devices as well."""
    volumes: tuple[VolumeId, ...] = ()
    """Those of the machine's volumes that are part of it."""


class Restoration(msgspec.Struct, frozen=True, kw_only=True):
    """Put a machine back to a checkpoint. Done when `nonce` exceeds what the agent has applied."""

    nonce: int
    checkpoint: CheckpointId
    memory: bool = False
    """It goes on where it was, instead of starting from its disks."""


class CheckpointSource(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is made from, if that is a checkpoint of another one."""

    vm: VmId
    """The machine that it is of; it may be gone by now."""
    checkpoint: CheckpointId
    """The checkpoint; it may be gone by now."""


class CheckpointObserved(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that there is, or why there is none."""

    id: CheckpointId
    """Its id, which never changes."""
    taken_at: datetime
    """When it was taken, or found impossible."""
    consistency: Consistency = Consistency.CRASH
    """What a guest finds in it."""
    size_bytes: int = 0
    """Of its disks, as the guest sees them."""
    disk_bytes: int = 0
    """The size of the root disk as the guest sees it; 0 if there is none."""
    memory_bytes: int = 0
    """What its memory and devices take; 0 without."""
    failure: Failure | None = None
    """Why it could not be taken. It is not tried again."""


def snapshot_of(checkpoint: CheckpointId) -> SnapshotId:
    """Return what the part of a checkpoint in each of its disks is called."""
    return SnapshotId(checkpoint)


def is_part(snapshot: SnapshotId) -> bool:
    """Whether a snapshot of a volume is part of a checkpoint."""
    return snapshot.startswith(f"{PREFIXES['checkpoint']}-")


def settled(wanted: CheckpointIntent, seen: CheckpointObserved | None) -> bool:
    """Whether a checkpoint is as it was asked for, or cannot be."""
    return (seen is None) is (wanted.desired is Wish.ABSENT)
