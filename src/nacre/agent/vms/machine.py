"""One machine as the agent knows it: its record on disk, the guest while there is one, and what is being done to it.

Shared by the recipes and the executor. Changes of the record are written in order; nothing is decided here.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

import msgspec

from nacre.agent.failures import FENCED, fenced, stays_down
from nacre.agent.guest.watch import GuestWatch
from nacre.agent.hypervisors.base import Guest
from nacre.agent.records import Record, RecordStore
from nacre.agent.vms.kept import Checkpoints
from nacre.agent.vms.presence import Presence
from nacre.lib.backoff import Backoff
from nacre.lib.clock import Clock
from nacre.lib.threads import in_thread
from nacre.model.convergence import Failure
from nacre.model.ids import VmId
from nacre.model.migrations import ArrivalObserved, Offer, OutgoingObserved
from nacre.model.vms import Desired, ExitReason, Phase, RestartPolicy, VmObserved

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
HEALTHY_S = 600.0
"""A machine that ran for so long has recovered: its next crash is its first."""

_PRESENT = {
    Presence.STARTING: Phase.STARTING,
    Presence.RUNNING: Phase.RUNNING,
    Presence.PAUSED: Phase.PAUSED,
    Presence.FAILED: Phase.PAUSED,
    Presence.HALTED: Phase.PAUSED,
    Presence.LEAVING: Phase.STOPPING,
}


class Machine:
    """One machine. `off` is set exactly while it is certain that there is no process."""

    def __init__(
        self,
        record: Record,
        records: RecordStore,
        clock: Clock,
        random: Callable[[], float],
        *,
        changed: Callable[["Machine"], None],
    ) -> None:
        """`changed` is called with every change that is worth telling."""
        self.record = record
        self.guest: Guest | None = None
        self.inside: GuestWatch | None = None
        """What is known of the inside of the guest, if there is a way in."""
        self.checkpoints = Checkpoints()
        """What is kept of it."""
        self.frozen = False
        """Whether its guard holds the guest still, because the node's lease has ended."""
        self.resumable = False
        """Whether somebody has asked for a halted guest to go on."""
        self.waits = False
        """Whether what is being done to it waits for a disk that somebody else has."""
        self.delayed = False
        """Whether that was so when it was interrupted."""
        self.failure: Failure | None = None
        self.retry_at = 0.0
        self.outgoing: OutgoingObserved | None = None
        """What is known of its way to another node; None if it is on none, or that has yet to be found out."""
        self.arrival: ArrivalObserved | None = None
        """The same of its way here."""
        self.offer: Offer | None = None
        """What the other node has offered, until that is taken up."""
        self.off = asyncio.Event()
        self._presence = Presence.UNKNOWN
        self._activity: Phase | None = None
        self._records = records
        self._clock = clock
        self._changed = changed
        self._writing = asyncio.Lock()
        self._unwritten = False
        self._failures = Backoff(first=FIRST_PAUSE_S, cap=LONGEST_PAUSE_S, random=random)
        self._crashes = Backoff(first=FIRST_PAUSE_S, cap=LONGEST_PAUSE_S, random=random)
        self._crashes.attempts = record.crashes
        self._healthy_since = clock.monotonic()
        self._shown: tuple[Phase, datetime] | None = None

    @property
    def id(self) -> VmId:
        """Its id."""
        return self.record.id

    # The record

    def note(self, **changes: object) -> None:
        """Change the record in memory; `save` or `flush` makes it durable."""
        self.record = msgspec.structs.replace(self.record, **changes)
        self._unwritten = True

    async def save(self, **changes: object) -> None:
        """Change the record; durable when it returns. Raises OSError."""
        self.note(**changes)
        await self.flush()

    async def flush(self) -> None:
        """Write the record if it has changed since it was last written. Raises OSError."""
        async with self._writing:
            if not self._unwritten:
                return
            self._unwritten = False
            try:
                await in_thread(self._records.save, self.record)
            except BaseException:
                self._unwritten = True
                raise

    # The guest

    @property
    def presence(self) -> Presence:
        """What is known of its process."""
        return self._presence

    @presence.setter
    def presence(self, presence: Presence) -> None:
        self._presence = presence
        if presence is Presence.NONE:
            self.off.set()
        else:
            self.off.clear()

    def took(self, guest: Guest) -> None:
        """Hold a guest that was started or adopted."""
        self.guest = guest
        self.frozen = self.resumable = False
        self.presence = Presence.RUNNING
        self._healthy_since = self._clock.monotonic()

    async def wait_off(self, timeout: float) -> bool:
        """Return True when its process is gone and that is on record, False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.off.wait()
        except TimeoutError:
            return False
        return True

    async def ended(self, reason: ExitReason, detail: str) -> ExitReason:
        """Put on record that its process is gone, and return why as far as we know better than its driver."""
        reason = settled_reason(reason, self.record.ending)
        run = self.record.run
        if run is not None and run.info.exited_at is None:
            info = msgspec.structs.replace(
                run.info, exited_at=self._clock.now(), exit_reason=reason, exit_detail=detail
            )
            ended = msgspec.structs.replace(run, info=info, ended_under=self.record.generation)
            self.note(run=ended, ending=None)
            self._count(reason)
            self._judge(reason, detail)
        self.guest = self.inside = None
        self.thawed()
        try:
            await self.flush()
        finally:
            self.presence = Presence.NONE
        return reason

    def _count(self, reason: ExitReason) -> None:
        """Decide how long to wait before the next start after an end that was not our doing."""
        if reason not in {ExitReason.CRASHED, ExitReason.GUEST_SHUTDOWN}:
            return
        if self._clock.monotonic() - self._healthy_since >= HEALTHY_S:
            self._crashes.reset()
        self.retry_at = self._clock.monotonic() + self._crashes.next()
        self.note(crashes=self._crashes.attempts)

    def _judge(self, reason: ExitReason, detail: str) -> None:
        """Say so if a machine that should run has ended for good, by no wish of anybody."""
        intent = self.record.intent
        if intent is None or intent.desired not in {Desired.RUNNING, Desired.PAUSED}:
            return
        by_itself = reason in {ExitReason.CRASHED, ExitReason.HOST_REBOOT}
        if by_itself and intent.spec.restart is RestartPolicy.NEVER:
            self.failure = stays_down(generation=intent.generation, at=self._clock.now(), why=detail)

    # What is being done

    def enter(self, activity: Phase) -> None:
        """A recipe is at work: the machine shows this phase until `leave`."""
        self._activity = activity
        self.tell()

    def leave(self) -> None:
        """The recipe has ended."""
        self._activity = None

    def tell(self) -> None:
        """Tell how it is now."""
        self._changed(self)

    def forgive(self) -> None:
        """A newer intent is a fresh start: earlier failures and crashes say nothing about it."""
        self.failure = None
        self.retry_at = 0.0
        self._failures.reset()
        self._crashes.reset()

    def recovered(self) -> None:
        """What failed has worked."""
        self.failure = None
        self._failures.reset()

    def pause_after_failure(self) -> float:
        """Return how long to wait now, longer each time, and note when that is over."""
        delay = self._failures.next()
        self.retry_at = self._clock.monotonic() + delay
        return delay

    @property
    def failures(self) -> int:
        """How often in a row something has failed."""
        return self._failures.attempts

    def froze(self) -> None:
        """Its guard holds the guest still."""
        self.frozen = True
        self.failure = fenced(generation=self.record.generation, at=self._clock.now())

    def thawed(self) -> None:
        """Its guard has let go of the guest, or it has ended."""
        self.frozen = False
        if self.failure is not None and self.failure.code == FENCED:
            self.failure = None

    # How it is shown

    def observed(self) -> VmObserved:
        """Return what there is to tell."""
        phase = self._phase()
        if self._shown is None or (phase is Phase.RUNNING and self._shown[0] is Phase.STARTING):
            self._shown = (phase, self._since(phase))
        elif self._shown[0] is not phase:
            self._shown = (phase, self._clock.now())
        record = self.record
        return VmObserved(
            id=record.id,
            generation=record.generation,
            fence=record.fence,
            phase=phase,
            since=self._shown[1],
            run=record.run.info if record.run is not None else None,
            reboot_nonce=record.reboot_nonce,
            reset_nonce=record.reset_nonce,
            restarts=record.restarts,
            failure=self.failure,
            guest=self.inside.info if self.inside is not None else None,
            outgoing=self.outgoing,
            arriving=self.arrival,
            restore_nonce=record.restore_nonce,
            checkpoints=self.checkpoints.observed(),
        )

    def _phase(self) -> Phase:
        record = self.record
        if record.deleted:
            return Phase.ABSENT
        if self._activity is not None:
            return self._activity
        if record.sending is not None and self._presence is Presence.PAUSED:
            return Phase.RUNNING  # it stands still between two nodes, by nobody's wish
        if self._presence in _PRESENT:
            return _PRESENT[self._presence]
        if self._presence is Presence.UNKNOWN:
            return Phase.RUNNING if record.is_alive else Phase.STARTING if record.starting else self._phase_off()
        return self._phase_off()

    def _phase_off(self) -> Phase:
        intent, run = self.record.intent, self.record.run
        wanted = intent is not None and intent.desired in {Desired.RUNNING, Desired.PAUSED}
        if not wanted:
            return Phase.STOPPED
        if run is None:
            return Phase.PREPARING
        if run.info.exit_reason in {ExitReason.CRASHED, ExitReason.HOST_REBOOT}:
            return Phase.CRASHED
        return Phase.STOPPED

    def _since(self, phase: Phase) -> datetime:
        """When a phase began that was there before the agent was."""
        info = self.record.run.info if self.record.run is not None else None
        if info is None:
            return self.record.found_at
        return info.started_at if phase is Phase.RUNNING else info.exited_at or self._clock.now()


def settled_reason(told: ExitReason, ending: ExitReason | None) -> ExitReason:
    """Return why a life ended, from what its driver says and what is on record as begun. Pure.

    A driver that was not there when the guest was asked to power off, or when its process was killed, cannot know.
    """
    match told, ending:
        case ExitReason.GUEST_SHUTDOWN, ExitReason.STOPPED | ExitReason.KILLED:
            return ExitReason.STOPPED
        case ExitReason.CRASHED | ExitReason.KILLED, ExitReason.FENCED:
            return ExitReason.FENCED
        case ExitReason.CRASHED, ExitReason.KILLED | ExitReason.GUEST_SHUTDOWN:
            return ending
        case _:
            return told
