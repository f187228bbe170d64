"""What machines need follows from their fields, and every need knows which."""

from typing import Any

import msgspec
import pytest

from nacre.model.capabilities import BASELINE, Capability
from nacre.model.hardware import (
    Balloon,
    BootOptions,
    ConsoleMode,
    CpuOptions,
    CpuPin,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    Firmware,
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
from nacre.model.ids import ImageId
from nacre.model.images import Role
from nacre.model.units import GIB, MIB
from nacre.model.vm_needs import needs, volume_wants, wants
from nacre.model.vms import NicSpec, VmSpec
from nacre.model.volumes import DiskFormat, PoolKind

PLAIN = VmSpec(image=ImageId("img-0"), memory_bytes=GIB)
SOME = RateLimits(operations=TokenBucket(size=100))
SLOW = RateLimits(bandwidth=TokenBucket(size=100))


def nic(**options: Any) -> dict[str, Any]:
    return {"nics": (NicSpec(), NicSpec(options=NicOptions(**options)))}


ASKED: list[tuple[Capability, str, dict[str, Any]]] = [
    (Capability.CPU_ADD, "cpu.max", {"cpu": CpuOptions(max=2)}),
    (Capability.CPU_MODEL, "cpu.model", {"cpu": CpuOptions(model="EPYC")}),
    (Capability.CPU_TOPOLOGY, "cpu.topology", {"cpu": CpuOptions(topology=CpuTopology())}),
    (Capability.CPU_PINNING, "cpu.pins", {"cpu": CpuOptions(pins=(CpuPin(cpu=0, host_cpus="0"),))}),
    (Capability.CPU_HYPERV, "cpu.hyperv", {"cpu": CpuOptions(hyperv=True)}),
    (Capability.MEMORY_ADD, "memory.max_bytes", {"memory": MemoryOptions(max_bytes=2 * GIB)}),
    (
        Capability.MEMORY_VIRTIO,
        "memory.hotplug",
        {"memory": MemoryOptions(max_bytes=2 * GIB, hotplug=HotplugMethod.VIRTIO_MEM)},
    ),
    (Capability.MEMORY_HUGEPAGES_2M, "memory.hugepage_bytes", {"memory": MemoryOptions(hugepage_bytes=2 * MIB)}),
    (Capability.MEMORY_HUGEPAGES_1G, "memory.hugepage_bytes", {"memory": MemoryOptions(hugepage_bytes=GIB)}),
    (Capability.MEMORY_SHARED, "memory.shared", {"memory": MemoryOptions(shared=True)}),
    (Capability.MEMORY_MERGEABLE, "memory.mergeable", {"memory": MemoryOptions(mergeable=True)}),
    (Capability.MEMORY_PREFAULT, "memory.prefault", {"memory": MemoryOptions(prefault=True)}),
    (Capability.MEMORY_THP, "memory.thp", {"memory": MemoryOptions(thp=False)}),
    (Capability.BALLOON, "memory.balloon", {"memory": MemoryOptions(balloon=Balloon())}),
    (
        Capability.BALLOON_REPORTING,
        "memory.balloon.free_page_reporting",
        {"memory": MemoryOptions(balloon=Balloon(free_page_reporting=True))},
    ),
    (Capability.NUMA, "numa", {"numa": (NumaCell(cpus="0", memory_bytes=GIB),)}),
    (Capability.DISK_DIRECT, "root_disk.direct", {"root_disk": DiskOptions(direct=True)}),
    (Capability.DISK_QUEUES, "root_disk.queues", {"root_disk": DiskOptions(queues=4)}),
    (Capability.DISK_SERIAL, "root_disk.serial", {"root_disk": DiskOptions(serial="x")}),
    (Capability.DISK_LIMITS, "root_disk.limits", {"root_disk": DiskOptions(limits=SOME)}),
    (Capability.DISK_LIMIT_GROUPS, "root_disk.limit_group", {"root_disk": DiskOptions(limit_group="a")}),
    (Capability.DISK_LIMIT_GROUPS, "limit_groups", {"limit_groups": (LimitGroup(name="a", limits=SOME),)}),
    (Capability.PCI_SEGMENTS, "root_disk.pci_segment", {"root_disk": DiskOptions(pci_segment=1)}),
    (Capability.NIC_QUEUES, "nics[1].options.queues", nic(queue_size=512)),
    (Capability.NIC_MTU, "nics[1].options.mtu", nic(mtu=1400)),
    (Capability.NIC_OFFLOADS, "nics[1].options.tso", nic(ufo=False)),
    (Capability.NIC_IOMMU, "nics[1].options.iommu", nic(iommu=True)),
    (Capability.NIC_LIMITS_USER, "nics[1].options.receive_limits", nic(receive_limits=SLOW, send_limits=SLOW)),
    (Capability.NIC_LIMITS_USER, "nics[1].options.send_limits", nic(send_limits=SLOW)),
    (Capability.NIC_LIMITS_PACKETS, "nics[1].options.send_limits", nic(receive_limits=SLOW, send_limits=SOME)),
    (Capability.CONSOLE_VIRTIO, "devices.console", {"devices": DeviceOptions(console=ConsoleMode.SOCKET)}),
    (Capability.WATCHDOG, "devices.watchdog", {"devices": DeviceOptions(watchdog=WatchdogAction.RESET)}),
    (Capability.TPM, "devices.tpm", {"devices": DeviceOptions(tpm=True)}),
    (Capability.GRAPHICS_VNC, "devices.graphics", {"devices": DeviceOptions(graphics=Graphics.VNC)}),
    (Capability.PANIC, "devices.panic", {"devices": DeviceOptions(panic=True)}),
    (Capability.BOOT_UEFI, "boot.firmware", {"boot": BootOptions(firmware=Firmware.UEFI)}),
    (Capability.SECURE_BOOT, "boot.secure_boot", {"boot": BootOptions(firmware=Firmware.UEFI, secure_boot=True)}),
]


@pytest.mark.parametrize(("capability", "field", "changes"), ASKED, ids=lambda value: str(value)[:30])
def test_what_is_asked_for_is_needed_and_knows_its_field(
    capability: Capability, field: str, changes: dict[str, Any]
) -> None:
    asked = msgspec.structs.replace(PLAIN, **changes)
    assert wants(asked, {Role.KERNEL})[capability] == field
    assert capability not in needs(PLAIN, {Role.KERNEL})


def test_limits_of_bytes_do_not_need_limits_of_packets() -> None:
    asked = msgspec.structs.replace(PLAIN, **nic(receive_limits=SLOW, send_limits=SLOW))
    assert Capability.NIC_LIMITS_PACKETS not in needs(asked, {Role.KERNEL})


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ({Role.KERNEL, Role.INITRD}, {Capability.BOOT_KERNEL}),
        ({Role.DISK}, {Capability.BOOT_BIOS}),
        ({Role.DISK, Role.KERNEL}, {Capability.BOOT_KERNEL}),
        ({Role.ISO}, {Capability.BOOT_ISO, Capability.BOOT_BIOS}),
        (None, set()),
    ],
)
def test_what_a_machine_starts_from_follows_from_its_image(roles: set[Role] | None, expected: set[Capability]) -> None:
    assert needs(PLAIN, roles) == expected | {Capability.NIC_USER}


@pytest.mark.parametrize(
    ("form", "kind", "expected"),
    [
        (DiskFormat.QCOW2, PoolKind.DIRECTORY, Capability.DISK_QCOW2),
        (DiskFormat.RAW, PoolKind.DIRECTORY, Capability.DISK_RAW),
        (DiskFormat.RAW, PoolKind.CEPH, Capability.DISK_RBD),
    ],
)
def test_a_volume_needs_a_hypervisor_that_opens_it(form: DiskFormat, kind: PoolKind, expected: Capability) -> None:
    assert volume_wants(form, kind, DiskOptions()) == {expected: "volume"}
    asked = volume_wants(form, kind, DiskOptions(serial="mine", direct=True))
    assert asked == {
        expected: "volume",
        Capability.DISK_SERIAL: "options.serial",
        Capability.DISK_DIRECT: "options.direct",
    }


def test_a_machine_that_asks_for_nothing_needs_what_every_agent_does() -> None:
    for roles in ({Role.KERNEL}, {Role.DISK}):
        assert needs(msgspec.structs.replace(PLAIN, disk_bytes=GIB), roles) <= BASELINE


def test_uefi_instead_of_bios_starts_a_disk() -> None:
    asked = msgspec.structs.replace(PLAIN, boot=BootOptions(firmware=Firmware.UEFI))
    assert Capability.BOOT_BIOS not in needs(asked, {Role.DISK})
