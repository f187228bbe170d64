"""The lease of this node: which machines need it, until when it lasts, and the files by which their guards know.

Told by `reporting` of every desired state that is on disk, asked by the session what to send, and told by it what came
back. A lease is counted from when it was asked for, on a clock that counts time asleep and that nobody sets. What is
written here only ever says "until then": a guard freezes its guest when it hears nothing more, whatever became of us.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from nacre.agent.host import leases
from nacre.agent.hypervisors.guarding import FOREVER, is_forever, read_lease, write_lease
from nacre.lib.clock import Clock
from nacre.lib.threads import in_thread
from nacre.model.ids import VmId
from nacre.model.vms import HaPolicy, VmIntent
from nacre.protocol.messages import NodeIntent, Renew, Renewed

log = structlog.get_logger()


class Lease:
    """The lease of one node."""

    def __init__(self, folder: Path, clock: Clock, *, came: Callable[[VmId], None] = lambda _vm: None) -> None:
        """`folder` is where the leases of machines are; `came` hears of machines that have one again, or at last."""
        self._folder = folder
        self._clock = clock
        self._came = came
        self._tenure = 0
        self._highest = 0
        self._refused: int | None = None
        self._deadline = 0.0
        self._granted_under = 0
        self._needs: dict[VmId, Path] = {}
        self._asked: tuple[int, int, float] | None = None
        self._sequence = 0
        self._changed = asyncio.Event()
        self.silences = 0
        """How often in a row the control plane has not answered in time."""

    @property
    def tenure(self) -> int:
        """That of the desired state on disk."""
        return self._tenure

    @property
    def went_back(self) -> tuple[int, int] | None:
        """The tenure that is in force and the highest there was, if that is a higher one: this must never happen."""
        return (self._tenure, self._highest) if self._tenure < self._highest else None

    @property
    def is_needed(self) -> bool:
        """Whether any machine of this node must not run without."""
        return bool(self._needs)

    @property
    def may_ask(self) -> bool:
        """Whether there is anything to ask for: not until another tenure is on disk, if this one was refused."""
        return self.is_needed and self._refused != self._tenure

    @property
    def left_s(self) -> float:
        """How long the node may still run its machines with a lease; 0 if it has none."""
        return max(0.0, self._deadline - self._clock.boottime())

    def told(self, intent: NodeIntent) -> None:
        """Take a desired state that is on disk. Raises nothing: a lease that cannot be written is one that ends."""
        self._highest = max(self._highest, self._tenure, intent.tenure)
        if intent.tenure < self._tenure:
            log.error(
                "tenure.went_back",
                before=self._tenure,
                now=intent.tenure,
                next="it is taken; was an old database restored? machines that have moved since may run twice",
            )
        self._tenure = intent.tenure
        before = self._needs
        # What is coming must find its lease when it belongs here: until then it stands still, lease or not.
        here = (*intent.vms, *(arrival.vm for arrival in intent.arrivals))
        self._needs = {vm.id: self._file(vm) for vm in here if vm.spec.ha is HaPolicy.RESTART}
        there = leases.files(self._folder)
        for vm in here:
            path = self._file(vm)
            if vm.spec.ha is HaPolicy.RESTART:
                if before.get(vm.id) != path or is_forever(path):
                    self._begin(vm.id, path, path in there)
            elif path in there:
                self._write(path, FOREVER)
        self._sweep(there - {self._file(vm) for vm in here})
        if any(before.get(vm) != path for vm, path in self._needs.items()) or self._refused is not None:
            self._changed.set()

    async def wanted(self) -> None:
        """Return when there is something to ask for."""
        while not self.may_ask:
            self._changed.clear()
            await self._changed.wait()
        self._changed.clear()

    async def pause(self, seconds: float) -> None:
        """Return after a while, at once if a machine that needs the lease comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def ask(self) -> Renew:
        """Return what to send now. The lease counts from this moment."""
        self._sequence += 1
        self._asked = (self._sequence, self._tenure, self._clock.boottime())
        return Renew(sequence=self._sequence, tenure=self._tenure)

    async def answered(self, answer: Renewed, lease_s: float) -> bool:
        """Take the answer. False if the lease is refused, and the desired state must be pulled."""
        if self._asked is None or answer.sequence != self._asked[0]:
            return True  # of an older question
        self.silences = 0
        _, tenure, sent_at = self._asked
        if not answer.granted:
            if self._refused != tenure:
                log.warning("lease.refused", tenure=tenure, left_s=round(self.left_s, 1), next="asks what to run now")
            self._refused = tenure
            return False
        if tenure != self._tenure:
            return True  # what it was granted for has been replaced meanwhile; the next question is about that
        had_none = self.left_s <= 0
        self._refused, self._deadline, self._granted_under = None, sent_at + lease_s, tenure
        if had_none:
            log.info("lease.granted", tenure=tenure, machines=len(self._needs), for_s=round(self.left_s, 1))
        needs = dict(self._needs)
        await in_thread(self._write_all, needs.values(), self._deadline)
        if had_none:
            for vm in needs:
                self._came(vm)
        return True

    # Files

    def _begin(self, vm: VmId, path: Path, is_there: bool) -> None:
        """Give a machine that newly needs a lease the one that the node has, if it has one for what it is told now."""
        covered = self._granted_under == self._tenure and self.left_s > 0
        if covered:
            self._write(path, self._deadline)
            self._came(vm)
        elif is_there and is_forever(path):
            self._write(path, 0.0)

    def _write_all(self, paths: Iterable[Path], deadline: float) -> None:
        for path in paths:
            self._write(path, deadline)

    def _write(self, path: Path, deadline: float) -> None:
        try:
            write_lease(path, deadline)
        except OSError as error:
            log.error("lease.not_written", file=path.name, reason=error.strerror, next="tried again with the next")  # noqa: TRY400

    def _sweep(self, strangers: Iterable[Path]) -> None:
        """Remove leases of machines not told of any more, once they have ended: to a guard that is the same."""
        for path in strangers:
            if read_lease(path) <= self._clock.boottime():
                path.unlink(missing_ok=True)

    def _file(self, vm: VmIntent) -> Path:
        return leases.file_of(self._folder, vm.id, vm.fence)
