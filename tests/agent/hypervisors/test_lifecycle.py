"""Why a guest's process ended, and that it is told once, last, and after the sockets are gone."""

import asyncio
import signal

import pytest

from nacre.agent.hypervisors.base import GuestEvent, GuestState, Handle
from nacre.agent.hypervisors.lifecycle import Life, exit_reason, take_hold
from nacre.lib import processes
from nacre.model.vms import ExitReason

pytestmark = pytest.mark.anyio

PAUSED = GuestEvent(state=GuestState.PAUSED)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"powered_off": True}, ExitReason.GUEST_SHUTDOWN),
        ({"powered_off": True, "killed": True}, ExitReason.GUEST_SHUTDOWN),
        ({"powered_off": True, "asked": True}, ExitReason.STOPPED),
        ({"powered_off": True, "asked": True, "killed": True}, ExitReason.STOPPED),
        ({"killed": True}, ExitReason.KILLED),
        ({"killed": True, "asked": True}, ExitReason.KILLED),
        ({"asked": True}, ExitReason.CRASHED),
        ({}, ExitReason.CRASHED),
    ],
)
def test_the_reason_follows_from_what_was_noted(facts, reason):
    basis = {"asked": False, "killed": False, "powered_off": False, "status": -9}
    assert exit_reason(**(basis | facts))[0] is reason


@pytest.mark.parametrize(("status", "words"), [(-11, "SIGSEGV"), (1, "status 1"), (None, "ended")])
def test_a_crash_says_what_is_known(status, words):
    assert words in exit_reason(asked=False, killed=False, powered_off=False, status=status)[1]


@pytest.fixture
def process(tmp_path):
    return processes.spawn(["sleep", "600"], output=tmp_path / "log")


async def nothing():
    pass


async def test_events_come_in_order_repeats_are_swallowed_and_gone_is_last(process):
    cleaned = []
    life = Life(process, drain=nothing, clean_up=lambda: cleaned.append(True))
    for event in (PAUSED, PAUSED, GuestEvent(state=GuestState.RUNNING), PAUSED):
        life.tell(event)
    await life.kill()
    assert cleaned == [True]
    life.tell(PAUSED)
    states = [event.state async for event in life.events()]
    assert states == [GuestState.PAUSED, GuestState.RUNNING, GuestState.PAUSED, GuestState.GONE]


async def test_what_the_hypervisor_said_last_is_heard_before_gone_is_told(process):
    async def drain():
        await asyncio.sleep(0)
        life.powered_off = True

    life = Life(process, drain=drain, clean_up=lambda: None)
    process.send(signal.SIGKILL)
    gone = [event async for event in life.events()][-1]
    assert gone.exit_reason is ExitReason.GUEST_SHUTDOWN


async def test_neither_a_stuck_drain_nor_a_failing_clean_up_keeps_the_end_from_being_told(process, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.lifecycle._DRAIN_S", 0.05)

    def fail():
        raise PermissionError(1, "Operation not permitted")

    life = Life(process, drain=asyncio.Event().wait, clean_up=fail)
    await life.kill()
    assert [event.state async for event in life.events()] == [GuestState.GONE]


async def test_leaving_does_not_touch_the_process(process):
    life = Life(process, drain=nothing, clean_up=lambda: pytest.fail("cleaned up a living guest"))
    await life.leave()
    assert processes.is_alive(process.pid, process.start_time)
    assert await processes.kill(process.pid, process.start_time)


def test_only_the_very_process_of_this_boot_is_taken_hold_of(process):
    good = {"pid": process.pid, "start_time": process.start_time, "boot_id": processes.boot_id()}
    with take_hold(Handle(**good)) as held:
        assert held.pid == process.pid
        assert take_hold(Handle(**(good | {"boot_id": "earlier"}))) is None
        assert take_hold(Handle(**(good | {"start_time": 1}))) is None
        held.send(signal.SIGKILL)
    process.close()
