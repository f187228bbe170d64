"""What every driver promises about guests with a lease: none outlives it, whoever is stopped, killed or late."""

import asyncio
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest

from nacre.agent.host import locks
from nacre.agent.hypervisors import guarding, registry
from nacre.agent.hypervisors.base import Guest, GuestState, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch
from nacre.lib import processes
from nacre.lib.clock import SystemClock
from nacre.model.convergence import FailureClass
from nacre.model.vms import ExitReason
from support.machines import Watch, printed, ready
from support.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.host,
    pytest.mark.skipif(bool(guarding.obstacle()), reason=guarding.obstacle() or "guards work here"),
]

LONG = 3600.0
QUIET_S = 0.5
"""A guest that says nothing for so long has stopped counting."""


def now() -> float:
    return SystemClock().boottime()


async def counting(lab, lease: Path) -> tuple[Launch, Guest, Watch]:
    """A guarded guest whose console counts on for ever."""
    if lab.emulated:
        launch, guest, watch = await lab.started(lease=lease, kernel_args="fake.tick=0.05")
    else:
        launch, guest, watch = await lab.started(lease=lease)
        await ready(guest)
        _, writer = await asyncio.open_unix_connection(guest.console_socket)
        writer.write(b"\ni=0; while true; do i=$((i+1)); echo tick $i; sleep 0.05; done\n")
        await until(lambda: ticks(guest) > 3, timeout=60)
        writer.close()
    await until(lambda: ticks(guest) > 3, timeout=60)
    return launch, guest, watch


def ticks(guest: Guest) -> int:
    return printed(guest).count("tick ")


async def still(guest: Guest) -> bool:
    """Whether the guest counts no more."""
    before = ticks(guest)
    await asyncio.sleep(QUIET_S)
    return ticks(guest) == before


def guard_pid(guest: Guest) -> int:
    assert guest.guard is not None
    return guest.guard.pid


def is_stopped(guest: Guest) -> bool:
    return processes.is_stopped(guest.handle.pid, guest.handle.start_time)


async def test_guards_are_an_ability_that_the_probe_tells_of(lab):
    assert "guard" in (await lab.driver.probe()).abilities
    assert "guard" in registry.abilities(lab.driver)


async def test_without_a_lease_there_is_no_guard(lab):
    _, guest, _ = await lab.started()
    assert guest.guard is None


async def test_a_guarded_guest_is_like_any_other(lab):
    launch, guest, watch = await lab.started(lease=lab.lease())
    assert guest.guard is not None
    assert guest.guard.lease == launch.lease
    assert os.getsid(guest.handle.pid) == guest.handle.pid
    assert os.getsid(guard_pid(guest)) == guard_pid(guest)
    await ready(guest)
    await guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED
    await watch.end()
    await until(lambda: not processes.is_alive(guest.guard.pid, guest.guard.start_time))


async def test_it_is_frozen_when_its_lease_ends_and_goes_on_with_the_next(lab):
    launch, guest, watch = await counting(lab, lab.lease())
    guarding.write_lease(launch.lease, deadline := now() + 1.0)
    await until(lambda: is_stopped(guest), every=0.001)
    late = now() - deadline
    assert -0.01 < late < 0.25
    assert await guest.state() is GuestState.FROZEN
    assert await still(guest)
    guarding.write_lease(launch.lease, now() + LONG)
    await until(lambda: not is_stopped(guest))
    before = ticks(guest)
    await until(lambda: ticks(guest) > before)
    assert await guest.state() is GuestState.RUNNING
    assert all(event.state is not GuestState.GONE for event in watch.events)


async def test_a_lease_that_is_renewed_in_time_is_not_noticed(lab):
    launch, guest, _ = await counting(lab, lab.lease())
    for _ in range(8):
        guarding.write_lease(launch.lease, now() + 0.6)
        await asyncio.sleep(0.25)
        assert not is_stopped(guest)


@pytest.mark.parametrize("content", [None, "", "soon", "99999999999999999999 another-boot", "99999999999999999999"])
async def test_a_lease_that_cannot_be_read_has_ended(lab, content):
    launch, guest, _ = await lab.started(lease=lab.lease())
    if content is None:
        launch.lease.unlink()
    else:
        launch.lease.write_text(content)
    await until(lambda: is_stopped(guest))


async def test_who_wakes_a_frozen_guest_does_not_wake_it_for_long(lab):
    launch, guest, _ = await counting(lab, lab.lease())
    guarding.write_lease(launch.lease, now() - 1)
    await until(lambda: is_stopped(guest))
    before = ticks(guest)
    for _ in range(20):
        os.kill(guest.handle.pid, signal.SIGCONT)
        await until(lambda: is_stopped(guest), every=0.001)
    assert ticks(guest) - before <= 20  # each time it may have come to a single one


@pytest.mark.parametrize("left", [-1.0, 0.5])
async def test_nothing_is_started_on_a_lease_that_has_ended_or_is_about_to(lab, left):
    launch = lab.launch(lease=lab.lease(left))
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(launch)
    assert caught.value.code == "lease_missing"
    assert caught.value.failure_class is FailureClass.WAITING
    assert caught.value.hint
    assert printed_by(launch) == ""
    assert sorted(path.name for path in launch.run_directory.iterdir()) in ([], ["fake.json"])


def printed_by(launch: Launch) -> str:
    log = launch.directory / "console.log"
    return log.read_text() if log.exists() else ""


async def test_a_guard_that_was_held_up_before_the_start_starts_nothing_late(lab, tmp_path):
    """As when the whole host stood still between the agent's check and the guard's."""
    launch = lab.launch(lease=lab.lease(2.5))
    starting = asyncio.create_task(lab.driver.start(launch))
    pid = await until(lambda: guard_on(launch.lease), every=0)
    os.kill(pid, signal.SIGSTOP)
    if is_begun(launch):  # it was quicker than we; then there is nothing to see here
        os.kill(pid, signal.SIGCONT)
        lab.keep(await starting)
        pytest.skip("the guard had started the guest before it could be held up")
    await until(lambda: guarding.read_lease(launch.lease) - now() < 1.5)
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(DriverError) as caught:
        await starting
    assert caught.value.code == "lease_missing"


def guard_on(lease: Path) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(lease) in words:
            return int(entry.name)
    return None


def is_begun(launch: Launch) -> bool:
    return "tick" in printed_by(launch) or any(launch.run_directory.glob("*.sock"))


async def test_a_killed_guard_takes_its_guest_along(lab):
    _, guest, watch = await lab.started(lease=lab.lease())
    at = time.monotonic()
    os.kill(guard_pid(guest), signal.SIGKILL)
    gone = await watch.until(GuestState.GONE)
    assert gone.exit_reason is ExitReason.CRASHED
    assert time.monotonic() - at < 5
    assert not processes.is_alive(guest.handle.pid, guest.handle.start_time)


async def test_a_killed_guard_takes_a_frozen_guest_along(lab):
    launch, guest, watch = await lab.started(lease=lab.lease())
    launch.lease.unlink()
    await until(lambda: is_stopped(guest))
    os.kill(guard_pid(guest), signal.SIGKILL)
    await watch.until(GuestState.GONE)


async def test_signals_that_ask_to_end_do_not_end_a_guard(lab):
    _, guest, _ = await lab.started(lease=lab.lease())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(guard_pid(guest), number)
    await ready(guest)
    assert await guest.state() is GuestState.RUNNING
    asks_to_end = sum(1 << (number - 1) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    assert signals_of(guest.handle.pid, "SigIgn") & asks_to_end == 0


def signals_of(pid: int, kind: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{kind}:")), 16)


async def test_the_way_a_guarded_guest_ended_is_known(lab):
    _, guest, watch = await lab.started(lease=lab.lease())
    os.kill(guest.handle.pid, signal.SIGKILL)
    gone = await watch.until(GuestState.GONE)
    assert gone.exit_reason is ExitReason.CRASHED
    assert "SIGKILL" in gone.detail
    await until(lambda: not Path(f"/proc/{guard_pid(guest)}").exists())


@pytest.mark.parametrize("frozen", [False, True])
async def test_the_lock_is_free_exactly_when_the_hypervisor_is_gone(lab, frozen):
    launch, guest, _ = await lab.started(lease=lab.lease())
    if frozen:
        launch.lease.unlink()
        await until(lambda: is_stopped(guest))
    os.close(launch.lock_fd)
    lab.locks.remove(launch.lock_fd)
    assert [pid for pid, _ in locks.holders(launch.directory / "lock")] == [guest.handle.pid]
    os.kill(
        guard_pid(guest), signal.SIGSTOP
    )  # it will not see the end, so it still is there when the lock must be free
    lock = os.open(launch.directory / "lock", os.O_RDWR)
    lab.locks.append(lock)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await guest.kill()
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(guard_pid(guest), signal.SIGCONT)


async def test_a_guard_keeps_nothing_open_but_the_log(lab):
    _, guest, _ = await lab.started(lease=lab.lease())
    targets = {link.readlink().name for link in Path(f"/proc/{guard_pid(guest)}/fd").iterdir()}
    assert targets == {"null", "hypervisor.log"}
    assert not any("pipe" in str(link.readlink()) for link in Path(f"/proc/{guest.handle.pid}/fd").iterdir()) or (
        lab.driver.name == "qemu"
    )


async def test_a_guard_is_small(lab):
    _, guest, _ = await lab.started(lease=lab.lease())
    status = Path(f"/proc/{guard_pid(guest)}/status").read_text()
    held = {
        line.split(":")[0]: int(line.split()[1])
        for line in status.splitlines()
        if line.startswith(("VmRSS", "RssAnon"))
    }
    assert held["VmRSS"] < 14 << 10
    assert held["RssAnon"] < 6 << 10


async def test_a_frozen_guest_is_adopted_frozen_and_answers_when_it_is_thawed(lab):
    launch, guest, _ = await lab.started(lease=lab.lease())
    await ready(guest)
    guarding.write_lease(launch.lease, now())
    await until(lambda: is_stopped(guest))
    await guest.detach()
    for handle in (guest.handle, None):
        began = time.monotonic()
        again = lab.keep(await lab.driver.adopt(launch, handle))
        assert again.handle.pid == guest.handle.pid
        assert again.guard == guest.guard
        assert await again.state() is GuestState.FROZEN
        assert time.monotonic() - began < 5
        await again.detach()
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    watch = Watch(again)
    guarding.write_lease(launch.lease, now() + LONG)
    await until(lambda: not is_stopped(again))
    assert await again.state() is GuestState.RUNNING
    await again.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED


async def test_a_frozen_guest_can_be_killed(lab):
    launch, guest, watch = await lab.started(lease=lab.lease())
    launch.lease.unlink()
    await until(lambda: is_stopped(guest))
    await guest.kill()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.KILLED
    await until(lambda: not processes.is_alive(guest.guard.pid, guest.guard.start_time))


async def test_a_guest_whose_file_was_not_its_program_is_an_error_and_leaves_nothing(lab, monkeypatch):
    launch = lab.launch(lease=lab.lease())
    with pytest.raises(FileNotFoundError):
        await guarding.spawn(["/nowhere/hypervisor"], lease=launch.lease, output=launch.directory / "hypervisor.log")
    assert guard_on(launch.lease) is None


async def test_a_start_that_is_given_up_leaves_neither_guard_nor_guest(lab):
    launch = lab.launch(lease=lab.lease())
    starting = asyncio.create_task(lab.driver.start(launch))
    await until(lambda: guard_on(launch.lease), every=0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert guard_on(launch.lease) is None
    assert locks.holders(launch.directory / "lock") == []


async def test_a_handle_finds_the_guest_again_and_its_guard(lab):
    launch, guest, _ = await lab.started(lease=lab.lease())
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    assert again.guard == guest.guard
    assert await lab.driver.adopt(launch, Handle(pid=guard_pid(guest), start_time=1, boot_id="x")) is None
