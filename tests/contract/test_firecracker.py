"""What the driver of Firecracker promises besides: its guests' abilities, saved machines, jails, and trouble."""

import asyncio
import fcntl
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.host import locks
from nacre.agent.hypervisors import abilities
from nacre.agent.hypervisors.abilities import DeviceCounters, Sizes
from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Confinement, RbdDisk, VhostUserDisk
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.hardware import NO_LIMITS, Balloon, HotplugMethod, MemoryOptions, NicOptions, RateLimits, TokenBucket
from nacre.model.units import MIB
from nacre.model.vms import ExitReason
from support.machines import Watch, printed, ready
from support.vmm.faults import Fault
from support.vmm.firecracker_lab import FirecrackerLab
from support.waiting import until

pytestmark = pytest.mark.anyio

LIMITS = RateLimits(bandwidth=TokenBucket(size=1000), operations=TokenBucket(size=10, refill_ms=100, burst=5))
USER = os.geteuid() or 60124


@pytest.fixture
async def lab(monkeypatch):
    made = FirecrackerLab()
    made.set_up(monkeypatch)
    yield made
    made.check_requests()
    await made.close()


async def refused(awaitable, code: str) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await awaitable
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


async def config(guest) -> dict:
    return dict(await guest._api.ask("/vm/config", timeout=5))


async def type_on(guest, text: str) -> None:
    _, writer = await asyncio.open_unix_connection(guest.console_socket)
    writer.write(text.encode())
    await writer.drain()
    writer.close()


def is_free(launch) -> bool:
    with (launch.directory / "lock").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def leftovers(launch) -> list[str]:
    return sorted(path.name for path in launch.run_directory.iterdir())


# Abilities


async def test_what_it_can_beyond_the_core(lab):
    _, guest, _ = await lab.started()
    for ability in ("CanHotplug", "CanResize", "CanResizeDisks", "CanLimit", "CanCheckpoint", "HasCounters"):
        assert isinstance(guest, getattr(abilities, ability)), ability
    for ability in ("CanRestore", "CanOffer", "CanGuard"):
        assert isinstance(lab.driver, getattr(abilities, ability)), ability
    for ability in ("CanMigrate", "HasDisplay", "HasGuestChannel"):
        assert not isinstance(guest, getattr(abilities, ability)), ability


async def test_disks_come_and_go_as_often_as_one_likes(lab):
    _, guest, _ = await lab.started()
    more = lab.disk("data-1", read_only=True)
    for _ in range(2):
        await guest.attach_disk(more)
        assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root", "data_2d1"]
    for _ in range(2):
        await guest.detach_disk("data-1", 5)
        assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root"]
    await guest.attach_disk(more)
    error = await refused(guest.detach_disk("root", 5), "device_in_use")
    assert error.failure_class is FailureClass.PERMANENT


async def test_nics_come_and_go_as_often_as_one_likes(lab):
    _, guest, _ = await lab.started(nics=(lab.nic(),))
    more = replace(lab.nic("nic-1", "tap1", 2), options=NicOptions(mtu=1400, send_limits=LIMITS))
    for _ in range(2):
        await guest.attach_nic(more)
        found = (await config(guest))["network-interfaces"]
        assert [(each["iface_id"], each["mtu"]) for each in found] == [("nic_2d0", None), ("nic_2d1", 1400)]
    for _ in range(2):
        await guest.detach_nic("nic-1", 5)
    await refused(guest.attach_nic(replace(more, device="none")), "tap_unavailable")
    await refused(guest.attach_nic(replace(lab.nic(last=1), id="nic-2")), "mac_in_use")


async def test_what_cannot_be_connected_is_refused_before_anything_is_asked(lab):
    _, guest, _ = await lab.started()
    asked = lab.trace.read_text()
    await refused(guest.attach_disk(lab.disk("q", format="qcow2")), "disk_unsupported")
    rbd = RbdDisk(id="r", pool="p", image="i", configuration=Path("/c"))
    await refused(guest.attach_disk(rbd), "disk_unsupported")
    await refused(guest.attach_nic(replace(lab.nic(), options=NicOptions(queues=2))), "unsupported_by_hypervisor")
    assert lab.trace.read_text() == asked


async def test_an_older_release_adds_no_devices(lab, monkeypatch):
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.15.0")
    _, guest, _ = await lab.started()
    await refused(guest.attach_disk(lab.disk("more")), "wrong_state")
    assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root"]


async def test_limits_are_replaced_as_a_whole(lab):
    _, guest, _ = await lab.started(nics=(lab.nic(),))
    await guest.limit_disk("root", LIMITS)
    limited = {
        "bandwidth": {"size": 1000, "refill_time": 1000},
        "ops": {"size": 10, "refill_time": 100, "one_time_burst": 5},
    }
    assert (await config(guest))["drives"][0]["rate_limiter"] == limited
    await guest.limit_disk("root", RateLimits(operations=LIMITS.operations))
    assert (await config(guest))["drives"][0]["rate_limiter"] == {"ops": limited["ops"]}
    await guest.limit_disk("root", NO_LIMITS)
    assert (await config(guest))["drives"][0]["rate_limiter"] is None
    await guest.limit_nic("nic-0", LIMITS, NO_LIMITS)
    nic = (await config(guest))["network-interfaces"][0]
    assert (nic["rx_rate_limiter"], nic["tx_rate_limiter"]) == (limited, None)
    await refused(guest.limit_disk("none", LIMITS), "device_not_found")


async def test_the_balloon_takes_and_gives(lab):
    _, guest, _ = await lab.started(memory=MemoryOptions(balloon=Balloon(reclaim_bytes=16 * MIB)))
    assert await guest.sizes() == Sizes(cpus=1, memory_bytes=128 * MIB, reclaimed_bytes=16 * MIB)
    for size in (64 * MIB, 0):
        await guest.reclaim(size)
        assert (await guest.sizes()).reclaimed_bytes == size
    await refused(guest.reclaim(256 * MIB), "balloon_too_large")


async def test_without_a_balloon_nothing_is_reclaimed(lab):
    _, guest, _ = await lab.started()
    assert await guest.sizes() == Sizes(cpus=1, memory_bytes=128 * MIB)
    await refused(guest.reclaim(MIB), "device_not_found")


async def test_memory_grows_and_shrinks_between_what_it_began_with_and_its_maximum(lab):
    options = MemoryOptions(max_bytes=384 * MIB, hotplug=HotplugMethod.VIRTIO_MEM)
    _, guest, _ = await lab.started(memory=options)
    for size in (256, 384, 384, 128):
        await guest.resize_memory(size * MIB)
        assert (await guest.sizes()).memory_bytes == size * MIB
    await refused(guest.resize_memory(512 * MIB), "memory_size_refused")
    await refused(guest.resize_memory(64 * MIB), "unsupported_by_hypervisor")


async def test_memory_without_room_and_cpus_stay_as_they_are(lab):
    _, guest, _ = await lab.started()
    await guest.resize_memory(128 * MIB)
    await guest.resize_cpus(1)
    await refused(guest.resize_memory(256 * MIB), "unsupported_by_hypervisor")
    await refused(guest.resize_cpus(2), "unsupported_by_hypervisor")


async def test_a_disk_grows_and_never_shrinks(lab):
    _, guest, _ = await lab.started()
    for _ in range(2):
        await guest.resize_disk("root", 4 << 20)
        assert (lab.root / "root.raw").stat().st_size == 4 << 20
    assert '"path_on_host": "disks/root"' in lab.trace.read_text().splitlines()[-1].replace('\\"', '"')
    await refused(guest.resize_disk("root", 1 << 20), "disk_shrinks")
    await refused(guest.resize_disk("none", 1 << 30), "device_not_found")


async def test_what_goes_through_devices_is_counted_whoever_asks(lab):
    launch, guest, _ = await lab.started(nics=(lab.nic(),))
    first = await guest.counters()
    assert first.disks == (DeviceCounters(id="root", read_bytes=1 << 20, written_bytes=4096, reads=256, writes=1),)
    assert first.nics == (DeviceCounters(id="nic-0", read_bytes=1500, written_bytes=3000, reads=1, writes=2),)
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    second = await again.counters()
    assert second.disks == first.disks
    assert second.nics[0].read_bytes == 3000


# Saved machines


async def noted(lab, **changes):
    """A paused guest that remembers something."""
    launch, guest, _ = await lab.started(**changes)
    await type_on(guest, "note the answer\n")
    await until(lambda: "note the answer" in printed(guest))
    await guest.pause()
    return launch, guest


def folder(lab) -> Path:
    made = lab.root / "checkpoint"
    made.mkdir()
    return made


async def remembers(guest) -> None:
    assert await guest.state() is GuestState.PAUSED
    await guest.resume()
    await type_on(guest, "notes\n")
    await until(lambda: "\nthe answer" in printed(guest))


async def test_a_machine_goes_on_where_it_was_saved_with_other_disks_and_taps(lab):
    _, guest = await noted(lab, disks=(lab.disk(), lab.disk("data-1")), nics=(lab.nic(),))
    saved = folder(lab)
    await guest.save(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "memory", "state"]
    assert {path.stat().st_mode & 0o777 for path in saved.iterdir()} == {0o600}
    assert await guest.state() is GuestState.PAUSED
    await guest.kill()
    launch = lab.launch(disks=(lab.disk("a"), lab.disk("b")), nics=(lab.nic("other", "tap9"),))
    again = lab.keep(await lab.driver.restore(launch, saved))
    found = await config(again)
    assert found["network-interfaces"][0]["host_dev_name"] == "tap9"
    assert (launch.run_directory / "disks" / "data_2d1").resolve() == lab.root / "b.raw"
    await remembers(again)
    await again.kill()
    assert leftovers(launch) == []
    assert (saved / "memory").exists()


async def test_a_running_machine_is_not_saved(lab):
    _, guest, _ = await lab.started()
    await refused(guest.save(folder(lab)), "not_paused")


async def test_while_it_is_saved_a_machine_counts_as_paused(lab):
    _, guest = await noted(lab)
    lab.spoil(Fault(kind="slow", path="/snapshot/create", seconds=0.5))
    saving = asyncio.create_task(guest.save(folder(lab)))
    await until(lambda: "snapshot/create" in lab.trace.read_text())
    assert await guest.state() is GuestState.PAUSED
    await saving


async def test_another_release_does_not_go_on_with_it(lab, monkeypatch):
    _, guest = await noted(lab)
    saved = folder(lab)
    await guest.save(saved)
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.16.0")
    os.utime(lab.root / "bin" / "firecracker", ns=(1, 1))
    launch = lab.launch()
    error = await refused(lab.driver.restore(launch, saved), "checkpoint_incompatible")
    assert "1.17.0" in error.message
    assert "1.16.0" in error.message
    assert leftovers(launch) == []


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda saved: (saved / "state").write_bytes(b"{}\n0"), "checkpoint_unusable"),
        (lambda saved: (saved / "memory").unlink(), "checkpoint_unusable"),
        (lambda saved: (saved / "manifest.json").write_text("{"), "checkpoint_unusable"),
        (lambda saved: (saved / "manifest.json").unlink(), "checkpoint_unusable"),
    ],
)
async def test_what_is_not_whole_is_not_restored_and_leaves_nothing(lab, spoil, code):
    _, guest = await noted(lab)
    saved = folder(lab)
    await guest.save(saved)
    spoil(saved)
    launch = lab.launch()
    await refused(lab.driver.restore(launch, saved), code)
    assert leftovers(launch) == []
    os.close(launch.lock_fd)
    lab.locks.remove(launch.lock_fd)
    assert is_free(launch)


async def test_a_machine_that_has_become_another_is_not_restored(lab):
    _, guest = await noted(lab)
    saved = folder(lab)
    await guest.save(saved)
    await refused(lab.driver.restore(lab.launch(disks=()), saved), "checkpoint_unlike")
    await refused(lab.driver.restore(lab.launch(nics=(lab.nic(),)), saved), "checkpoint_unlike")


async def test_a_machine_with_a_disk_that_another_process_serves_is_not_saved(lab):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(lab.root / "far.sock"))
        server.listen()
        _, guest = await noted(lab, disks=(VhostUserDisk(id="far", socket=lab.root / "far.sock"),))
        error = await refused(guest.save(folder(lab)), "device_not_saved")
    assert error.failure_class is FailureClass.PERMANENT


# The end, and what an absent agent learns of it


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


# The console


async def test_several_may_listen_and_the_log_may_be_cut_meanwhile(lab):
    _, guest, _ = await lab.started()
    first, _ = one = await asyncio.open_unix_connection(guest.console_socket)
    second, _ = other = await asyncio.open_unix_connection(guest.console_socket)
    for word in ("alpha", "beta"):
        one[1].write(f"echo {word}\n".encode())
        for reader in (first, second):
            async with asyncio.timeout(10):
                seen = b""
                while seen.count(word.encode()) < 2:
                    seen += await reader.read(4096)
        os.truncate(guest.console_log, 0)
    for _, writer in (one, other):
        writer.close()


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
    async with asyncio.timeout(10):
        await writer.drain()
    writer.close()
    os.kill(guest.handle.pid, signal.SIGCONT)
    assert await guest.state() is GuestState.RUNNING
    del reader


# Trouble


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
    lab.spoil(Fault(kind="silent", path="/vm", times=1))
    await refused(guest.pause(), "hypervisor_silent")
    assert await guest.state() is GuestState.PAUSED
    await guest.pause()
    await guest.resume()
    assert await guest.state() is GuestState.RUNNING


async def test_a_device_whose_coming_was_not_heard_of_is_not_made_twice(lab):
    _, guest, _ = await lab.started()
    lab.spoil(Fault(kind="silent", method="PUT", path="/drives", times=1))
    more = lab.disk("more")
    await refused(guest.attach_disk(more), "hypervisor_silent")
    await guest.attach_disk(more)
    assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root", "more"]


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


async def test_requests_with_a_wrong_member_would_have_been_seen(lab):
    await lab.started()
    assert len(lab.trace.read_text().splitlines()) >= 5


# Jails


def confined(lab) -> Confinement:
    (lab.root / "jails").mkdir(exist_ok=True)
    lab.root.chmod(0o755)
    return Confinement(uid=USER, gid=USER, jail=lab.root / "jails")


def jail_of(lab, launch) -> Path:
    return lab.root / "jails" / "firecracker" / launch.vm


async def test_a_machine_lives_in_a_jail_like_any_other(lab):
    launch, guest, watch = await lab.started(confinement=confined(lab), nics=(lab.nic(),))
    root = jail_of(lab, launch) / "root"
    assert sorted(path.name for path in (root / "disks").iterdir()) == ["root"]
    assert (root / "disks" / "root").stat().st_ino == (lab.root / "root.raw").stat().st_ino
    assert (lab.root / "root.raw").stat().st_uid == USER
    assert Path(f"/proc/{guest.handle.pid}/cwd").resolve() == root
    assert f"Uid:\t{USER}" in Path(f"/proc/{guest.handle.pid}/status").read_text()
    await guest.attach_disk(lab.disk("more"))
    await guest.resize_disk("more", 2 << 20)
    assert (await guest.counters()).disks
    await type_on(guest, "echo inside\n")
    await until(lambda: printed(guest).count("inside") == 2)
    await guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED
    assert not jail_of(lab, launch).exists()
    assert leftovers(launch) == []
    assert (lab.root / "root.raw").exists()


async def test_the_lock_is_held_from_within_the_jail(lab):
    launch, guest, _ = await lab.started(confinement=confined(lab))
    os.close(launch.lock_fd)
    lab.locks.remove(launch.lock_fd)
    assert [pid for pid, _ in locks.holders(launch.directory / "lock")] == [guest.handle.pid]
    assert not is_free(launch)
    await guest.kill()
    assert is_free(launch)


async def test_a_machine_in_a_jail_is_adopted_and_cleared_away(lab):
    launch, guest, _ = await lab.started(confinement=confined(lab))
    await guest.detach()
    away = replace(launch, confinement=None)
    for handle in (guest.handle, None):
        again = lab.keep(await lab.driver.adopt(away, handle))
        assert await again.state() is GuestState.RUNNING
        await again.detach()
    again = lab.keep(await lab.driver.adopt(away, None))
    await again.kill()
    assert not jail_of(lab, launch).exists()
    assert leftovers(launch) == []


async def test_what_a_dead_life_left_in_a_jail_is_cleared_away_by_the_next(lab):
    launch, guest, _ = await lab.started(confinement=confined(lab))
    await guest.detach()
    os.kill(guest.handle.pid, signal.SIGKILL)
    await until(lambda: not processes.is_alive(guest.handle.pid, guest.handle.start_time))
    for path in launch.run_directory.iterdir():
        if path.name != "disks":
            path.unlink()
    assert jail_of(lab, launch).exists()
    again = lab.keep(await lab.driver.start(launch))
    await ready(again, times=2)


async def test_a_machine_is_saved_in_a_jail_and_goes_on_in_another(lab):
    _, guest = await noted(lab, confinement=confined(lab))
    saved = folder(lab)
    await guest.save(saved)
    await guest.kill()
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "memory", "state"]
    launch = lab.launch(confinement=confined(lab))
    await remembers(lab.keep(await lab.driver.restore(launch, saved)))


async def test_a_jailer_that_fails_leaves_nothing(lab):
    jailer = lab.root / "bin" / "jailer"
    jailer.write_text("#!/bin/sh\necho no luck >&2\nexit 1\n")
    launch = lab.launch(confinement=confined(lab))
    await refused(lab.driver.start(launch), "hypervisor_start_failed")
    assert not jail_of(lab, launch).exists()
    assert leftovers(launch) == []


async def test_a_start_is_quick(lab):
    began = time.monotonic()
    await lab.started()
    assert time.monotonic() - began < 5
