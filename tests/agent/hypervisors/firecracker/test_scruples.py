"""What Firecracker cannot do is refused before anything is started, for good and with a hint."""

from pathlib import Path

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker.config import build
from nacre.agent.hypervisors.launch import Arrival, FirmwareFiles, MacvtapNic, RbdDisk, UserNic, VhostUserDisk
from nacre.model.convergence import FailureClass
from nacre.model.hardware import (
    Balloon,
    ConsoleMode,
    CpuOptions,
    CpuPin,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    Graphics,
    HotplugMethod,
    LimitGroup,
    MemoryOptions,
    NicOptions,
    NumaCell,
    RateLimits,
    TokenBucket,
    WatchdogAction,
)
from nacre.model.units import GIB, MIB
from support.vmm.launches import disk, launch, nic

NEWEST = (1, 17, 0)
MORE = MemoryOptions(max_bytes=512 * MIB, hotplug=HotplugMethod.VIRTIO_MEM)
SERVED = VhostUserDisk(id="far", socket=Path("/s"), options=DiskOptions(read_only=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": None},
        {"firmware": FirmwareFiles(code=Path("/ovmf"))},
        {"arrival": Arrival()},
        {"cpus": 33},
        {"cpu": CpuOptions(max=4)},
        {"cpu": CpuOptions(model="Skylake")},
        {"cpu": CpuOptions(topology=CpuTopology(cores=1, packages=2))},
        {"cpu": CpuOptions(topology=CpuTopology(threads=2, cores=2))},
        {"cpu": CpuOptions(pins=(CpuPin(cpu=0, host_cpus="1"),))},
        {"cpu": CpuOptions(hyperv=True)},
        {"memory_bytes": 256 * MIB + 1},
        {"memory_bytes": 0},
        {"memory": MemoryOptions(max_bytes=512 * MIB)},
        {"memory": MemoryOptions(max_bytes=257 * MIB, hotplug=HotplugMethod.VIRTIO_MEM)},
        {"memory": MemoryOptions(hugepage_bytes=GIB)},
        {"memory": MemoryOptions(hugepage_bytes=2 * MIB), "memory_bytes": 255 * MIB},
        {"memory": MemoryOptions(shared=True)},
        {"memory": MemoryOptions(mergeable=True)},
        {"memory": MemoryOptions(prefault=True)},
        {"memory": MemoryOptions(balloon=Balloon(reclaim_bytes=257 * MIB))},
        {"numa": (NumaCell(cpus="0", memory_bytes=MIB),)},
        {"devices": DeviceOptions(serial=ConsoleMode.PTY)},
        {"devices": DeviceOptions(console=ConsoleMode.SOCKET)},
        {"devices": DeviceOptions(rng="/dev/hwrng")},
        {"devices": DeviceOptions(watchdog=WatchdogAction.RESET)},
        {"devices": DeviceOptions(tpm=True)},
        {"tpm_socket": Path("/tpm")},
        {"devices": DeviceOptions(graphics=Graphics.VNC)},
        {"devices": DeviceOptions(panic=True)},
        {"limit_groups": (LimitGroup(name="a", limits=RateLimits(operations=TokenBucket(size=1))),)},
        {"disks": (disk(format="qcow2"),)},
        {"disks": (disk(options=DiskOptions(direct=True)),)},
        {"disks": (disk(options=DiskOptions(queues=2)),)},
        {"disks": (disk(options=DiskOptions(queue_size=64)),)},
        {"disks": (disk(options=DiskOptions(serial="a")),)},
        {"disks": (disk(options=DiskOptions(pci_segment=1)),)},
        {"disks": (disk(options=DiskOptions(limit_group="a")),)},
        {"disks": (RbdDisk(id="a", pool="p", image="i", configuration=Path("/c")),)},
        {"disks": (SERVED,)},
        {"nics": (UserNic(id="a", mac="52:4e:00:00:00:01"),)},
        {"nics": (MacvtapNic(id="a", mac="52:4e:00:00:00:01", device=Path("/dev/tap1")),)},
        {"nics": (nic(options=NicOptions(queues=2)),)},
        {"nics": (nic(options=NicOptions(queue_size=64)),)},
        {"nics": (nic(options=NicOptions(tso=False)),)},
        {"nics": (nic(options=NicOptions(host_mac="52:4e:00:00:00:02")),)},
        {"nics": (nic(options=NicOptions(iommu=True)),)},
        {"nics": (nic(options=NicOptions(pci_segment=1)),)},
    ],
    ids=str,
)
def test_it_is_refused(changes):
    with pytest.raises(DriverError) as caught:
        build(launch(**changes), release=NEWEST)
    assert caught.value.code in {"unsupported_by_hypervisor", "disk_unsupported", "nic_unsupported"}
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert caught.value.hint
    assert "/" not in caught.value.message.replace("I/O", "").replace("/dev/hwrng", "")


@pytest.mark.parametrize(
    ("changes", "release"),
    [
        ({"disks": (VhostUserDisk(id="far", socket=Path("/s")),)}, (1, 6, 0)),
        ({"memory": MemoryOptions(hugepage_bytes=2 * MIB)}, (1, 7, 0)),
        ({"memory": MORE}, (1, 14, 0)),
        ({"memory": MemoryOptions(balloon=Balloon(free_page_reporting=True))}, (1, 14, 0)),
        ({"nics": (nic(options=NicOptions(mtu=1400)),)}, (1, 16, 0)),
    ],
)
def test_what_takes_a_release_says_which(changes, release):
    build(launch(**changes), release=release)
    with pytest.raises(DriverError) as caught:
        build(launch(**changes), release=(1, release[1] - 1, 9))
    assert f"1.{release[1]}" in caught.value.hint


def test_memory_may_be_shared_with_whoever_serves_a_disk():
    served = VhostUserDisk(id="far", socket=Path("/s"))
    build(launch(memory=MemoryOptions(shared=True), disks=(served,)), release=NEWEST)


def test_a_volume_keeps_no_serial_number_here_unless_somebody_asked_for_one():
    volume = "vol-00000000000000000000000001"
    build(launch(disks=(disk(id=volume, options=DiskOptions(serial=volume[-20:])),)), release=NEWEST)
