"""What a machine needs of a hypervisor beyond running at all, in the words of `capabilities`. Pure.

Called by services when a machine is accepted, and for the scheduler's requests. Every need knows the field that asks
for it. What is only wished for, such as a channel for a guest agent, is no need: a hypervisor without it leaves it out.
"""

from collections.abc import Collection, Iterator

from nacre.model.capabilities import Capability
from nacre.model.hardware import NO_LIMITS, ConsoleMode, DiskOptions, Firmware, Graphics, HotplugMethod, NicOptions
from nacre.model.images import Role
from nacre.model.units import MIB
from nacre.model.vm_checks import most_cpus, most_memory
from nacre.model.vms import NetworkKind, VmSpec
from nacre.model.volumes import DiskFormat, PoolKind

Need = tuple[Capability, str]
"""A capability, and the path of the field that asks for it."""


def needs(spec: VmSpec, roles: Collection[Role] | None) -> frozenset[Capability]:
    """Return what a machine needs. `roles` are those of its image's artifacts; None if they are not known."""
    return frozenset(wants(spec, roles))


def wants(spec: VmSpec, roles: Collection[Role] | None) -> dict[Capability, str]:
    """Return what a machine needs, and for each the first field that asks for it."""
    found: dict[Capability, str] = {}
    for part in (_boot(spec, roles), _cpus(spec), _memory(spec), _disk(spec), _nics(spec), _devices(spec)):
        for capability, field in part:
            found.setdefault(capability, field)
    return found


def volume_wants(form: DiskFormat, kind: PoolKind, options: DiskOptions) -> dict[Capability, str]:
    """Return what a volume needs that is attached to a machine, and for each the field that asks for it."""
    if kind is PoolKind.CEPH:
        content = Capability.DISK_RBD
    else:
        content = Capability.DISK_RAW if form is DiskFormat.RAW else Capability.DISK_QCOW2
    found = {content: "volume"}
    for capability, field in _options(options, "options"):
        found.setdefault(capability, field)
    return found


def _boot(spec: VmSpec, roles: Collection[Role] | None) -> Iterator[Need]:
    uefi = spec.boot.firmware is Firmware.UEFI
    if spec.boot.secure_boot:
        yield Capability.SECURE_BOOT, "boot.secure_boot"
    if uefi:
        yield Capability.BOOT_UEFI, "boot.firmware"
    if roles is None:
        return
    if Role.ISO in roles:
        yield Capability.BOOT_ISO, "image"
    if Role.KERNEL in roles:
        yield Capability.BOOT_KERNEL, "image"
    elif not uefi:
        yield Capability.BOOT_BIOS, "boot.firmware"


def _cpus(spec: VmSpec) -> Iterator[Need]:
    cpu = spec.cpu
    asked = (
        (most_cpus(spec) > spec.cpus, Capability.CPU_ADD, "max"),
        (bool(cpu.model), Capability.CPU_MODEL, "model"),
        (cpu.topology is not None, Capability.CPU_TOPOLOGY, "topology"),
        (bool(cpu.pins), Capability.CPU_PINNING, "pins"),
        (cpu.hyperv, Capability.CPU_HYPERV, "hyperv"),
    )
    yield from ((capability, f"cpu.{field}") for wanted, capability, field in asked if wanted)


def _memory(spec: VmSpec) -> Iterator[Need]:
    memory, balloon = spec.memory, spec.memory.balloon
    grows = most_memory(spec) > spec.memory_bytes
    huge = Capability.MEMORY_HUGEPAGES_2M if memory.hugepage_bytes == 2 * MIB else Capability.MEMORY_HUGEPAGES_1G
    asked = (
        (grows, Capability.MEMORY_ADD, "memory.max_bytes"),
        (grows and memory.hotplug is HotplugMethod.VIRTIO_MEM, Capability.MEMORY_VIRTIO, "memory.hotplug"),
        (memory.hugepage_bytes is not None, huge, "memory.hugepage_bytes"),
        (memory.shared, Capability.MEMORY_SHARED, "memory.shared"),
        (memory.mergeable, Capability.MEMORY_MERGEABLE, "memory.mergeable"),
        (memory.prefault, Capability.MEMORY_PREFAULT, "memory.prefault"),
        (not memory.thp, Capability.MEMORY_THP, "memory.thp"),
        (balloon is not None, Capability.BALLOON, "memory.balloon"),
        (
            balloon is not None and balloon.free_page_reporting,
            Capability.BALLOON_REPORTING,
            "memory.balloon.free_page_reporting",
        ),
        (bool(spec.numa), Capability.NUMA, "numa"),
    )
    yield from ((capability, field) for wanted, capability, field in asked if wanted)


def _disk(spec: VmSpec) -> Iterator[Need]:
    """A machine's own disk is made in a format that its hypervisor opens, so that is no need."""
    yield from _options(spec.root_disk, "root_disk")
    if spec.limit_groups:
        yield Capability.DISK_LIMIT_GROUPS, "limit_groups"


def _options(options: DiskOptions, path: str) -> Iterator[Need]:
    usual = DiskOptions()
    asked = (
        (options.direct, Capability.DISK_DIRECT, "direct"),
        ((options.queues, options.queue_size) != (usual.queues, usual.queue_size), Capability.DISK_QUEUES, "queues"),
        (bool(options.serial), Capability.DISK_SERIAL, "serial"),
        (options.pci_segment > 0, Capability.PCI_SEGMENTS, "pci_segment"),
        (options.limits != NO_LIMITS, Capability.DISK_LIMITS, "limits"),
        (bool(options.limit_group), Capability.DISK_LIMIT_GROUPS, "limit_group"),
    )
    yield from ((capability, f"{path}.{field}") for wanted, capability, field in asked if wanted)


def _nics(spec: VmSpec) -> Iterator[Need]:
    usual = NicOptions()
    for index, nic in enumerate(spec.nics):
        options = nic.options
        user = nic.network is NetworkKind.USER
        if user:
            yield Capability.NIC_USER, f"nics[{index}].network"
        asked = (
            ((options.queues, options.queue_size) != (usual.queues, usual.queue_size), Capability.NIC_QUEUES, "queues"),
            (options.mtu is not None, Capability.NIC_MTU, "mtu"),
            (not (options.tso and options.ufo and options.checksum), Capability.NIC_OFFLOADS, "tso"),
            (options.iommu, Capability.NIC_IOMMU, "iommu"),
            (options.pci_segment > 0, Capability.PCI_SEGMENTS, "pci_segment"),
            *_limits(options, Capability.NIC_LIMITS_USER if user else Capability.NIC_LIMITS),
        )
        yield from ((capability, f"nics[{index}].options.{field}") for wanted, capability, field in asked if wanted)


def _limits(options: NicOptions, capability: Capability) -> Iterator[tuple[bool, Capability, str]]:
    for field, limits in (("receive_limits", options.receive_limits), ("send_limits", options.send_limits)):
        yield limits != NO_LIMITS, capability, field
        yield limits.operations is not None, Capability.NIC_LIMITS_PACKETS, field


def _devices(spec: VmSpec) -> Iterator[Need]:
    devices = spec.devices
    asked = (
        (devices.console is not ConsoleMode.OFF, Capability.CONSOLE_VIRTIO, "console"),
        (devices.watchdog is not None, Capability.WATCHDOG, "watchdog"),
        (devices.tpm, Capability.TPM, "tpm"),
        (devices.graphics is Graphics.VNC, Capability.GRAPHICS_VNC, "graphics"),
        (devices.panic, Capability.PANIC, "panic"),
    )
    yield from ((capability, f"devices.{field}") for wanted, capability, field in asked if wanted)
