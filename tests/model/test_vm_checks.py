"""What of a machine's configuration does not fit together is refused by the field that has to change."""

import msgspec
import pytest

from nacre.errors import InvalidInputError, NacreError, UnsupportedError
from nacre.model.hardware import (
    Balloon,
    BootOptions,
    CpuOptions,
    CpuPin,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    Firmware,
    LimitGroup,
    MemoryOptions,
    NicOptions,
    NumaCell,
    RateLimits,
    TokenBucket,
    WatchdogAction,
)
from nacre.model.ids import ImageId
from nacre.model.units import GIB, MIB
from nacre.model.vm_checks import check_spec, numbers
from nacre.model.vms import MachineType, NicSpec, PublishedPort, TransportProtocol, VmSpec

IMAGE = ImageId("img-00000000000000000000000000")
SOME = RateLimits(operations=TokenBucket(size=100))
SECURE = BootOptions(firmware=Firmware.UEFI, secure_boot=True)
CELL = NumaCell(cpus="0-1", memory_bytes=512 * MIB)


def port(host: int, address: str = "127.0.0.1", protocol: TransportProtocol = TransportProtocol.TCP) -> PublishedPort:
    return PublishedPort(guest_port=80, host_port=host, host_address=address, protocol=protocol)


def spec(**changes: object) -> VmSpec:
    return msgspec.structs.replace(VmSpec(image=IMAGE, cpus=2, memory_bytes=1 * GIB), **changes)


GOOD = {
    "nothing special": spec(),
    "room to grow": spec(cpu=CpuOptions(max=8), memory=MemoryOptions(max_bytes=4 * GIB)),
    "a topology": spec(cpu=CpuOptions(max=8, topology=CpuTopology(threads=2, cores=2, packages=2))),
    "pins": spec(cpu=CpuOptions(pins=(CpuPin(cpu=0, host_cpus="0-3,8"), CpuPin(cpu=1, host_cpus="4")))),
    "nodes": spec(numa=(NumaCell(cpus="0", memory_bytes=GIB // 2), NumaCell(cpus="1", memory_bytes=GIB // 2))),
    "huge pages": spec(memory=MemoryOptions(hugepage_bytes=2 * MIB)),
    "a balloon": spec(memory=MemoryOptions(balloon=Balloon(reclaim_bytes=GIB - MIB))),
    "a group": spec(root_disk=DiskOptions(limit_group="slow"), limit_groups=(LimitGroup(name="slow", limits=SOME),)),
    "secure boot": spec(boot=SECURE),
    "a plain microvm": spec(machine=MachineType.MICROVM),
}
BAD = {
    "cpu.max": spec(cpu=CpuOptions(max=1)),
    "cpu.topology": spec(cpu=CpuOptions(max=8, topology=CpuTopology(cores=4))),
    "cpu.pins[1].cpu": spec(cpu=CpuOptions(pins=(CpuPin(cpu=0, host_cpus="0"), CpuPin(cpu=2, host_cpus="0")))),
    "cpu.pins[2].cpu": spec(cpu=CpuOptions(pins=tuple(CpuPin(cpu=cpu, host_cpus="0") for cpu in (0, 1, 0)))),
    "cpu.pins[0].host_cpus": spec(cpu=CpuOptions(pins=(CpuPin(cpu=0, host_cpus="3-1"),))),
    "memory.max_bytes": spec(memory=MemoryOptions(max_bytes=512 * MIB)),
    "memory.max_bytes ": spec(memory=MemoryOptions(max_bytes=GIB + 100 * MIB)),
    "memory.hugepage_bytes": spec(memory=MemoryOptions(hugepage_bytes=4 * MIB)),
    "memory.hugepage_bytes ": spec(memory_bytes=513 * MIB, memory=MemoryOptions(hugepage_bytes=2 * MIB)),
    "memory.balloon.reclaim_bytes": spec(memory=MemoryOptions(balloon=Balloon(reclaim_bytes=GIB))),
    "numa": spec(numa=(CELL,)),
    "numa ": spec(numa=(NumaCell(cpus="0", memory_bytes=GIB),)),
    "numa[1].cpus": spec(numa=(CELL, NumaCell(cpus="1", memory_bytes=512 * MIB))),
    "numa[0].cpus": spec(numa=(NumaCell(cpus="0-2", memory_bytes=GIB),)),
    "root_disk.queue_size": spec(root_disk=DiskOptions(queue_size=100)),
    "root_disk.limit_group": spec(root_disk=DiskOptions(limit_group="slow")),
    "root_disk.limits": spec(
        root_disk=DiskOptions(limit_group="slow", limits=SOME), limit_groups=(LimitGroup(name="slow", limits=SOME),)
    ),
    "limit_groups[1].name": spec(limit_groups=(LimitGroup(name="a", limits=SOME), LimitGroup(name="a", limits=SOME))),
    "nics[1].options.queue_size": spec(nics=(NicSpec(), NicSpec(options=NicOptions(queue_size=300)))),
    "nics[0].options.queues": spec(nics=(NicSpec(options=NicOptions(queues=2)),)),
    "nics[0].options.host_mac": spec(nics=(NicSpec(options=NicOptions(host_mac="52:54:00:00:00:01")),)),
    "boot.secure_boot": spec(boot=BootOptions(secure_boot=True)),
}
BEYOND = {
    "memory.thp": spec(memory=MemoryOptions(thp=False)),
    "boot.secure_boot": spec(machine=MachineType.PC, boot=SECURE),
    "cpu.max": spec(machine=MachineType.MICROVM, cpu=CpuOptions(max=4)),
    "memory.max_bytes": spec(machine=MachineType.MICROVM, memory=MemoryOptions(max_bytes=2 * GIB)),
    "boot.firmware": spec(machine=MachineType.MICROVM, boot=BootOptions(firmware=Firmware.UEFI)),
    "devices.tpm": spec(machine=MachineType.MICROVM, devices=DeviceOptions(tpm=True)),
    "devices.watchdog": spec(machine=MachineType.MICROVM, devices=DeviceOptions(watchdog=WatchdogAction.RESET)),
    "nics[0].options.iommu": spec(machine=MachineType.MICROVM, nics=(NicSpec(options=NicOptions(iommu=True)),)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_together_is_accepted_as_it_is(name: str) -> None:
    assert check_spec(GOOD[name]) is GOOD[name]


@pytest.mark.parametrize("field", BAD)
def test_what_contradicts_itself_is_refused_by_its_field(field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_spec(BAD[field])
    assert refused.value.field == field.strip()
    assert refused.value.hint


@pytest.mark.parametrize("field", BEYOND)
def test_what_the_board_cannot_have_is_refused_by_its_field(field: str) -> None:
    with pytest.raises(UnsupportedError) as refused:
        check_spec(BEYOND[field])
    assert refused.value.field == field


def test_boards_mean_nothing_to_other_hypervisors() -> None:
    for asked in BEYOND.values():
        check_spec(msgspec.structs.replace(asked, hypervisor="cloud-hypervisor"))


def test_a_list_of_cpus_is_read_as_linux_writes_it() -> None:
    assert numbers("0-3,8", "cpus") == {0, 1, 2, 3, 8}
    with pytest.raises(NacreError):
        numbers("0-99999999999", "cpus")


def test_a_port_published_twice_names_the_field() -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_spec(VmSpec(image=IMAGE, publish=(port(80), port(81), port(80, "0.0.0.0"))))
    assert caught.value.code == "port_published_twice"
    assert caught.value.field == "publish[2]"


@pytest.mark.parametrize("address", ["localhost", "256.0.0.1", "", "127.0.0.1:80", "../etc"])
def test_a_host_address_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match="not an IP address"):
        check_spec(VmSpec(image=IMAGE, publish=(port(80, address),)))


@pytest.mark.parametrize("address", ["::1", "::", "2001:db8::1"])
def test_an_ipv6_address_is_refused_because_nothing_could_listen_there(address: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        check_spec(VmSpec(image=IMAGE, publish=(port(80, address),)))
    assert (caught.value.code, caught.value.field) == ("ipv6_publish_unsupported", "publish[0].host_address")


def test_publishing_without_a_nic_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no NIC"):
        check_spec(VmSpec(image=IMAGE, nics=(), publish=(port(80),)))


def test_kernel_args_stay_on_one_line() -> None:
    with pytest.raises(InvalidInputError, match="line break"):
        check_spec(VmSpec(image=IMAGE, kernel_args="quiet\ninit=/bin/sh"))
