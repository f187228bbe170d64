"""The meter of a node: samples every machine that runs, keeps what it saw, and shows it. Wired by `main`.

Nothing of this goes to the control plane unless somebody looks.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog

from nacre.agent.meters.rings import Ring
from nacre.agent.meters.samples import Sample, point, points
from nacre.agent.meters.sampling import sample
from nacre.agent.vms.machine import Machine
from nacre.lib.clock import Clock
from nacre.lib.threads import in_thread
from nacre.model.ids import VmId, looks_like_id
from nacre.model.metrics import SAMPLE_S, MetricPoint, MetricSeries, MetricsQuery

FOLDER = "metrics"
_SUFFIX = ".ring"
_HOUR_S = 3600.0
_GAP = 3.5
"""Rates are not computed over so many steps or more."""
_WAITING = 32
"""A viewer that is further behind loses the oldest points."""
_AT_ONCE = 8

log = structlog.get_logger()


class Meter:
    """The samples of all machines of one node."""

    def __init__(self, data: Path, machines: Callable[[], Mapping[VmId, Machine]], clock: Clock) -> None:
        self._folder = data / FOLDER
        self._machines = machines
        self._clock = clock
        self._last: dict[VmId, Sample] = {}
        self._viewers: dict[VmId, set[asyncio.Queue[MetricPoint]]] = {}

    async def run(self) -> None:
        """Sample for ever."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        while True:
            now = self._clock.now().timestamp()
            await asyncio.sleep(SAMPLE_S - now % SAMPLE_S)
            await self.once()

    async def once(self) -> None:
        """Take one sample of every machine that runs, and forget those that are no more."""
        at = round(self._clock.now().timestamp())
        limit = asyncio.Semaphore(_AT_ONCE)
        machines = dict(self._machines())

        async def one(machine: Machine) -> None:
            async with limit:
                await self._one(machine, at)

        await asyncio.gather(*(one(machine) for machine in machines.values()))
        await in_thread(self._sweep, {vm for vm, machine in machines.items() if not machine.record.deleted})

    async def range(self, vm: VmId, query: MetricsQuery) -> MetricSeries:
        """Return what was seen of a machine, from `begin` to `end`. Raises OSError."""
        now = self._clock.now().timestamp()
        end = now if query.end is None else query.end.timestamp()
        begin = end - _HOUR_S if query.begin is None else query.begin.timestamp()
        step, found = await in_thread(self._ring(vm).between, begin, end, now, query.step_s)
        return MetricSeries(step_s=step, points=tuple(points(found, begin=begin, longest_s=_GAP * step)))

    @contextlib.asynccontextmanager
    async def follow(self, vm: VmId) -> AsyncGenerator["asyncio.Queue[MetricPoint]"]:
        """Hand out points of a machine as they are measured, the newest one at once."""
        queue: asyncio.Queue[MetricPoint] = asyncio.Queue()
        viewers = self._viewers.setdefault(vm, set())
        viewers.add(queue)
        try:
            since = datetime.fromtimestamp(self._clock.now().timestamp() - 3 * SAMPLE_S, UTC)
            for newest in (await self.range(vm, MetricsQuery(begin=since))).points[-1:]:
                queue.put_nowait(newest)
            yield queue
        finally:
            viewers.discard(queue)
            if not viewers:
                self._viewers.pop(vm, None)

    def latest(self) -> Mapping[VmId, Sample]:
        """Return the newest sample of each machine that runs."""
        machines = self._machines()
        return {vm: last for vm, last in self._last.items() if vm in machines and machines[vm].guest is not None}

    def names(self) -> Mapping[VmId, str]:
        """Return what machines are called."""
        found = {vm: machine.record.intent for vm, machine in self._machines().items()}
        return {vm: intent.name for vm, intent in found.items() if intent is not None}

    async def _one(self, machine: Machine, at: int) -> None:
        taken = await sample(machine, at)
        if taken is None:
            self._last.pop(machine.id, None)
            return
        try:
            await in_thread(self._ring(machine.id).add, taken)
        except OSError as error:
            log.warning("metrics.not_kept", vm=machine.id, reason=error.strerror, next="the next sample is tried")
        self._show(machine.id, point(self._last.get(machine.id), taken, _GAP * SAMPLE_S))
        self._last[machine.id] = taken

    def _show(self, vm: VmId, measured: MetricPoint) -> None:
        for queue in self._viewers.get(vm, ()):
            if queue.qsize() >= _WAITING:
                queue.get_nowait()
            queue.put_nowait(measured)

    def _ring(self, vm: VmId) -> Ring:
        known = vm if looks_like_id(vm) else "unknown"  # anything else could be a way out of the folder
        return Ring(self._folder / f"{known}{_SUFFIX}")

    def _sweep(self, here: set[VmId]) -> None:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.stem not in here:
                path.unlink(missing_ok=True)
