"""What the driver of Cloud Hypervisor can do beyond the core, and what happens when calls fail."""

import asyncio
import json
import os
import random
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors import registry
from nacre.agent.hypervisors.abilities import (
    CanCheckpoint,
    CanGuard,
    CanHotplug,
    CanMigrate,
    CanOffer,
    CanReceive,
    CanResize,
    CanResizeDisks,
    CanRestore,
    HasCounters,
    MigrationProgress,
    MigrationState,
    MigrationTerms,
    Sizes,
)
from nacre.agent.hypervisors.base import Guest, GuestState
from nacre.agent.hypervisors.cloud_hypervisor import config, paths
from nacre.agent.hypervisors.cloud_hypervisor.driver import CloudHypervisor
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile, Launch, MacvtapNic, TapNic, VhostUserDisk
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.hardware import Balloon, ConsoleMode, CpuOptions, DeviceOptions, HotplugMethod, MemoryOptions
from nacre.model.units import GIB, MIB
from nacre.model.vms import ExitReason
from support.machines import Watch, printed, ready
from support.vmm.faults import FAULTS
from support.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.host,
    pytest.mark.parametrize("lab", ["cloud-hypervisor"], indirect=True),
]

EMULATED = "needs the stand-in, whose guest does as it is told"


@pytest.fixture(autouse=True)
def faults(lab, monkeypatch) -> Path:
    """Where what is to go wrong is written down."""
    if not lab.emulated:
        pytest.skip(EMULATED)
    path = lab.root / "faults"
    monkeypatch.setenv(FAULTS, str(path))
    return path


def failing(faults: Path, call: str, kind: str = "refuse", **more) -> None:
    refusal = {"status": 500, "body": ["Error from API", "no"]} if kind == "refuse" else {}
    faults.write_text(json.dumps([{"kind": kind, "path": f"/api/v1/{call}", **refusal, **more}]))


def disk(lab, name: str = "data") -> DiskFile:
    path = lab.root / f"{name}.raw"
    path.write_bytes(bytes(MIB))
    return DiskFile(id=name, path=path, format="raw")


def nic(name: str = "nic0", device: str = "tap0") -> TapNic:
    return TapNic(id=name, mac="52:4e:00:00:00:01", device=device)


def leftovers(launch) -> list[str]:
    return sorted(path.name for path in launch.run_directory.iterdir())


async def info(guest: Guest) -> dict:
    return await guest._api.ask("vm.info", timeout=5)


async def typed(guest: Guest, line: str) -> None:
    _, writer = await asyncio.open_unix_connection(guest.console_socket)
    writer.write(f"\n{line}\n".encode())
    await writer.drain()
    await until(lambda: line in printed(guest))
    writer.close()


async def test_its_abilities_are_those_that_its_offer_promises(lab):
    _, guest, _ = await lab.started()
    for ability in (CanGuard, CanOffer, CanReceive, CanRestore):
        assert isinstance(lab.driver, ability)
    for ability in (CanHotplug, CanResize, CanResizeDisks, CanCheckpoint, CanMigrate, HasCounters):
        assert isinstance(guest, ability)


# Probing and starting


async def test_where_it_is_not_installed_that_is_said(lab, monkeypatch):
    monkeypatch.setenv("PATH", str(lab.root / "nowhere"))
    told = await registry.load("cloud-hypervisor", lab.root).probe()
    assert not told.available
    assert "not installed" in told.reason


@pytest.mark.parametrize("version", ["52.0", "15.0"])
async def test_old_releases_are_refused(lab, monkeypatch, version):
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", version)
    told = await registry.load("cloud-hypervisor", lab.root).probe()
    assert not told.available
    assert "too old" in told.reason


async def test_without_kvm_it_is_not_available(lab):
    (lab.root / "kvm").unlink()
    told = await lab.driver.probe()
    assert not told.available
    assert "KVM" in told.reason


async def test_kvm_is_proven_by_a_kernel_and_the_verdict_is_kept(lab):
    assert "not proven" in (await lab.driver.probe()).reason
    await lab.driver.prove_acceleration(lab.root / "bin" / "cloud-hypervisor")
    told = await lab.driver.probe()
    assert told.available
    assert "prove-acceleration" in told.abilities
    again = CloudHypervisor(state_directory=lab.root / "state", kvm=lab.root / "kvm")
    assert "not proven" not in (await again.probe()).reason


@pytest.mark.parametrize("why", ["dead", "refused"])
async def test_where_kvm_does_not_run_guests_none_is_started(lab, monkeypatch, why):
    if why == "dead":
        monkeypatch.setattr("nacre.agent.hypervisors.cloud_hypervisor.proof.prove.__defaults__", (0.5,))
    monkeypatch.setenv("NACRE_STAND_IN_KVM", why)
    await lab.driver.prove_acceleration(lab.root / ("nowhere" if why == "refused" else "kvm"))
    told = await lab.driver.probe()
    assert not told.available
    assert ("first line" if why == "dead" else "gave up") in told.reason
    launch = lab.launch()
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(launch)
    assert caught.value.code == "accelerator_failed"
    assert caught.value.failure_class is FailureClass.BLOCKED
    assert leftovers(launch) == []


async def test_a_process_that_gives_up_says_why_and_leaves_nothing(lab):
    launch = lab.launch()
    program = lab.root / "bin" / "cloud-hypervisor"
    program.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo v54.0.0 && exit\necho 'Error: /dev/kvm: denied' >&2; exit 1\n"
    )
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(launch)
    assert caught.value.code == "accelerator_failed"
    assert leftovers(launch) == []


@pytest.mark.parametrize("call", ["vm.create", "vm.boot"])
@pytest.mark.parametrize("kind", ["refuse", "drop", "crash", "503"])
async def test_a_start_that_fails_leaves_nothing(lab, faults, call, kind):
    failing(faults, call, kind)
    launch = lab.launch(disks=(disk(lab),), nics=(nic(),))
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(launch)
    assert caught.value.hint
    assert leftovers(launch) == []
    faults.unlink()
    lab.keep(await lab.driver.start(launch))


async def test_a_missing_disk_is_told_without_its_place(lab):
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(lab.launch(disks=(replace(disk(lab), path=lab.root / "secret" / "gone.raw"),)))
    assert caught.value.code == "disk_unusable"
    assert "secret" not in caught.value.message


async def test_an_unfinished_start_is_ended_when_it_is_found(lab, faults):
    """As when the agent was killed between starting the process and booting the machine."""
    launch = lab.launch()
    failing(faults, "vm.boot", "hang")
    starting = asyncio.create_task(lab.driver.start(launch))
    await until((launch.run_directory / paths.CONSOLE_SOCKET).exists)
    peer = await processes.listener(launch.run_directory / paths.API_SOCKET)
    other = registry.load("cloud-hypervisor", lab.root)
    faults.unlink()
    os.kill(peer.pid, signal.SIGKILL)
    with pytest.raises(DriverError):
        await starting
    found = await lab.driver._find()
    process, _ = await lab.driver._spawn(launch, found)
    assert await other.adopt(launch, None) is None
    assert await process.wait(5)
    process.close()
    assert leftovers(launch) == []


async def test_a_machine_has_what_was_asked_for(lab):
    launch = lab.launch(
        disks=(disk(lab),), nics=(nic(),), devices=DeviceOptions(console=ConsoleMode.FILE), kernel_args="a=b"
    )
    guest = lab.keep(await lab.driver.start(launch))
    await ready(guest)
    said = (await info(guest))["config"]
    assert said["disks"][0]["path"] == "disk-data"
    assert said["platform"]["system_uuid"] == config.uuid_of(launch.vm)
    assert (launch.directory / paths.VIRTIO_LOG).exists()
    await typed(guest, "cmdline")
    assert "a=b" in printed(guest)


async def test_a_macvtap_is_opened_for_it(lab):
    device = lab.root / "tap7"
    device.touch()
    launch = lab.launch(nics=(nic(), MacvtapNic(id="nic1", mac="52:4e:00:00:00:02", device=device)))
    guest = lab.keep(await lab.driver.start(launch))
    assert [each["id"] for each in (await info(guest))["config"]["net"]] == ["nic0", "nic1"]
    assert str(device) in [str(link.readlink()) for link in Path(f"/proc/{guest.handle.pid}/fd").iterdir()]
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(
            lab.launch(nics=(MacvtapNic(id="n", mac="52:4e:00:00:00:02", device=lab.root / "gone"),))
        )
    assert caught.value.code == "nic_unusable"


# Hot plugging


async def test_disks_and_nics_come_and_go_and_may_be_asked_for_again(lab):
    launch, guest, _ = await lab.started()
    for _ in range(2):
        await guest.attach_disk(disk(lab))
        await guest.attach_nic(nic())
    assert set((await info(guest))["device_tree"]) == {"data", "nic0"}
    assert (launch.run_directory / "disk-data").is_symlink()
    for _ in range(2):
        await guest.detach_disk("data", 5)
        await guest.detach_nic("nic0", 5)
    assert (await info(guest))["device_tree"] == {}
    assert not (launch.run_directory / "disk-data").is_symlink()


async def test_a_guest_that_holds_a_disk_keeps_it(lab):
    _, guest, _ = await lab.started(kernel_args="fake.holds")
    await guest.attach_disk(disk(lab))
    with pytest.raises(DriverError) as caught:
        await guest.detach_disk("data", 0.3)
    assert caught.value.code == "guest_holds_device"
    assert caught.value.hint
    assert "data" in (await info(guest))["device_tree"]


async def test_a_device_that_is_refused_leaves_nothing(lab, faults):
    launch, guest, _ = await lab.started()
    failing(faults, "vm.add-disk")
    with pytest.raises(DriverError):
        await guest.attach_disk(disk(lab))
    assert not (launch.run_directory / "disk-data").is_symlink()
    failing(faults, "vm.add-disk", "silent")  # it was plugged, and nobody said so
    await guest.attach_disk(disk(lab))
    assert "data" in (await info(guest))["device_tree"]


async def test_devices_that_others_serve_need_shared_memory(lab):
    _, guest, _ = await lab.started()
    with pytest.raises(DriverError) as caught:
        await guest.attach_disk(VhostUserDisk(id="far", socket=lab.root / "far.sock"))
    assert caught.value.code == "memory_not_shared"
    assert caught.value.failure_class is FailureClass.PERMANENT


# Sizes


async def test_it_grows_and_shrinks(lab):
    memory = MemoryOptions(max_bytes=128 * MIB + GIB, hotplug=HotplugMethod.VIRTIO_MEM, balloon=Balloon())
    _, guest, _ = await lab.started(cpus=1, cpu=CpuOptions(max=4), memory=memory)
    assert await guest.sizes() == Sizes(cpus=1, memory_bytes=128 * MIB)
    for cpus in (4, 4, 2):
        await guest.resize_cpus(cpus)
        assert (await guest.sizes()).cpus == cpus
    for size in (640 * MIB, 640 * MIB, 256 * MIB):
        await guest.resize_memory(size)
        assert (await guest.sizes()).memory_bytes == size
    for taken in (64 * MIB, 64 * MIB, 0):
        await guest.reclaim(taken)
        assert (await guest.sizes()).reclaimed_bytes == taken


async def test_sizes_that_cannot_be_are_refused_for_good(lab):
    memory = MemoryOptions(max_bytes=128 * MIB + GIB)
    _, guest, _ = await lab.started(cpu=CpuOptions(max=2), memory=memory)
    await guest.resize_memory(256 * MIB)
    for resize in (
        guest.resize_cpus(3),
        guest.resize_cpus(0),
        guest.resize_memory(128 * MIB),
        guest.resize_memory(257 * MIB),
        guest.reclaim(MIB),
    ):
        with pytest.raises(DriverError) as caught:
            await resize
        assert caught.value.failure_class is FailureClass.PERMANENT
        assert caught.value.hint


async def test_a_resize_whose_answer_is_lost_has_been_done(lab, faults):
    _, guest, _ = await lab.started(cpu=CpuOptions(max=2))
    failing(faults, "vm.resize", "silent")
    await guest.resize_cpus(2)
    failing(faults, "vm.resize", "503")
    with pytest.raises(DriverError):
        await guest.resize_cpus(1)


async def test_cpus_that_the_guest_still_holds_are_asked_for_again_later(lab, faults):
    _, guest, _ = await lab.started(cpu=CpuOptions(max=2))
    failing(faults, "vm.resize", status=429, body=["Too Many Requests"])
    with pytest.raises(DriverError) as caught:
        await guest.resize_cpus(2)
    assert caught.value.code == "hypervisor_busy"
    assert caught.value.failure_class is FailureClass.TRANSIENT


async def test_a_disk_grows(lab):
    given = disk(lab)
    _, guest, _ = await lab.started(disks=(given,))
    for _ in range(2):
        await guest.resize_disk("data", 2 * MIB)
    assert given.path.stat().st_size == 2 * MIB


async def test_devices_are_counted(lab):
    _, guest, _ = await lab.started(disks=(disk(lab),), nics=(nic(),))
    found = await guest.counters()
    assert [each.id for each in found.disks] == ["data"]
    assert [each.id for each in found.nics] == ["nic0"]
    assert found.disks[0].read_bytes > 0


# Checkpoints


async def saved(lab, guest: Guest, name: str = "checkpoint") -> Path:
    directory = lab.root / name
    directory.mkdir()
    await guest.pause()
    await guest.save(directory)
    return directory


async def test_a_guest_goes_on_where_it_was_saved_even_as_another_machine(lab):
    launch, guest, _ = await lab.started(disks=(disk(lab),), nics=(nic(),))
    await ready(guest)
    await typed(guest, "note remember me")
    directory = await saved(lab, guest)
    assert await guest.state() is GuestState.PAUSED
    await guest.kill()
    clone = lab.launch(disks=(disk(lab),), nics=(nic(device="tap9"),))
    again = lab.keep(await lab.driver.restore(clone, directory))
    assert await again.state() is GuestState.PAUSED
    said = (await info(again))["config"]
    assert said["net"][0]["tap"] == "tap9"
    assert said["platform"]["system_uuid"] == config.uuid_of(clone.vm)
    assert said["platform"]["system_uuid"] != config.uuid_of(launch.vm)
    await again.resume()
    await typed(again, "notes")
    await until(lambda: "remember me" in printed(again))
    assert not (clone.run_directory / paths.RESTORING).exists()
    watch = Watch(again)
    await again.reset()
    await ready(again)
    await again.detach()
    found = lab.keep(await lab.driver.adopt(clone, again.handle))
    await found.kill()
    assert leftovers(clone) == []
    del watch


async def test_only_a_paused_guest_is_saved_and_nothing_is_overwritten(lab):
    _, guest, _ = await lab.started()
    with pytest.raises(DriverError) as caught:
        await guest.save(lab.root)
    assert caught.value.code == "wrong_state"
    directory = await saved(lab, guest)
    with pytest.raises(DriverError):
        await guest.save(directory)


async def test_while_it_is_saved_its_state_is_known(lab, faults, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.cloud_hypervisor.guest._ANSWER_S", 0.1)
    _, guest, _ = await lab.started()
    failing(faults, "vm.snapshot", "slow", seconds=0.5)
    await guest.pause()
    (lab.root / "checkpoint").mkdir()
    saving = asyncio.create_task(guest.save(lab.root / "checkpoint"))
    await asyncio.sleep(0)
    while not saving.done():
        assert await guest.state() is GuestState.PAUSED
        await asyncio.sleep(0.02)
    await saving


@pytest.mark.parametrize("damage", ["config.json", "state.json", "memory-ranges", ""])
async def test_a_checkpoint_with_parts_missing_is_an_error_and_leaves_nothing(lab, damage):
    _, guest, _ = await lab.started()
    directory = await saved(lab, guest)
    if damage:
        (directory / damage).unlink()
    else:
        (directory / "config.json").write_text("{half")
    launch = lab.launch()
    with pytest.raises(DriverError) as caught:
        await lab.driver.restore(launch, directory)
    assert caught.value.hint
    assert leftovers(launch) == []


# Life


async def test_a_keeper_of_the_console_that_dies_is_replaced(lab):
    launch, guest, _ = await lab.started()
    await ready(guest)
    keeper = await processes.listener(guest.console_socket)
    os.kill(keeper.pid, signal.SIGKILL)
    await until(lambda: not processes.is_alive(keeper.pid, keeper.start_time))

    async def another() -> bool:
        found = await processes.listener(launch.run_directory / paths.CONSOLE_SOCKET)
        return found is not None and found.pid != keeper.pid

    await until(another)
    await typed(guest, "echo still here")


async def test_a_reset_that_fails_half_way_is_a_failure_and_no_power_off(lab):
    given = disk(lab)
    _, guest, _ = await lab.started(disks=(given,))
    given.path.unlink()
    with pytest.raises(DriverError):
        await guest.reset()
    assert await guest.state() is GuestState.FAILED
    await guest.kill()


async def test_calls_may_be_repeated_when_the_answer_is_lost(lab, faults):
    _, guest, _ = await lab.started()
    failing(faults, "vm.pause", "silent")
    await guest.pause()
    assert await guest.state() is GuestState.PAUSED
    failing(faults, "vm.resume", "refuse")
    with pytest.raises(DriverError):
        await guest.resume()


async def test_a_deaf_guest_goes_on_and_a_paused_one_is_woken_to_power_off(lab):
    _, deaf, _ = await lab.started(kernel_args="fake.deaf")
    await deaf.shutdown()
    assert await deaf.state() is GuestState.RUNNING
    _, guest, watch = await lab.started()
    await ready(guest)
    await guest.pause()
    await guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED


async def test_without_a_serial_port_there_is_no_keeper(lab):
    launch, guest, _ = await lab.started(devices=DeviceOptions(serial=ConsoleMode.NULL))
    assert not guest.console_socket.exists()
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    assert await again.state() is GuestState.RUNNING
    assert not again.console_socket.exists()


# Moving to another host


@dataclass
class Move:
    """A guest, and the process that waits for it."""

    here: Guest
    watch: Watch
    there: Guest
    arrival: Watch
    there_launch: Launch
    socket: Path

    async def at(self, state: MigrationState) -> MigrationProgress:
        async def reached() -> MigrationProgress | None:
            found = await self.here.migration()
            return found if found.state is state else None

        return await until(reached)


async def moving(lab, **changes) -> Move:
    launch, here, watch = await lab.started(disks=(disk(lab),), nics=(nic(),), **changes)
    await ready(here)
    there_launch = replace(lab.launch(disks=launch.disks, nics=launch.nics), vm=launch.vm)
    socket = lab.root / "receiver"
    there = lab.keep(await lab.driver.receive(there_launch, socket))
    return Move(here, watch, there, Watch(there), there_launch, socket)


async def test_a_guest_moves_and_runs_in_one_place(lab):
    move = await moving(lab)
    await typed(move.here, "note remember me")
    assert await move.there.state() is GuestState.STARTING
    assert (await move.here.migration()).state is MigrationState.NONE
    await move.here.migrate(move.socket, MigrationTerms())
    gone = await move.watch.until(GuestState.GONE)
    assert gone.exit_reason is ExitReason.KILLED
    assert "another node" in gone.detail
    found = await move.here.migration()
    assert found.state is MigrationState.MOVED
    assert found.transferred_bytes > 20 * MIB
    assert found.downtime_ms is not None
    assert found.downtime_ms < 5000
    await move.arrival.until(GuestState.RUNNING)
    assert await move.there.state() is GuestState.RUNNING
    await typed(move.there, "notes")
    await until(lambda: "remember me" in printed(move.there))
    await move.there.reset()
    await ready(move.there)
    await move.there.detach()
    again = lab.keep(await lab.driver.adopt(move.there_launch, None))
    assert await again.state() is GuestState.RUNNING
    assert not any(event.state is GuestState.PAUSED for event in move.watch.events)


async def test_a_paused_guest_arrives_paused(lab):
    move = await moving(lab)
    await move.here.pause()
    await move.here.migrate(move.socket, MigrationTerms())
    await move.arrival.until(GuestState.PAUSED)
    assert await move.there.state() is GuestState.PAUSED


async def test_a_move_takes_its_time_and_may_be_called_off(lab):
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms(bandwidth_bytes=4 * MIB))
    await move.here.migrate(move.socket, MigrationTerms())  # it is on its way already
    await until(lambda: move.here._line.transferred > MIB)
    on_the_way = await move.at(MigrationState.COPYING)
    assert 0 < on_the_way.transferred_bytes < 20 * MIB
    assert on_the_way.remaining_bytes > 0
    for _ in range(2):
        await move.here.cancel_migration()
        assert (await move.here.migration()).state is MigrationState.CANCELLED
    assert await move.here.state() is GuestState.RUNNING
    await typed(move.here, "echo still here")
    gone = await move.arrival.until(GuestState.GONE)
    assert "did not arrive" in gone.detail
    assert leftovers(move.there_launch) == []


async def test_a_receiver_that_dies_leaves_the_guest_where_it_is_and_another_may_take_it(lab):
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms(bandwidth_bytes=8 * MIB))
    await until(lambda: move.here._line.transferred > MIB)
    os.kill(move.there.handle.pid, signal.SIGKILL)
    assert (await move.at(MigrationState.FAILED)).detail
    assert await move.here.state() is GuestState.RUNNING
    move.socket.unlink()
    next_launch = replace(
        lab.launch(disks=move.there_launch.disks, nics=move.there_launch.nics), vm=move.there_launch.vm
    )
    there = lab.keep(await lab.driver.receive(next_launch, move.socket))
    watch = Watch(there)
    await move.here.migrate(move.socket, MigrationTerms())
    await watch.until(GuestState.RUNNING)


async def test_a_sender_that_dies_is_not_waited_for(lab):
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms(bandwidth_bytes=4 * MIB))
    await until(lambda: move.here._line.transferred > MIB)
    await move.here.kill()
    gone = await move.arrival.until(GuestState.GONE)
    assert "did not arrive" in gone.detail


async def test_nobody_receives(lab):
    _, guest, _ = await lab.started()
    await guest.migrate(lab.root / "nowhere", MigrationTerms())

    async def failed() -> bool:
        return (await guest.migration()).state is MigrationState.FAILED

    await until(failed)
    assert await guest.state() is GuestState.RUNNING


@pytest.mark.parametrize("terms", [MigrationTerms(postcopy=True), MigrationTerms(disks=("data",))])
async def test_moves_that_cannot_be_are_refused(lab, terms):
    _, guest, _ = await lab.started()
    with pytest.raises(DriverError) as caught:
        await guest.migrate(lab.root / "nowhere", terms)
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert (await guest.migration()).state is MigrationState.NONE


async def test_an_agent_that_is_killed_calls_the_move_off(lab):
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms(bandwidth_bytes=4 * MIB))
    await until(lambda: move.here._line.transferred > MIB)
    launch = move.here._launch
    await move.here.detach()
    again = lab.keep(await lab.driver.adopt(launch, move.here.handle))

    async def failed() -> bool:
        return (await again.migration()).state is MigrationState.FAILED

    await until(failed)
    assert await again.state() is GuestState.RUNNING


async def test_a_process_that_waits_for_nobody_any_more_is_ended_when_it_is_found(lab, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.cloud_hypervisor.driver._ANSWER_S", 0.2)
    launch = lab.launch()
    guest = await lab.driver.receive(launch, lab.root / "receiver")
    await guest.detach()
    assert await lab.driver.adopt(launch, None) is None
    assert not processes.is_alive(guest.handle.pid, guest.handle.start_time)
    assert leftovers(launch) == []


async def test_a_socket_that_is_taken_cannot_be_received_on(lab):
    (lab.root / "receiver").touch()
    launch = lab.launch()
    with pytest.raises(DriverError):
        await lab.driver.receive(launch, lab.root / "receiver")
    assert leftovers(launch) == []


# Lives at random


class Life:
    """What a machine must be like after everything that was asked of it."""

    def __init__(self, lab, launch: Launch, guest: Guest, faults: Path) -> None:
        self.lab = lab
        self.launch = launch
        self.guest = guest
        self.faults = faults
        self.state = GuestState.RUNNING
        self.cpus = 1
        self.devices: set[str] = set()

    async def pause(self) -> None:
        await self.guest.pause()
        self.state = GuestState.PAUSED

    async def resume(self) -> None:
        await self.guest.resume()
        self.state = GuestState.RUNNING

    async def reset(self) -> None:
        await self.guest.reset()
        self.state = GuestState.RUNNING

    async def plug(self) -> None:
        await self.guest.attach_disk(disk(self.lab))
        await self.guest.attach_nic(nic())
        self.devices = {"data", "nic0"}

    async def unplug(self) -> None:
        await self.resume()  # a guest that stands still lets go of nothing
        await self.guest.detach_disk("data", 10)
        self.devices -= {"data"}

    async def resize(self) -> None:
        self.cpus = 5 - self.cpus
        await self.guest.resize_cpus(self.cpus)

    async def lose_the_agent(self) -> None:
        await self.guest.detach()
        handle = None if self.cpus == 1 else self.guest.handle
        self.guest = self.lab.keep(await self.lab.driver.adopt(self.launch, handle))

    async def lose_answers(self) -> None:
        failing(self.faults, "vm.pause", "silent")
        await self.pause()
        self.faults.unlink()

    async def check(self) -> None:
        assert await self.guest.state() is self.state
        assert (await self.guest.sizes()).cpus == self.cpus
        assert set((await info(self.guest))["device_tree"]) == self.devices


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_to_it_in_whatever_order_it_is_as_it_was_asked_to_be(lab, faults, seed):
    choice = random.Random(seed)
    launch, guest, _ = await lab.started(cpu=CpuOptions(max=4))
    life = Life(lab, launch, guest, faults)
    deeds = [
        *(life.pause, life.resume, life.reset, life.plug),
        *(life.unplug, life.resize, life.lose_the_agent, life.lose_answers),
    ]
    for _ in range(25):
        await choice.choice(deeds)()
        await life.check()
    await life.resume()
    watch = Watch(life.guest)
    await life.guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED
    assert leftovers(launch) == []
