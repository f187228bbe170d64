"""How guests of Firecracker end and what an absent agent learns of it, their consoles, and trouble."""

import asyncio
import json
import os
import signal
import socket
import time

import pytest

from nacre.agent.host import locks
from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.vms import ExitReason
from support.machines import Watch, printed
from support.patience import within
from support.vmm import swagger
from support.vmm.faults import Fault
from support.vmm.firecracker_lab import config, is_free, laboratory, leftovers, refused, type_on
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lab(monkeypatch):
    async for made in laboratory(monkeypatch):
        yield made


async def test_three_keys_end_a_guest_whose_process_is_gone_then(lab):
    launch, guest, watch = await lab.started()
    await guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED
    assert [event.state for event in watch.events[-2:]] == [GuestState.SHUT_DOWN, GuestState.GONE]
    assert await guest.state() is GuestState.GONE
    assert await lab.driver.adopt(launch, guest.handle) is None


async def test_a_guest_that_went_while_nobody_looked_comes_back_once_to_say_how(lab):
    launch, guest, _ = await lab.started(kernel_args="fake.reboot=0.5")
    await guest.detach()
    await until(lambda: not processes.is_alive(guest.handle.pid, guest.handle.start_time))
    found = lab.keep(await lab.driver.adopt(launch, guest.handle))
    assert await found.state() is GuestState.GONE
    assert (await Watch(found).until(GuestState.GONE)).exit_reason is ExitReason.GUEST_SHUTDOWN
    assert await lab.driver.adopt(launch, guest.handle) is None
    assert leftovers(launch) == []


async def test_a_guest_that_died_while_nobody_looked_does_not_come_back(lab):
    launch, guest, _ = await lab.started()
    await guest.detach()
    os.kill(guest.handle.pid, signal.SIGKILL)
    await until(lambda: not processes.is_alive(guest.handle.pid, guest.handle.start_time))
    assert await lab.driver.adopt(launch, guest.handle) is None


async def test_a_crash_says_with_what_code(lab):
    _, guest, watch = await lab.started()
    await type_on(guest, "crash\n")
    gone = await watch.until(GuestState.GONE)
    assert gone.exit_reason is ExitReason.CRASHED
    assert "status 1" in gone.detail


async def test_a_guest_that_halts_without_rebooting_stays_until_it_is_killed(lab):
    _, guest, watch = await lab.started()
    await type_on(guest, "poweroff\n")
    await until(lambda: "Power down" in printed(guest))
    assert await guest.state() is GuestState.RUNNING
    await guest.kill()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.KILLED


async def test_a_paused_guest_is_woken_to_be_stopped(lab):
    _, guest, watch = await lab.started()
    await guest.pause()
    await guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED


async def test_a_reset_is_refused_for_good_and_changes_nothing(lab):
    _, guest, _ = await lab.started()
    error = await refused(guest.reset(), "unsupported_by_hypervisor")
    assert error.failure_class is FailureClass.PERMANENT
    assert await guest.state() is GuestState.RUNNING


async def test_what_it_writes_stays_small_and_still_says_how_it_ended(lab, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.firecracker.guest._TIDY_S", 0.1)
    launch, guest, _ = await lab.started()
    own_log = launch.run_directory / "firecracker.log"
    while own_log.stat().st_size < 200_000:
        await guest.state()
    monkeypatch.setattr("nacre.agent.hypervisors.firecracker.places.CUT_AT", 100_000)
    await until(lambda: own_log.stat().st_blocks * 512 < 100_000)
    counted = await guest.counters()
    assert counted.disks[0].reads == 256
    await guest.state()
    assert own_log.stat().st_size > 200_000
    await guest.detach()
    (launch.run_directory / "console.in").write_text("reboot\n")
    await until(lambda: not processes.is_alive(guest.handle.pid, guest.handle.start_time))
    found = lab.keep(await lab.driver.adopt(launch, guest.handle))
    assert (await Watch(found).until(GuestState.GONE)).exit_reason is ExitReason.GUEST_SHUTDOWN


async def test_several_may_listen_and_the_log_may_be_cut_meanwhile(lab):
    _, guest, _ = await lab.started()
    first, _ = one = await asyncio.open_unix_connection(guest.console_socket)
    second, _ = other = await asyncio.open_unix_connection(guest.console_socket)
    for word in ("alpha", "beta"):
        one[1].write(f"echo {word}\n".encode())
        for reader in (first, second):
            async with within(10):
                seen = b""
                while seen.count(word.encode()) < 2:
                    seen += await reader.read(4096)
        os.truncate(guest.console_log, 0)
    for _, writer in (one, other):
        writer.close()
        await writer.wait_closed()


async def test_the_console_is_there_again_with_the_agent_and_the_log_has_all_of_it(lab):
    launch, guest, _ = await lab.started(kernel_args="fake.tick=0.02")
    await guest.detach()
    assert not guest.console_socket.exists()
    before = printed(guest).count("tick")
    await until(lambda: printed(guest).count("tick") > before + 3)
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    await type_on(again, "echo here again\n")
    await until(lambda: printed(again).count("here again") == 2)


async def test_who_types_to_a_guest_that_does_not_read_is_not_held_up_for_ever(lab, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.firecracker.console._WRITE_S", 0.2)
    _, guest, _ = await lab.started()
    os.kill(guest.handle.pid, signal.SIGSTOP)
    reader, writer = await asyncio.open_unix_connection(guest.console_socket)
    writer.write(b"x" * 500_000)
    async with within(10):
        await writer.drain()
    writer.close()
    await writer.wait_closed()
    os.kill(guest.handle.pid, signal.SIGCONT)
    assert await guest.state() is GuestState.RUNNING
    del reader


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(kind="crash", path="/machine-config"), "hypervisor_silent"),
        (Fault(kind="crash-after", path="/boot-source"), "hypervisor_silent"),
        (Fault(kind="drop", path="/drives"), "hypervisor_silent"),
        (Fault(kind="silent", path="/actions"), "hypervisor_silent"),
        (Fault(kind="hang", path="/actions"), "hypervisor_silent"),
        (Fault(kind="503", path="/entropy"), "hypervisor_busy"),
        (
            Fault(kind="refuse", path="/actions", body={"fault_message": "Start microvm error: Kvm error: /dev/kvm"}),
            "hypervisor_unavailable",
        ),
        (Fault(kind="refuse", path="/entropy", body={"fault_message": "new words"}), "hypervisor_refused"),
        (Fault(kind="crash", path="/"), "hypervisor_silent"),
    ],
    ids=lambda value: f"{value.kind} {value.path}" if isinstance(value, Fault) else value,
)
async def test_a_start_that_fails_anywhere_leaves_nothing(lab, monkeypatch, fault, code):
    monkeypatch.setattr("nacre.agent.hypervisors.firecracker.driver._ANSWER_S", 1.0)
    lab.spoil(fault)
    launch = lab.launch()
    await refused(lab.driver.start(launch), code)
    assert leftovers(launch) == []
    os.close(launch.lock_fd)
    lab.locks.remove(launch.lock_fd)
    assert is_free(launch)
    assert locks.holders(launch.directory / "lock") == []


async def test_a_start_that_is_given_up_leaves_nothing(lab):
    lab.spoil(Fault(kind="slow", path="/drives", seconds=5))
    launch = lab.launch()
    starting = asyncio.create_task(lab.driver.start(launch))
    await until(lambda: lab.trace.exists() and "/drives" in lab.trace.read_text())
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert leftovers(launch) == []
    assert locks.holders(launch.directory / "lock") == []


async def test_an_answer_that_is_lost_says_nothing_about_what_has_been_done(lab):
    _, guest, _ = await lab.started()
    lab.spoil(Fault(kind="silent", method="PATCH", path="/vm", times=1))
    await guest.pause()
    assert await guest.state() is GuestState.PAUSED
    lab.spoil(Fault(kind="503", method="PATCH", path="/vm"))
    await refused(guest.resume(), "hypervisor_busy")
    assert await guest.state() is GuestState.PAUSED


async def test_a_device_whose_coming_was_not_heard_of_is_not_made_twice(lab):
    _, guest, _ = await lab.started()
    lab.spoil(Fault(kind="silent", method="PUT", path="/drives", times=1))
    more = lab.disk("more")
    for _ in range(2):
        await guest.attach_disk(more)
        assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root", "more"]
    lab.spoil(Fault(kind="silent", method="DELETE", times=1))
    for _ in range(2):
        await guest.detach_disk("more", 5)
        assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root"]


async def test_others_that_ask_too_much_do_not_keep_the_agent_out(lab):
    launch, guest, _ = await lab.started()
    others = [socket.socket(socket.AF_UNIX) for _ in range(12)]
    for each in others:
        each.connect(str(launch.run_directory / "api.sock"))
    assert await guest.state() is GuestState.RUNNING  # it has its connection
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    for each in others:
        each.close()
    await until(lambda: answers(again))


async def answers(guest) -> bool:
    try:
        return await guest.state() is GuestState.RUNNING
    except DriverError:
        return False


async def test_a_stranger_on_the_socket_is_not_taken_for_the_machine(lab):
    launch, guest, _ = await lab.started()
    other_launch, other, _ = await lab.started()
    await guest.detach()
    (launch.run_directory / "api.sock").unlink()
    (launch.run_directory / "api.sock").symlink_to(other_launch.run_directory / "api.sock")
    error = await refused(lab.driver.adopt(launch, guest.handle), "socket_of_another")
    assert error.failure_class is FailureClass.BLOCKED
    assert await lab.driver.adopt(launch, None) is None
    assert await other.state() is GuestState.RUNNING


@pytest.mark.skipif(swagger.document() is None, reason="Firecracker's API document is not here (NACRE_SPECS)")
async def test_a_request_that_the_document_does_not_know_would_have_been_seen(lab):
    await lab.started()
    asked = lab.trace.read_text()
    lab.trace.write_text(asked + json.dumps({"method": "PUT", "path": "/entropy", "body": '{"x": 1}'}) + "\n")
    with pytest.raises(swagger.StrayError, match="/entropy"):
        lab.check_requests()
    lab.trace.write_text(asked)
    assert swagger.check_trace(lab.trace) >= 5


async def test_a_start_is_quick(lab):
    began = time.monotonic()
    await lab.started()
    assert time.monotonic() - began < 5
