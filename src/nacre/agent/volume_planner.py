"""What to do next about each volume: desired against known, one step at a time. Called by `volume_executor`. Pure.

The rules are those of machines: what was not told of is left alone, a lower generation than the one that was accepted
changes nothing, and only `absent` tears down. What has been there and is gone is a loss, and never made anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nacre.agent.storage.base import VolumeState
from nacre.model.checkpoints import is_part, snapshot_of
from nacre.model.convergence import FailureClass
from nacre.model.ids import SnapshotId, VolumeId
from nacre.model.volumes import Restore, VolumeIntent, Wish
from nacre.protocol.messages import NodeIntent

FREE_TEARDOWNS = 3
FREE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the agent knows of one volume."""

    intent: VolumeIntent
    """The newest that was accepted."""
    made: bool
    deleted: bool
    state: VolumeState | None
    """As it lies in its pool; None if it does not."""
    failure: FailureClass | None = None
    retry_at: float = 0.0
    shared: bool = False


@dataclass(frozen=True)
class Nothing:
    """All is as it should be, or waits for somebody else."""


@dataclass(frozen=True)
class RetryAt:
    """Look again at this time (monotonic)."""

    at: float


@dataclass(frozen=True)
class Accept:
    """Take note of a newer intent."""

    intent: VolumeIntent


@dataclass(frozen=True)
class Make:
    """Make it."""


@dataclass(frozen=True)
class Found:
    """It is there, and that is to be on record."""


@dataclass(frozen=True)
class Lost:
    """It was there and is gone."""


@dataclass(frozen=True)
class Finish:
    """Carry through what was begun on a guest."""


@dataclass(frozen=True)
class Take:
    """Take a snapshot."""

    snapshot: SnapshotId


@dataclass(frozen=True)
class Drop:
    """Forget a snapshot."""

    snapshot: SnapshotId


@dataclass(frozen=True)
class PutBack:
    """Put it back to a snapshot."""

    restore: Restore


@dataclass(frozen=True)
class Grow:
    """Make it larger."""

    size_bytes: int


@dataclass(frozen=True)
class Merge:
    """Merge layers that nobody needs."""


@dataclass(frozen=True)
class Delete:
    """Leave nothing of it but a tombstone."""


@dataclass(frozen=True)
class Forget:
    """Remove the tombstone, or the record of one that is another node's now."""


Step = (
    Nothing | RetryAt | Accept | Make | Found | Lost | Finish | Take | Drop | PutBack | Grow | Merge | Delete | Forget
)
NOTHING = Nothing()


def refused(intent: NodeIntent | None, known: Mapping[VolumeId, Known]) -> frozenset[VolumeId]:
    """Name the volumes that this desired state would newly tear down although it is too many of them at once."""
    if intent is None or intent.teardown_allowed:
        return frozenset()
    here = {volume: one for volume, one in known.items() if not one.deleted}
    new = {
        volume.id
        for volume in intent.volumes
        if volume.desired is Wish.ABSENT and volume.id in here and volume.generation > here[volume.id].intent.generation
    }
    return frozenset(new) if len(new) > max(FREE_TEARDOWNS, FREE_SHARE * len(here)) else frozenset()


def decide(told: VolumeIntent | None, known: Known | None, now: float, *, synced: bool, refused: bool = False) -> Step:
    """Return the next step of one volume. `told` is None if the desired state (if `synced`) does not name it."""
    if known is None:
        return NOTHING if told is None else Accept(told)
    if told is None:
        return Forget() if synced and (known.deleted or known.shared) else NOTHING
    if told.generation > known.intent.generation and not refused:
        return Accept(told)
    step = _toward(known.intent, known)
    if step == NOTHING:
        return step
    if known.failure is FailureClass.PERMANENT:
        return NOTHING
    return step if known.retry_at <= now else RetryAt(known.retry_at)


def _toward(intent: VolumeIntent, known: Known) -> Step:
    if intent.desired is Wish.ABSENT:
        return NOTHING if known.deleted else Delete()
    state = known.state
    if state is None:
        return Lost() if known.made or intent.made else Make()
    if not known.made:
        return Found()
    if state.unfinished:
        return Finish()
    there = {snapshot.id for snapshot in state.snapshots}
    for snapshot in intent.snapshots:
        if snapshot.desired is Wish.PRESENT and snapshot.id not in there and snapshot.after <= state.restore_nonce:
            return Take(snapshot.id)
    if intent.restore is not None and intent.restore.nonce > state.restore_nonce:
        return PutBack(intent.restore)
    for snapshot in sorted(there & _unwanted(intent, there)):
        return Drop(snapshot)
    if state.size_bytes < intent.size_bytes:
        return Grow(intent.size_bytes)
    return Merge() if state.mergeable else NOTHING


def _unwanted(intent: VolumeIntent, there: set[SnapshotId]) -> set[SnapshotId]:
    """Name the snapshots that are to go: those that were deleted, and parts of checkpoints that are no more."""
    deleted = {snapshot.id for snapshot in intent.snapshots if snapshot.desired is Wish.ABSENT}
    kept = {snapshot_of(checkpoint) for checkpoint in intent.checkpoints}
    return deleted | {snapshot for snapshot in there if is_part(snapshot) and snapshot not in kept}
