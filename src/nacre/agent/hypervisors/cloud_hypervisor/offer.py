"""What Cloud Hypervisor can do, by its version. Pure. Called by `driver`."""

from nacre.model.capabilities import NATIVE, Capability, Level, Offer, Support

LEAST = (53, 0)
"""Before that a guest's power-off ends the process unseen, and a socket that a dead process has left is in the way."""

Version = tuple[int, int]

_NATIVE = (
    Capability.BOOT_KERNEL,
    Capability.RESET,
    Capability.PAUSE,
    Capability.CPU_TOPOLOGY,
    Capability.CPU_PINNING,
    Capability.CPU_HYPERV,
    Capability.MEMORY_HUGEPAGES_2M,
    Capability.MEMORY_HUGEPAGES_1G,
    Capability.MEMORY_SHARED,
    Capability.MEMORY_MERGEABLE,
    Capability.MEMORY_PREFAULT,
    Capability.MEMORY_THP,
    Capability.NUMA,
    Capability.BALLOON,
    Capability.BALLOON_REPORTING,
    Capability.DISK_QCOW2,
    Capability.DISK_RAW,
    Capability.DISK_DIRECT,
    Capability.DISK_QUEUES,
    Capability.DISK_SERIAL,
    Capability.DISK_VHOST_USER,
    Capability.DISK_ADD,
    Capability.DISK_RESIZE,
    Capability.DISK_LIMITS,
    Capability.DISK_LIMIT_GROUPS,
    Capability.NIC_TAP,
    Capability.NIC_MACVTAP,
    Capability.NIC_VHOST_USER,
    Capability.NIC_QUEUES,
    Capability.NIC_MTU,
    Capability.NIC_OFFLOADS,
    Capability.NIC_IOMMU,
    Capability.NIC_ADD,
    Capability.NIC_LIMITS_PACKETS,
    Capability.PCI_SEGMENTS,
    Capability.TPM,
    Capability.RNG,
    Capability.PANIC,
    Capability.CHECKPOINT,
    Capability.METRICS,
    Capability.CONFINED,
)
_NEEDS_GUEST = {
    Capability.SHUTDOWN: "the guest must obey its power button",
    Capability.CPU_ADD: "the guest must bring the CPUs online",
    Capability.CPU_REMOVE: "the guest must let go of the CPUs",
    Capability.MEMORY_ADD: "the guest must bring the memory online; steps of 128 MiB",
    Capability.MEMORY_VIRTIO: "the guest needs the driver virtio-mem",
    Capability.DISK_REMOVE: "the guest must let go of the disk",
    Capability.NIC_REMOVE: "the guest must let go of the NIC",
}
_NOTES = {
    Capability.BOOT_UEFI: Support(
        level=Level.NATIVE, note="with a firmware made for Cloud Hypervisor; its variables are not kept"
    ),
    Capability.WATCHDOG: Support(level=Level.NATIVE, note="the only action is reset"),
    Capability.NIC_LIMITS: Support(level=Level.NATIVE, note="the same in both directions"),
    Capability.CONSOLE: Support(
        level=Level.EMULATED, note="kept by a small process beside each machine, which also writes its log"
    ),
    Capability.CONSOLE_VIRTIO: Support(level=Level.NATIVE, note="to a file or a terminal, not to a socket"),
    Capability.BOOT_BIOS: Support(level=Level.UNSUPPORTED, note="Cloud Hypervisor has no BIOS"),
    Capability.BOOT_ISO: Support(level=Level.UNSUPPORTED, note="there are no drives for media"),
    Capability.SECURE_BOOT: Support(level=Level.UNSUPPORTED, note="variables of the firmware are not kept"),
    Capability.CPU_MODEL: Support(level=Level.UNSUPPORTED, note="the guest sees the host's CPU"),
    Capability.NIC_USER: Support(level=Level.UNSUPPORTED, note="there is no user-mode network"),
    Capability.DISK_RBD: Support(level=Level.UNSUPPORTED, note="map the image on the node instead"),
    Capability.DISK_LIMITS_LIVE: Support(level=Level.UNSUPPORTED, note="limits are set when a disk is added"),
    Capability.NIC_LIMITS_LIVE: Support(level=Level.UNSUPPORTED, note="limits are set when a NIC is added"),
    Capability.GRAPHICS_VNC: Support(level=Level.UNSUPPORTED, note="there is no screen"),
    Capability.RESEED: Support(level=Level.UNSUPPORTED, note="guests are not told that they were restored"),
    Capability.MIGRATE: Support(level=Level.NATIVE, note="to a node whose devices have the same names"),
    Capability.MIGRATE_DISKS: Support(level=Level.UNSUPPORTED, note="both nodes must see the disks"),
    Capability.MIGRATE_POSTCOPY: Support(level=Level.UNSUPPORTED, note="only over a network of its own"),
}


def offer(*, guard_obstacle: str, firmware: bool = True) -> Offer:
    """Return what a release that we drive can do on this host: all from `LEAST` on do the same."""
    found = dict.fromkeys(_NATIVE, NATIVE)
    found |= {name: Support(level=Level.NEEDS_GUEST, note=note) for name, note in _NEEDS_GUEST.items()}
    found |= _NOTES
    if not firmware:
        found[Capability.BOOT_UEFI] = Support(
            level=Level.UNSUPPORTED, note="the agent was told of no firmware (cloud_hypervisor_firmware)"
        )
    level = Level.UNSUPPORTED if guard_obstacle else Level.NATIVE
    return found | {Capability.GUARD: Support(level=level, note=guard_obstacle)}


def too_old(version: Version) -> str:
    """Say why a release cannot be driven; empty if it can."""
    if version >= LEAST:
        return ""
    return f"Cloud Hypervisor {version[0]}.{version[1]} is too old; {LEAST[0]}.{LEAST[1]} or newer is needed"
