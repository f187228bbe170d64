"""Machines that change while they run, as the guest in them sees it. Real guests; every change is made twice."""

import asyncio
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.abilities import (
    CanHotplug,
    CanLimit,
    CanResize,
    CanResizeDisks,
    HasCounters,
    HasDisplay,
    HasGuestChannel,
)
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile, TapNic, UserNic, VhostUserDisk
from nacre.agent.hypervisors.qemu.command_line import shape
from nacre.model.convergence import FailureClass
from nacre.model.hardware import (
    NO_LIMITS,
    Balloon,
    CpuOptions,
    CpuPin,
    DiskOptions,
    HotplugMethod,
    LimitGroup,
    MemoryOptions,
    RateLimits,
    TokenBucket,
)
from nacre.model.units import GIB, MIB
from nacre.model.vms import MachineType
from support.patience import within
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]

SLOW = RateLimits(bandwidth=TokenBucket(size=2 * MIB))
SECTORS_OF_A_MIB = 2048


def disk(launch, name, form="raw", size=8 * MIB, **options) -> DiskFile:
    path = launch.directory / f"{name}.{form}"
    if not path.exists():
        subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), str(size)], check=True)
    return DiskFile(id=name, path=path, format=form, options=DiskOptions(**options))


async def refusal(action) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await action
    assert caught.value.hint
    return caught.value


async def remains(guest) -> set[str]:
    """What a guest's QEMU has besides what it started with."""
    talk = guest._talk
    return {*await talk.devices(), *await talk.objects(), *await talk.nodes(), *await talk.chardevs()}


@pytest.mark.parametrize("machine", [MachineType.Q35, MachineType.PC])
async def test_disks_come_and_go(lab, machine):
    launch = lab.tiny(machine=machine)
    root = disk(launch, "root", "qcow2")
    launch = replace(launch, disks=(root,))
    guest, shell = await lab.booted(launch)
    assert isinstance(guest, CanHotplug)
    before = await remains(guest)
    extra = disk(launch, "vol-01m7ysnyghpha2pa88yjx222cp", limits=SLOW, serial="EXTRA")
    for _ in range(2):
        await guest.attach_disk(extra)
    await shell.until("cat /sys/block/vdb/serial", "EXTRA")
    assert "8+0 records out" in await shell.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=8 conv=fsync 2>&1")
    assert any(extra.path.read_bytes())
    for _ in range(2):
        await guest.detach_disk(extra.id, 20)
    assert "vdb" not in await shell.run("cat /proc/partitions")
    assert await remains(guest) == before
    await guest.attach_disk(extra)  # its file is free again
    await shell.until("cat /proc/partitions", "vdb")
    # What was there from the start can go, too.
    await shell.run("umount /data")
    await guest.detach_disk("root", 20)
    assert "vda" not in await shell.run("cat /proc/partitions")


async def test_nics_come_and_go(lab):
    guest, shell = await lab.booted(lab.tiny())
    before = await remains(guest)
    nic = UserNic(id="nic1", mac="52:4e:00:00:00:99")
    for _ in range(2):
        await guest.attach_nic(nic)
    await shell.until("cat /sys/class/net/eth1/address", nic.mac)
    assert "10.0.2.15" in await shell.run("ip link set eth1 up; udhcpc -i eth1 -f -q -n -s /etc/udhcpc; ip -4 -o addr")
    for _ in range(2):
        await guest.detach_nic("nic1", 20)
    assert "eth1" not in await shell.run("ls /sys/class/net")
    assert await remains(guest) == before
    await guest.attach_nic(nic)
    await shell.until("cat /sys/class/net/eth1/address", nic.mac)


async def test_a_tap_is_handed_to_a_running_guest_and_its_packets_are_counted(lab):
    name = f"ncl{os.getpid() % 100_000}"
    made = subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], capture_output=True)
    if os.getuid() != 0 or made.returncode:
        pytest.skip("no tap devices can be made here")
    try:
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        nic = TapNic(id="nic1", mac="52:4e:00:00:00:98", device=name)
        launch = lab.tiny()
        guest, shell = await lab.booted(launch)
        for _ in range(2):
            await guest.attach_nic(nic)
        await shell.until("cat /sys/class/net/eth1/address", nic.mac)
        await shell.run("ip link set eth1 up; ip addr add 192.0.2.2/24 dev eth1; ping -c 2 -W 1 192.0.2.1")
        assert int(Path(f"/sys/class/net/{name}/statistics/rx_bytes").read_text()) > 0
        error = await refusal(guest.attach_nic(replace(nic, id="nic2", device="nosuchtap")))
        assert error.code == "network_device_unusable"
        await guest.detach()
        again = lab.keep(await lab.driver.adopt(replace(launch, nics=(*launch.nics, nic)), guest.handle))
        (counted,) = (await again.counters()).nics
        assert counted.id == "nic1"
        assert counted.written_bytes > 0
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


async def test_a_disk_that_cannot_be_opened_leaves_nothing_and_no_place_taken(lab):
    launch = lab.tiny()
    guest, _ = await lab.booted(launch)
    before = await remains(guest)
    missing = DiskFile(id="missing", path=launch.directory / "secret-place" / "x.raw", format="raw")
    error = await refusal(guest.attach_disk(replace(missing, options=DiskOptions(limits=SLOW))))
    assert error.code == "device_not_attached"
    assert "secret-place" not in error.message
    assert await remains(guest) == before
    assert (await refusal(guest.attach_disk(VhostUserDisk(id="v", socket=Path("/x"))))).code == "shared_memory_needed"
    assert (await refusal(guest.attach_disk(replace(missing, cdrom=True)))).code == "drive_hotplug_unsupported"
    grouped = replace(missing, options=DiskOptions(limit_group="g"))
    assert (await refusal(guest.attach_disk(grouped))).code == "limit_group_unknown"
    for number in range(4):  # so many are left free
        await guest.attach_disk(disk(launch, f"extra{number}", size=MIB))
    error = await refusal(guest.attach_disk(disk(launch, "one-too-many", size=MIB)))
    assert (error.code, error.failure_class) == ("no_free_place", FailureClass.PERMANENT)


@pytest.mark.parametrize("machine", [MachineType.Q35, MachineType.PC])
async def test_places_are_known_before_the_guest_has_looked_at_its_bus(lab, machine):
    launch = lab.launch(machine=machine)
    launch = replace(launch, disks=(disk(launch, "root"), replace(disk(launch, "seed"), cdrom=True)))
    guest = lab.keep(await lab.driver.start(launch))
    for _ in range(2):
        await guest.attach_disk(disk(launch, "extra"))
    assert shape.decode(await guest.shape()).places == {"root": 0, "nic0": 1, "extra": 2}


async def test_what_a_try_that_broke_off_has_left_does_not_stand_in_the_way(lab):
    launch = lab.tiny()
    guest, shell = await lab.booted(launch)
    extra = disk(launch, "extra", limits=SLOW)
    await guest.attach_disk(extra)
    await guest._talk.execute("device_del", {"id": "extra-device"})
    await until(lambda: _gone(guest, "extra-device"))
    await guest.attach_disk(extra)  # node and limits were left
    await shell.until("cat /proc/partitions", "vda")


async def _gone(guest, device):
    return device not in await guest._talk.devices()


async def test_a_guest_that_stands_still_holds_its_devices(lab):
    launch = lab.tiny()
    launch = replace(launch, disks=(disk(launch, "root"),))
    guest, shell = await lab.booted(launch)
    await guest.pause()
    error = await refusal(guest.detach_disk("root", 0.5))
    assert error.code == "guest_holds_device"
    assert error.failure_class is FailureClass.TRANSIENT
    assert "root-device" in await guest._talk.devices()
    await guest.resume()
    await guest.detach_disk("root", 20)
    assert "vda" not in await shell.run("cat /proc/partitions")


async def test_cpus_are_added_and_bound_and_none_is_taken_away(lab):
    pins = tuple(CpuPin(cpu=cpu, host_cpus="0") for cpu in range(3))
    guest, shell = await lab.booted(lab.tiny(cpu=CpuOptions(max=3, pins=pins)))
    assert isinstance(guest, CanResize)
    for _ in range(2):
        await guest.resize_cpus(3)
    assert (await guest.sizes()).cpus == 3
    await shell.until("ls /sys/devices/system/cpu", "cpu2")
    await shell.run("for c in 1 2; do echo 1 > /sys/devices/system/cpu/cpu$c/online; done")
    assert await shell.run("nproc") == "3"
    tasks = Path(f"/proc/{guest.handle.pid}/task").iterdir()
    bound = [os.sched_getaffinity(int(task.name)) for task in tasks if (task / "comm").read_text().startswith("CPU ")]
    assert bound == [{0}] * 3
    assert (await refusal(guest.resize_cpus(2))).code == "cpu_removal_unsupported"
    assert (await refusal(guest.resize_cpus(4))).code == "cpus_at_most"


async def total(shell) -> int:
    return int((await shell.run("grep MemTotal /proc/meminfo")).split()[1]) * 1024


@pytest.mark.parametrize("shared", [False, True])
async def test_memory_is_added_as_dimms(lab, shared):
    guest, shell = await lab.booted(
        lab.tiny(memory_bytes=256 * MIB, memory=MemoryOptions(max_bytes=640 * MIB, shared=shared))
    )
    before = await total(shell)
    for _ in range(2):
        await guest.resize_memory(384 * MIB)
    await guest.resize_memory(512 * MIB)
    assert (await guest.sizes()).memory_bytes == 512 * MIB
    async with within(20):
        while await total(shell) - before < 250 * MIB:
            await asyncio.sleep(0.2)
    shares = {memory["share"] for memory in await guest._talk.execute("query-memdev")}
    assert shares == {shared}
    assert (await refusal(guest.resize_memory(513 * MIB))).code == "memory_size_invalid"
    assert (await refusal(guest.resize_memory(1024 * MIB))).code == "memory_at_most"
    assert (await refusal(guest.resize_memory(256 * MIB))).code == "memory_removal_unsupported"
    assert (await guest.sizes()).memory_bytes == 512 * MIB


async def test_memory_comes_and_goes_through_virtio_mem(lab):
    memory = MemoryOptions(max_bytes=GIB, hotplug=HotplugMethod.VIRTIO_MEM)
    guest, shell = await lab.booted(lab.tiny(memory_bytes=256 * MIB, memory=memory))
    before = await total(shell)
    for _ in range(2):
        await guest.resize_memory(512 * MIB)
    assert (await guest.sizes()).memory_bytes == 512 * MIB
    assert await total(shell) - before > 200 * MIB
    await guest.resize_memory(256 * MIB)
    assert (await guest.sizes()).memory_bytes == 256 * MIB
    assert (await refusal(guest.resize_memory(257 * MIB))).code == "memory_size_invalid"
    assert (await refusal(guest.resize_memory(2 * GIB))).code == "memory_at_most"


async def test_the_balloon_takes_what_it_is_told_to_take(lab):
    launch = lab.tiny(memory_bytes=192 * MIB, memory=MemoryOptions(balloon=Balloon(reclaim_bytes=16 * MIB)))
    guest, shell = await lab.booted(launch)

    async def reclaimed():
        return (await guest.sizes()).reclaimed_bytes

    async def took(size):
        return await reclaimed() == size

    await until(lambda: took(16 * MIB))
    for _ in range(2):
        await guest.reclaim(48 * MIB)
    await until(lambda: took(48 * MIB))
    assert (await guest.sizes()).memory_bytes == 192 * MIB
    await guest.reclaim(0)
    await until(lambda: took(0))
    assert (await refusal(guest.reclaim(GIB))).code == "reclaim_too_large"
    del shell


async def test_without_a_balloon_nothing_is_reclaimed(lab):
    guest = lab.keep(await lab.driver.start(lab.launch()))
    assert (await guest.sizes()).reclaimed_bytes == 0
    assert (await refusal(guest.reclaim(MIB))).code == "balloon_missing"


@pytest.mark.parametrize(("form", "limited"), [("raw", False), ("qcow2", True)])
async def test_a_disk_grows_under_the_guest(lab, form, limited):
    launch = lab.tiny()
    limits = RateLimits(bandwidth=TokenBucket(size=GIB)) if limited else NO_LIMITS
    launch = replace(launch, disks=(disk(launch, "root", form, limits=limits),))
    guest, shell = await lab.booted(launch)
    assert isinstance(guest, CanResizeDisks)
    for _ in range(2):
        await guest.resize_disk("root", 24 * MIB)
    await shell.until("cat /sys/block/vda/size", str(24 * SECTORS_OF_A_MIB))
    assert (await refusal(guest.resize_disk("root", MIB))).code == "disk_shrink_unsupported"
    assert (await refusal(guest.resize_disk("other", MIB))).code == "disk_unknown"


async def seconds(shell, times: int) -> float:
    """How long it takes to write 4 MiB so many times."""
    began = asyncio.get_running_loop().time()
    for _ in range(times):
        await shell.run("dd if=/dev/zero of=/dev/vda bs=1M count=4 oflag=direct 2>&1")
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("limited", [False, True])
async def test_limits_of_a_disk_change_under_the_guest(lab, limited):
    launch = lab.tiny()
    options = {"limits": SLOW} if limited else {}
    launch = replace(launch, disks=(disk(launch, "root", **options),))
    guest, shell = await lab.booted(launch)
    assert isinstance(guest, CanLimit)
    for _ in range(2):
        await guest.limit_disk("root", SLOW)
    await shell.run("umount /data; dd if=/dev/zero of=/dev/vda bs=1M count=2 oflag=direct 2>&1")  # empties the bucket
    assert await seconds(shell, 1) > 1
    await guest.limit_disk("root", NO_LIMITS)
    assert await seconds(shell, 10) < 15  # with limits it would take 20, also on a busy host
    assert (await refusal(guest.limit_nic("nic0", SLOW, NO_LIMITS))).code == "nic_limits_unsupported"
    await guest.limit_nic("nic0", NO_LIMITS, NO_LIMITS)


async def test_disks_in_a_group_share_its_limits(lab):
    launch = lab.tiny(limit_groups=(LimitGroup(name="slow", limits=SLOW),))
    both = tuple(disk(launch, name, limit_group="slow") for name in ("one", "two"))
    guest, shell = await lab.booted(replace(launch, disks=both))
    await shell.run("umount /data; dd if=/dev/zero of=/dev/vda bs=1M count=2 oflag=direct 2>&1")
    began = asyncio.get_running_loop().time()
    await shell.run("for d in vda vdb; do dd if=/dev/zero of=/dev/$d bs=1M count=2 oflag=direct 2>&1 & done; wait")
    assert asyncio.get_running_loop().time() - began > 1
    assert (await refusal(guest.limit_disk("one", NO_LIMITS))).code == "disk_in_limit_group"


async def test_what_disks_do_is_counted(lab):
    launch = lab.tiny()
    guest, shell = await lab.booted(replace(launch, disks=(disk(launch, "root", limits=SLOW),)))
    assert isinstance(guest, HasCounters)
    assert isinstance(guest, HasDisplay)
    assert isinstance(guest, HasGuestChannel)
    (before,) = (await guest.counters()).disks
    await shell.run("umount /data; dd if=/dev/zero of=/dev/vda bs=1M count=1 oflag=direct 2>&1")
    (after,) = (await guest.counters()).disks
    assert after.id == "root"
    assert after.written_bytes - before.written_bytes >= MIB
    assert after.writes > before.writes
    assert (await guest.counters()).nics == ()
    assert guest.guest_socket is not None
    assert guest.display_socket is None


async def test_a_microvm_gets_nothing_while_it_runs(lab):
    launch = lab.tiny(machine=MachineType.MICROVM)
    guest = lab.keep(await lab.driver.start(launch))
    assert (await refusal(guest.attach_disk(disk(launch, "extra")))).code == "hotplug_unsupported"
    assert (await refusal(guest.attach_nic(UserNic(id="nic1", mac="")))).code == "hotplug_unsupported"


async def test_an_adopted_guest_changes_like_one_that_was_started(lab):
    """What adopts it knows its sockets and nothing else."""
    launch = lab.tiny(memory_bytes=256 * MIB, memory=MemoryOptions(max_bytes=GIB))
    guest, _ = await lab.booted(launch)
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(replace(launch, memory=MemoryOptions(), memory_bytes=0), guest.handle))
    await again.attach_disk(disk(launch, "extra"))
    await again.resize_memory(384 * MIB)
    assert (await again.sizes()).memory_bytes == 384 * MIB
    await again.detach_disk("extra", 20)
