"""The driver of Cloud Hypervisor: probing, proving, starting, and what happens when calls fail."""

import asyncio
import os
import random
import signal
from dataclasses import replace
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
)
from nacre.agent.hypervisors.base import Guest, GuestState
from nacre.agent.hypervisors.cloud_hypervisor import config, paths
from nacre.agent.hypervisors.cloud_hypervisor.driver import CloudHypervisor
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch, MacvtapNic
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.hardware import ConsoleMode, CpuOptions, DeviceOptions
from nacre.model.vms import ExitReason
from support.machines import Watch, printed, ready
from support.vmm.cloud_hypervisor_lab import disk, failing, info, leftovers, nic, typed
from support.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.host,
    pytest.mark.usefixtures("faults"),
    pytest.mark.parametrize("lab", ["cloud-hypervisor"], indirect=True),
]


async def test_its_abilities_are_those_that_its_offer_promises(lab):
    _, guest, _ = await lab.started()
    for ability in (CanGuard, CanOffer, CanReceive, CanRestore):
        assert isinstance(lab.driver, ability)
    for ability in (CanHotplug, CanResize, CanResizeDisks, CanCheckpoint, CanMigrate, HasCounters):
        assert isinstance(guest, ability)


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


async def test_a_disk_that_another_machine_uses_is_told_of(lab):
    given = disk(lab)
    _, first, _ = await lab.started(disks=(given,))
    launch = lab.launch(disks=(given,))
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(launch)
    assert caught.value.code == "disk_in_use"
    assert leftovers(launch) == []
    _, second, _ = await lab.started()
    with pytest.raises(DriverError):
        await second.attach_disk(given)
    await first.detach_disk("data", 5)
    await second.attach_disk(given)


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
    assert await guest.state() is GuestState.HALTED
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
