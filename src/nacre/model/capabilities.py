"""What a hypervisor can do on a node, and what a machine needs: the words in which both are compared.

Drivers say what they offer, computed from what they are, their version and the host; admission and the scheduler ask
what a machine needs and which node could. Pure.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How well something is done."""

    NATIVE = "native"  # by the hypervisor itself
    EXPERIMENTAL = "experimental"  # by the hypervisor, whose makers call it a preview
    EMULATED = "emulated"  # by other means to the same end
    NEEDS_GUEST = "needs-guest"  # only if the guest plays along
    UNSUPPORTED = "unsupported"


class Capability(StrEnum):
    """Something that not every hypervisor can do."""

    BOOT_KERNEL = "boot.kernel"
    BOOT_BIOS = "boot.bios"
    BOOT_UEFI = "boot.uefi"
    BOOT_ISO = "boot.iso"
    SECURE_BOOT = "boot.secure"
    SHUTDOWN = "shutdown.graceful"
    RESET = "reset"
    PAUSE = "pause"
    GUARD = "guard"

    CPU_MODEL = "cpu.model"
    CPU_TOPOLOGY = "cpu.topology"
    CPU_PINNING = "cpu.pinning"
    CPU_HYPERV = "cpu.hyperv"
    CPU_ADD = "cpu.add"
    CPU_REMOVE = "cpu.remove"

    MEMORY_ADD = "memory.add"
    MEMORY_VIRTIO = "memory.virtio-mem"
    MEMORY_HUGEPAGES_2M = "memory.hugepages-2m"
    MEMORY_HUGEPAGES_1G = "memory.hugepages-1g"
    MEMORY_SHARED = "memory.shared"
    MEMORY_MERGEABLE = "memory.mergeable"
    MEMORY_PREFAULT = "memory.prefault"
    MEMORY_THP = "memory.thp"
    NUMA = "memory.numa"
    BALLOON = "balloon"
    BALLOON_STATS = "balloon.statistics"
    BALLOON_REPORTING = "balloon.free-page-reporting"

    DISK_QCOW2 = "disk.qcow2"
    DISK_RAW = "disk.raw"
    DISK_RBD = "disk.rbd"
    DISK_DIRECT = "disk.direct"
    DISK_QUEUES = "disk.queues"
    DISK_SERIAL = "disk.serial"
    DISK_VHOST_USER = "disk.vhost-user"
    DISK_ADD = "disk.add"
    DISK_REMOVE = "disk.remove"
    DISK_RESIZE = "disk.resize"
    DISK_LIMITS = "disk.limits"
    DISK_LIMITS_LIVE = "disk.limits-live"
    DISK_LIMIT_GROUPS = "disk.limit-groups"

    NIC_USER = "nic.user"
    NIC_TAP = "nic.tap"
    NIC_MACVTAP = "nic.macvtap"
    NIC_VHOST_USER = "nic.vhost-user"
    NIC_QUEUES = "nic.queues"
    NIC_MTU = "nic.mtu"
    NIC_OFFLOADS = "nic.offloads"
    NIC_IOMMU = "nic.iommu"
    NIC_ADD = "nic.add"
    NIC_REMOVE = "nic.remove"
    NIC_LIMITS = "nic.limits"
    NIC_LIMITS_LIVE = "nic.limits-live"
    NIC_LIMITS_PACKETS = "nic.limits-packets"
    NIC_LIMITS_USER = "nic.limits-user"
    PCI_SEGMENTS = "pci.segments"

    CONSOLE = "console.interactive"
    CONSOLE_VIRTIO = "console.virtio"
    GRAPHICS_VNC = "graphics.vnc"
    WATCHDOG = "watchdog"
    TPM = "tpm"
    RNG = "rng"
    PANIC = "panic"
    GUEST_CHANNEL = "guest-channel"

    DISK_SNAPSHOT = "snapshot.disk"
    CHECKPOINT = "checkpoint"
    RESEED = "checkpoint.reseed"
    MIGRATE = "migrate"
    MIGRATE_DISKS = "migrate.local-disks"
    MIGRATE_POSTCOPY = "migrate.postcopy"
    MIGRATE_TLS = "migrate.tls"
    METRICS = "metrics"
    CONFINED = "confined"


class Support(msgspec.Struct, frozen=True, kw_only=True):
    """How well a hypervisor does something on a node."""

    level: Level
    """How well it is done."""
    note: str = ""
    """Why not better, or what it takes. For people."""


Offer = Mapping[Capability, Support]
"""What is not named is unsupported."""

NATIVE = Support(level=Level.NATIVE)


def offers(offer: Offer, capability: Capability) -> bool:
    """Whether it is there at any level."""
    return offer.get(capability, _NOT).level is not Level.UNSUPPORTED


_NOT = Support(level=Level.UNSUPPORTED)

BASELINE = frozenset({Capability.BOOT_KERNEL, Capability.BOOT_BIOS, Capability.DISK_QCOW2, Capability.NIC_USER})
"""What every hypervisor did before agents said what theirs offer."""


class Offered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Some capabilities that a hypervisor of a node has at the same level, for the same reason."""

    level: Level
    """How well it does them."""
    capabilities: tuple[str, ...]
    """By `Capability`. An agent may know some that this side does not."""
    note: str = ""
    """Why not better, or what it takes."""


def told(offer: Offer) -> tuple[Offered, ...]:
    """Return an offer as it is sent and kept: in few bytes, and the same for the same offer."""
    groups: dict[tuple[Level, str], list[str]] = {}
    for capability in Capability:
        support = offer.get(capability)
        if support is not None and support != _NOT:
            groups.setdefault((support.level, support.note), []).append(capability.value)
    return tuple(Offered(level=level, note=note, capabilities=tuple(names)) for (level, note), names in groups.items())


def understood(groups: Iterable[Offered]) -> dict[Capability, Support]:
    """Return an offer that was told, without what is not known here."""
    return {
        Capability(name): Support(level=group.level, note=group.note)
        for group in groups
        for name in group.capabilities
        if name in _KNOWN
    }


def mask_of(capabilities: Iterable[Capability | str]) -> int:
    """Return a number with a bit for each, to compare many quickly. Good within one process only."""
    mask = 0
    for capability in capabilities:
        mask |= _KNOWN.get(capability, 0)
    return mask


def mask_offered(groups: Iterable[Offered] | None) -> int:
    """Return the bits of what is offered at any level. None: nobody has said, and it is the baseline."""
    if groups is None:
        return mask_of(BASELINE)
    return mask_of(name for group in groups if group.level is not Level.UNSUPPORTED for name in group.capabilities)


def named(mask: int) -> tuple[Capability, ...]:
    """Return the capabilities of the bits."""
    return tuple(capability for capability in Capability if _KNOWN[capability] & mask)


_KNOWN: dict[str, int] = {capability.value: 1 << bit for bit, capability in enumerate(Capability)}
