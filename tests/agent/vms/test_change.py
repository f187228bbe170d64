"""Changing a machine while it runs: looked at, done, put on record, and refused only for good."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from nacre.agent.hypervisors.abilities import Sizes
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.records import Record, Run
from nacre.agent.vms.change import change
from nacre.model.convergence import FailureClass
from nacre.model.hardware import Balloon, CpuOptions, DiskOptions, MemoryOptions, RateLimits, TokenBucket
from nacre.model.ids import ImageId, RunId, VmId
from nacre.model.units import GIB, MIB
from nacre.model.vm_changes import in_force, pending, restart_required
from nacre.model.vms import RunInfo, VmSpec

pytestmark = pytest.mark.anyio

VM = VmId("vm-1")
STARTED = VmSpec(
    image=ImageId("img-1"),
    memory_bytes=GIB,
    cpu=CpuOptions(max=4),
    memory=MemoryOptions(max_bytes=2 * GIB, balloon=Balloon()),
)
LIMITS = RateLimits(operations=TokenBucket(size=100))
WANTED = msgspec.structs.replace(
    STARTED,
    cpus=3,
    memory_bytes=2 * GIB,
    disk_bytes=4 * GIB,
    memory=msgspec.structs.replace(STARTED.memory, balloon=Balloon(reclaim_bytes=64 * MIB)),
    root_disk=DiskOptions(limits=LIMITS),
)


class Plain:
    """A guest that can nothing."""

    handle = SimpleNamespace(pid=1)


class Able(Plain):
    """A guest that does what it is asked, and remembers it."""

    def __init__(self, cpus: int = 1, memory_bytes: int = GIB) -> None:
        self.now = Sizes(cpus=cpus, memory_bytes=memory_bytes)
        self.asked: list[tuple[str, object]] = []
        self.trouble: dict[str, DriverError] = {}

    def _do(self, name: str, value: object) -> None:
        if name in self.trouble:
            raise self.trouble[name]
        self.asked.append((name, value))

    async def sizes(self) -> Sizes:
        return self.now

    async def resize_cpus(self, cpus: int) -> None:
        self._do("cpus", cpus)

    async def resize_memory(self, memory_bytes: int) -> None:
        self._do("memory", memory_bytes)

    async def reclaim(self, reclaim_bytes: int) -> None:
        self._do("reclaim", reclaim_bytes)

    async def resize_disk(self, disk: str, size_bytes: int) -> None:
        self._do(disk, size_bytes)

    async def limit_disk(self, disk: str, limits: RateLimits) -> None:
        self._do(f"{disk} limits", limits)

    async def limit_nic(self, nic: str, receive: RateLimits, send: RateLimits) -> None:
        self._do(f"{nic} limits", (receive, send))


class Written:
    """A machine as far as its record goes."""

    def __init__(self) -> None:
        info = RunInfo(
            id=RunId("run-1"),
            started_at=datetime(2030, 1, 1, tzinfo=UTC),
            accelerator="tcg",
            accelerator_reason="",
            cpus=1,
            memory_bytes=GIB,
            config=in_force(STARTED),
        )
        run = Run(info=info, hypervisor="fake", handle={})
        self.id = VM
        self.record = Record(id=VM, run=run, found_at=info.started_at)
        self.told = 0

    async def save(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)

    def tell(self) -> None:
        self.told += 1

    @property
    def info(self) -> RunInfo:
        assert self.record.run is not None
        return self.record.run.info


class Bounds:
    """What control groups were told."""

    def __init__(self) -> None:
        self.set: list[int] = []

    def add(self, vm: VmId, pid: int, memory_bytes: int) -> None:
        self.set.append(memory_bytes)


async def changed(machine: Written, guest: Plain, spec: VmSpec = WANTED) -> Bounds:
    bounds = Bounds()
    host: Any = SimpleNamespace(cgroups=bounds)
    await change(machine, guest, spec, host)  # type: ignore[arg-type]
    return bounds


async def test_everything_that_differs_is_changed_and_put_on_record() -> None:
    machine, guest = Written(), Able()
    bounds = await changed(machine, guest)
    assert guest.asked == [
        ("cpus", 3),
        ("memory", 2 * GIB),
        ("root", 4 * GIB),
        ("reclaim", 64 * MIB),
        ("root limits", LIMITS),
    ]
    assert bounds.set == [2 * GIB]  # before the guest uses more
    assert pending(WANTED, machine.info) == restart_required(WANTED, machine.info) == ()
    assert machine.told == 5
    await changed(machine, guest)
    assert len(guest.asked) == 5


async def test_what_was_done_before_the_agent_died_is_not_done_again() -> None:
    machine, guest = Written(), Able(cpus=3, memory_bytes=2 * GIB)
    await changed(machine, guest)
    assert not {"cpus", "memory"} & {name for name, _ in guest.asked}
    assert (machine.info.cpus, machine.info.memory_bytes) == (3, 2 * GIB)


async def test_what_the_hypervisor_refuses_for_good_waits_for_a_restart_and_the_rest_is_done() -> None:
    machine, guest = Written(), Able()
    guest.trouble["cpus"] = DriverError("no", "no", hint="restart", failure_class=FailureClass.PERMANENT)
    await changed(machine, guest)
    assert restart_required(WANTED, machine.info) == ("cpus",)
    assert pending(WANTED, machine.info) == ()
    assert len(guest.asked) == 4


async def test_what_fails_for_now_is_an_error_and_still_to_be_done() -> None:
    machine, guest = Written(), Able()
    guest.trouble["memory"] = DriverError("guest_holds_memory", "not yet", hint="wait")
    with pytest.raises(DriverError):
        await changed(machine, guest)
    assert (machine.info.cpus, machine.info.memory_bytes) == (3, GIB)
    assert "memory_bytes" in pending(WANTED, machine.info)


async def test_a_guest_that_can_nothing_needs_a_restart_for_everything() -> None:
    machine = Written()
    await changed(machine, Plain())
    assert len(restart_required(WANTED, machine.info)) == 5
