"""What is done around guests, with guests that do as they are told: also while one life ends and the next begins."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nacre.agent.attendance import Attendance
from nacre.agent.host.cgroups import Cgroups, Layout
from nacre.agent.hypervisors.base import Guard, GuestEvent, GuestState, Handle
from nacre.agent.records import Record
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.lib import processes
from nacre.lib.clock import SystemClock
from nacre.model.vms import ExitReason
from support.intents import vm_intent
from support.node import Node
from support.waiting import until

pytestmark = pytest.mark.anyio

GONE = GuestEvent(state=GuestState.GONE, exit_reason=ExitReason.CRASHED)


@dataclass(eq=False)
class Puppet:
    """A guest with a guard and an agent inside. Its process is this one."""

    root: Path
    told: asyncio.Queue[GuestEvent] = field(default_factory=asyncio.Queue)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    detached: bool = False

    def __post_init__(self) -> None:
        started = processes.start_time(os.getpid()) or 0
        self.handle = Handle(pid=os.getpid(), start_time=started, boot_id=processes.boot_id())
        self.guard = Guard(pid=os.getpid(), start_time=started, lease=self.root / "lease")
        self.console_socket = self.guest_socket = self.root / "nobody.sock"
        self.console_log = self.root / "console.log"

    async def state(self) -> GuestState:
        return GuestState.RUNNING

    async def events(self) -> AsyncIterator[GuestEvent]:
        while (event := await self.told.get()) is not GONE:
            yield event
        yield GONE
        await self.over.wait()

    async def detach(self) -> None:
        self.detached = True


class Slow(Cgroups):
    """Groups that take their time to go."""

    def __init__(self) -> None:
        super().__init__(Layout(0, reason="not in tests"))
        self.asked, self.go = threading.Event(), threading.Event()

    def remove(self, vm: str) -> None:
        self.asked.set()
        assert self.go.wait(20)


class Ward(Node):
    """A node without an executor of its own."""

    def __post_init__(self) -> None:
        self.cgroups = Slow()
        super().__post_init__()
        self.attendance = Attendance(self.host, self.consoles, lambda _vm: None)

    def _host(self, **changes):
        return super()._host(cgroups=self.cgroups, **changes)

    def machine(self) -> Machine:
        intent, clock = vm_intent(), SystemClock()
        record = Record(id=intent.id, intent=intent, found_at=clock.now())
        return Machine(record, self.records, clock, lambda: 0.0, changed=lambda _machine: None)


@pytest.fixture
async def ward() -> AsyncIterator[Ward]:
    made = Ward()
    yield made
    await made.attendance.close()
    await made.close()


def looks_inside(machine: Machine) -> int:
    return sum(task.get_name() == f"inside {machine.id}" for task in asyncio.all_tasks())


async def test_the_end_of_a_life_leaves_the_next_one_alone(ward):
    ward.cgroups.go.set()
    machine, first, second = ward.machine(), Puppet(ward.root), Puppet(ward.root)
    await ward.attendance.take(machine, first)
    first.told.put_nowait(GONE)
    await machine.off.wait()
    await ward.attendance.take(machine, second)
    first.over.set()
    await until(lambda: first.detached)
    await until(lambda: looks_inside(machine) == 1)
    assert machine.guest is second
    assert (ward.attendance.guards, second.detached) == (1, False)
    second.told.put_nowait(GONE)
    second.over.set()
    await until(lambda: second.detached)
    await until(lambda: looks_inside(machine) == 0)
    assert (ward.attendance.guards, machine.presence) == (0, Presence.NONE)


async def test_a_watch_that_fails_late_forgets_no_other_guest(ward):
    ward.cgroups.go.set()
    machine, first, second = ward.machine(), Puppet(ward.root), Puppet(ward.root)

    async def broken() -> None:
        raise RuntimeError("on purpose")

    first.over.wait = broken  # type: ignore[method-assign, assignment]
    await ward.attendance.take(machine, first)
    first.told.put_nowait(GONE)
    await machine.off.wait()
    machine.took(second)
    await until(lambda: first.detached)
    assert (machine.guest, machine.presence) == (second, Presence.RUNNING)


async def test_a_machine_is_off_only_when_its_group_is_gone(ward):
    machine, guest = ward.machine(), Puppet(ward.root)
    await ward.attendance.take(machine, guest)
    guest.told.put_nowait(GONE)
    await until(ward.cgroups.asked.is_set)
    assert not await machine.wait_off(0.2)
    ward.cgroups.go.set()
    assert await machine.wait_off(20)


async def test_whoever_leaves_lets_go_of_every_guest(ward):
    machine, guest = ward.machine(), Puppet(ward.root)
    await ward.attendance.take(machine, guest)
    await ward.attendance.close()
    assert guest.detached
    await until(lambda: looks_inside(machine) == 0)
    assert machine.presence is Presence.RUNNING
