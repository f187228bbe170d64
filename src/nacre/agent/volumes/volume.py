"""One volume as the agent knows it: its record, how it lies in its pool, and what went wrong. Held by the executor."""

from collections.abc import Callable
from datetime import timedelta

import msgspec

from nacre.agent.failures import failure_of
from nacre.agent.storage.base import VolumeState
from nacre.agent.storage.sharing import ElsewhereError
from nacre.agent.volumes.records import VolumeRecord
from nacre.errors import NacreError
from nacre.lib.backoff import Backoff
from nacre.lib.clock import Clock
from nacre.model.consistency import Consistency
from nacre.model.convergence import Failure, FailureClass
from nacre.model.volumes import SnapshotObserved, VolumeObserved, VolumePhase, Wish

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Volume:
    """One volume. Nothing is decided here."""

    def __init__(self, record: VolumeRecord, clock: Clock, random: Callable[[], float]) -> None:
        self.record = record
        self.state: VolumeState | None = None
        self.failure: Failure | None = None
        self.retry_at = 0.0
        self._noted = 0
        self._clock = clock
        self._pauses = Backoff(first=FIRST_PAUSE_S, cap=LONGEST_PAUSE_S, random=random)

    def forgive(self) -> None:
        """A newer intent is a fresh start, and so is success."""
        self.failure = None
        self.retry_at = 0.0
        self._noted = 0
        self._pauses.reset()

    def failed(self, error: NacreError | OSError, *, may_give_up: bool) -> Failure:
        """Make a fact of what went wrong, and note when it is tried again."""
        before = self.failure
        delay = self._pauses.next()
        self.retry_at = self._clock.monotonic() + delay
        now = self._clock.now()
        failure = failure_of(
            error,
            generation=self.record.intent.generation,
            at=before.at if before is not None else now,
            attempts=self._pauses.attempts,
            may_give_up=may_give_up,
        )
        if failure.failure_class is not FailureClass.PERMANENT:
            failure = msgspec.structs.replace(failure, next_try_at=now + timedelta(seconds=delay))
        self.failure = failure
        self._noted = error.generation if isinstance(error, ElsewhereError) else 0
        return failure

    def observed(self) -> VolumeObserved:
        """Return what there is to tell."""
        state, record = self.state, self.record
        # A control plane that has forgotten newer ones, as one that was restored from a backup, is told of them.
        generation = max(record.intent.generation, self._noted)
        seen = VolumeObserved(id=record.id, generation=generation, phase=self._phase(), failure=self.failure)
        if state is None:
            return seen
        return msgspec.structs.replace(
            seen,
            size_bytes=state.size_bytes,
            used_bytes=state.used_bytes,
            restore_nonce=state.restore_nonce,
            snapshots=(*map(self._told_apart, state.snapshots), *self._in_the_way()),
        )

    def _told_apart(self, snapshot: SnapshotObserved) -> SnapshotObserved:
        """Return a snapshot that a driver found, with what is on record of it."""
        consistency = self.record.consistency.get(snapshot.id, Consistency.CRASH)
        return msgspec.structs.replace(snapshot, consistency=consistency)

    def _in_the_way(self) -> tuple[SnapshotObserved, ...]:
        """Return the snapshot that will be there and is not wanted: nobody may believe yet that there is none."""
        state = self.state
        if state is None or state.coming is None:
            return ()
        wanted = {one.id for one in self.record.intent.snapshots if one.desired is Wish.PRESENT}
        if state.coming in wanted:
            return ()
        return (SnapshotObserved(id=state.coming, size_bytes=state.size_bytes, taken_at=self._clock.now()),)

    def _phase(self) -> VolumePhase:
        if self.record.deleted:
            return VolumePhase.ABSENT
        if self.record.intent.desired is Wish.ABSENT:
            return VolumePhase.DELETING
        return VolumePhase.READY if self.state is not None and self.record.made else VolumePhase.CREATING
