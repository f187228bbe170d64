"""What Firecracker can do, by its release. Pure. Used by `driver`.

Its makers leave most devices out on purpose. What is not named is unsupported.
"""

from nacre.agent.hypervisors.firecracker import releases
from nacre.agent.hypervisors.firecracker.releases import Release, Since, knows
from nacre.model.capabilities import NATIVE, Capability, Level, Offer, Support

_ALWAYS = frozenset(
    {
        Capability.BOOT_KERNEL,
        Capability.PAUSE,
        Capability.BALLOON,
        Capability.BALLOON_STATS,
        Capability.DISK_RAW,
        Capability.DISK_LIMITS,
        Capability.DISK_LIMITS_LIVE,
        Capability.NIC_TAP,
        Capability.NIC_LIMITS,
        Capability.NIC_LIMITS_LIVE,
        Capability.NIC_LIMITS_PACKETS,
        Capability.RNG,
        Capability.METRICS,
        Capability.CHECKPOINT,
    }
)
_SINCE: dict[Capability, Since] = {
    Capability.MEMORY_HUGEPAGES_2M: releases.HUGE_PAGES,
    Capability.RESEED: releases.VM_GENERATION,
    Capability.MEMORY_ADD: releases.MEMORY_HOTPLUG,
    Capability.MEMORY_VIRTIO: releases.MEMORY_HOTPLUG,
    Capability.BALLOON_REPORTING: releases.PAGE_REPORTING,
    Capability.NIC_MTU: releases.MTU,
    Capability.MEMORY_THP: releases.TRANSPARENT_PAGES,
}
_RESCAN = "a preview; the guest must look at its PCI bus again (echo 1 > /sys/bus/pci/rescan)"
_LET_GO = "a preview; the guest must let go of the device before (echo 1 > its remove file in /sys)"
_PREVIEWS: dict[Capability, tuple[Since, str]] = {
    Capability.DISK_ADD: (releases.PCI_HOTPLUG, _RESCAN),
    Capability.NIC_ADD: (releases.PCI_HOTPLUG, _RESCAN),
    Capability.DISK_REMOVE: (releases.PCI_HOTPLUG, _LET_GO),
    Capability.NIC_REMOVE: (releases.PCI_HOTPLUG, _LET_GO),
    Capability.DISK_VHOST_USER: (releases.VHOST_USER_DISKS, "a preview; a machine with such a disk cannot be saved"),
}
_QUALIFIED: dict[Capability, Support] = {
    Capability.SHUTDOWN: Support(
        level=Level.NEEDS_GUEST,
        note="the guest is sent Ctrl-Alt-Del, and must have an AT keyboard driver and reboot on it, which ends it",
    ),
    Capability.CONSOLE: Support(
        level=Level.EMULATED,
        note="on the standard input and output of its process, joined by the node's agent: none while that is away",
    ),
    Capability.CPU_MODEL: Support(level=Level.NATIVE, note="only by the names of Firecracker's own templates"),
    Capability.CPU_TOPOLOGY: Support(level=Level.NATIVE, note="one or two threads per core, nothing else"),
    Capability.DISK_RESIZE: Support(level=Level.EMULATED, note="the file is grown and named again; raw disks only"),
}
_HOLES = "the host lacks Firecracker's jailer"


def offer(release: Release, *, jailer: bool, guard_obstacle: str) -> Offer:
    """Say what a release does on a host, with a jailer or without, and with guards unless there is an obstacle."""
    found: dict[Capability, Support] = dict.fromkeys(_ALWAYS, NATIVE) | _QUALIFIED
    for capability, feature in _SINCE.items():
        found[capability] = NATIVE if knows(release, feature) else _missing(feature)
    for capability, (feature, note) in _PREVIEWS.items():
        preview = Support(level=Level.EXPERIMENTAL, note=note)
        found[capability] = preview if knows(release, feature) else _missing(feature)
    found[Capability.GUARD] = _unless(guard_obstacle)
    found[Capability.CONFINED] = _unless("" if jailer else _HOLES)
    found[Capability.RESET] = Support(
        level=Level.UNSUPPORTED, note="its process cannot begin again; stop the machine and start it"
    )
    return found


def _missing(feature: Since) -> Support:
    return Support(level=Level.UNSUPPORTED, note=f"it takes {releases.name(feature)}")


def _unless(obstacle: str) -> Support:
    return Support(level=Level.UNSUPPORTED, note=obstacle) if obstacle else NATIVE
