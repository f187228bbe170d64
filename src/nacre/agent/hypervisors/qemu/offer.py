"""What QEMU can do on a host: from its version, its accelerator and what the host has. Called by `driver`.

`look` reads the host, `offer` decides. Boards differ: what only q35 can do is in the notes, and refused by `checks`.
"""

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors import guarding
from nacre.agent.hypervisors.qemu import firmware
from nacre.agent.hypervisors.qemu.installed import Installed
from nacre.model.capabilities import NATIVE, Capability, Level, Offer, Support
from nacre.model.units import GIB, MIB

_HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
_MERGING = Path("/sys/kernel/mm/ksm/run")

_NATIVE = (
    Capability.BOOT_KERNEL,
    Capability.BOOT_BIOS,
    Capability.BOOT_ISO,
    Capability.RESET,
    Capability.PAUSE,
    Capability.CPU_MODEL,
    Capability.CPU_TOPOLOGY,
    Capability.MEMORY_PREFAULT,
    Capability.NUMA,
    Capability.DISK_QCOW2,
    Capability.DISK_RAW,
    Capability.DISK_DIRECT,
    Capability.DISK_QUEUES,
    Capability.DISK_SERIAL,
    Capability.DISK_ADD,
    Capability.DISK_RESIZE,
    Capability.DISK_LIMITS,
    Capability.DISK_LIMITS_LIVE,
    Capability.DISK_LIMIT_GROUPS,
    Capability.NIC_MTU,
    Capability.NIC_OFFLOADS,
    Capability.NIC_ADD,
    Capability.CONSOLE,
    Capability.CONSOLE_VIRTIO,
    Capability.GRAPHICS_VNC,
    Capability.WATCHDOG,
    Capability.RNG,
    Capability.PANIC,
    Capability.DISK_SNAPSHOT,
    Capability.CHECKPOINT,
    Capability.MIGRATE,
    Capability.MIGRATE_DISKS,
)
_LINUX = (
    Capability.CPU_PINNING,
    Capability.MEMORY_SHARED,
    Capability.BALLOON_REPORTING,
    Capability.DISK_VHOST_USER,
    Capability.NIC_TAP,
    Capability.NIC_MACVTAP,
    Capability.NIC_VHOST_USER,
    Capability.NIC_QUEUES,
    Capability.NIC_IOMMU,
    Capability.MIGRATE_POSTCOPY,
)
_NEEDS_GUEST = {
    Capability.SHUTDOWN: "the guest must obey its power button",
    Capability.CPU_ADD: "the guest must bring the CPUs online; not on a microvm",
    Capability.MEMORY_ADD: "the guest must bring the memory online; steps of 128 MiB, 16 times; not on a microvm",
    Capability.MEMORY_VIRTIO: "the guest needs the driver virtio-mem; not on a microvm",
    Capability.BALLOON: "the guest needs the driver virtio-balloon",
    Capability.DISK_REMOVE: "the guest must let go of the disk",
    Capability.NIC_REMOVE: "the guest must let go of the NIC",
    Capability.GUEST_CHANNEL: "an agent must run in the guest",
    Capability.RESEED: "the guest must know generation ids, as Linux does from 5.18 on",
}
_NOTES = {
    Capability.NIC_USER: Support(level=Level.NATIVE, note="one queue; publishes on IPv4 addresses"),
    Capability.MEMORY_THP: Support(level=Level.NATIVE, note="always on; it can be turned off for the whole node only"),
    Capability.METRICS: Support(
        level=Level.NATIVE, note="NICs are counted by the node; those of a user network are not"
    ),
    Capability.CPU_REMOVE: Support(level=Level.UNSUPPORTED, note="restart the machine with fewer CPUs"),
    Capability.BALLOON_STATS: Support(level=Level.UNSUPPORTED, note="what the guest says of its memory is not read"),
    Capability.NIC_LIMITS_PACKETS: Support(
        level=Level.UNSUPPORTED, note="the node's kernel limits the bytes of a NIC, not its packets"
    ),
    Capability.NIC_LIMITS_USER: Support(
        level=Level.UNSUPPORTED, note="its packets go through no device of the node, only through QEMU"
    ),
    Capability.PCI_SEGMENTS: Support(level=Level.UNSUPPORTED, note="QEMU has one PCI segment"),
    Capability.MIGRATE_TLS: Support(
        level=Level.UNSUPPORTED, note="it sends to a socket of this node; who carries it on from there encrypts it"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an offer depends on."""

    accelerator: str
    linux: bool = True
    root: bool = True
    guard_obstacle: str = ""
    nic_limits_obstacle: str = ""
    """Why the node's kernel cannot limit taps; empty if it can (`traffic.obstacle`)."""
    ceph: bool = False
    uefi: bool = False
    secure_uefi: bool = False
    swtpm: bool = False
    merging: bool = False
    huge_pages: frozenset[int] = frozenset()
    """Sizes of which the host has set some aside."""


def look(installed: Installed, accelerator: str, folders: Iterable[Path] = firmware.FOLDERS) -> Facts:
    """Read what the host has."""
    places = list(folders)
    return Facts(
        accelerator=accelerator,
        linux=sys.platform == "linux",
        root=os.geteuid() == 0,
        guard_obstacle=guarding.obstacle(),
        ceph=installed.ceph,
        uefi=firmware.find(places, secure_boot=False) is not None,
        secure_uefi=firmware.find(places, secure_boot=True) is not None,
        swtpm=shutil.which("swtpm") is not None,
        merging=_MERGING.exists(),
        huge_pages=frozenset(size for size in (2 * MIB, GIB) if _set_aside(size)),
    )


def offer(facts: Facts) -> Offer:
    """Say what can be done. Pure."""
    found = dict.fromkeys(_NATIVE, NATIVE)
    found |= {name: Support(level=Level.NEEDS_GUEST, note=note) for name, note in _NEEDS_GUEST.items()}
    found |= _NOTES
    found |= {capability: _if(facts.linux, "on Linux only") for capability in _LINUX}
    secure = facts.secure_uefi and facts.linux
    found |= {
        Capability.GUARD: _if(not facts.guard_obstacle, facts.guard_obstacle),
        Capability.NIC_LIMITS: _limits(facts, "by the node's kernel, of taps; after a pause a burst is there again"),
        Capability.NIC_LIMITS_LIVE: _limits(facts, "by the node's kernel, of taps"),
        Capability.BOOT_UEFI: _if(facts.uefi, "the node has no firmware for it: install ovmf", "not on a microvm"),
        Capability.SECURE_BOOT: _if(secure, "the node has no firmware for it: install ovmf", "on the board q35 only"),
        Capability.TPM: _if(facts.swtpm, "the node has no swtpm: install it", "not on a microvm"),
        Capability.CPU_HYPERV: _if(facts.accelerator == "kvm", "under KVM only"),
        Capability.DISK_RBD: _if(facts.ceph, "this QEMU knows no Ceph: install qemu-block-extra"),
        Capability.MEMORY_MERGEABLE: _if(facts.merging, "the node's kernel does not merge pages (KSM)"),
        Capability.MEMORY_HUGEPAGES_2M: _huge(facts, 2 * MIB, "2 MiB"),
        Capability.MEMORY_HUGEPAGES_1G: _huge(facts, GIB, "1 GiB"),
        Capability.CONFINED: _if(
            facts.linux and facts.root, "the agent must run as root on Linux", "a user of its own and a sandbox"
        ),
    }
    return found


def _if(there: bool, why_not: str, note: str = "") -> Support:  # reads like the sentence that it is
    return Support(level=Level.NATIVE, note=note) if there else Support(level=Level.UNSUPPORTED, note=why_not)


def _limits(facts: Facts, note: str) -> Support:
    if facts.nic_limits_obstacle:
        return Support(level=Level.UNSUPPORTED, note=facts.nic_limits_obstacle)
    return Support(level=Level.EMULATED, note=note)


def _huge(facts: Facts, size: int, name: str) -> Support:
    return _if(facts.linux and size in facts.huge_pages, f"the node has set no huge pages of {name} aside")


def _set_aside(size: int) -> bool:
    try:
        return int((_HUGE_PAGES / f"hugepages-{size >> 10}kB" / "nr_hugepages").read_text()) > 0
    except OSError:
        return False
