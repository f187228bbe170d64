"""Devices and sizes of machines under Cloud Hypervisor, while they run."""

import pytest

from nacre.agent.hypervisors.abilities import (
    Sizes,
)
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import VhostUserDisk
from nacre.model.convergence import FailureClass
from nacre.model.hardware import Balloon, CpuOptions, HotplugMethod, MemoryOptions
from nacre.model.units import GIB, MIB
from support.vmm.cloud_hypervisor_lab import disk, failing, info, nic

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.host,
    pytest.mark.usefixtures("faults"),
    pytest.mark.parametrize("lab", ["cloud-hypervisor"], indirect=True),
]


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
