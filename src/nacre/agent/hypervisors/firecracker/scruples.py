"""What of a launch Firecracker cannot do, said before anything is started. Pure. Used by `config`.

Nothing that a machine asks for is left out silently: either it is in the requests or it is refused here, with a hint.
"""

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import releases
from nacre.agent.hypervisors.firecracker.releases import Release, Since, knows
from nacre.agent.hypervisors.launch import Disk, DiskFile, Launch, Nic, RbdDisk, TapNic, UserNic, VhostUserDisk
from nacre.model.convergence import FailureClass
from nacre.model.hardware import ConsoleMode, DiskOptions, Graphics, HotplugMethod, NicOptions
from nacre.model.ids import VolumeId
from nacre.model.units import MIB
from nacre.model.volumes import serial_of

MAX_CPUS = 32
TEMPLATES = frozenset({"C3", "T2", "T2S", "T2CL", "T2A", "V1N1"})
"""CPU models that Firecracker knows by name."""
SLOT_BYTES = 128 * MIB

_ELSEWHERE = "use the hypervisor qemu for this machine"
_RNG = "/dev/urandom"
_DISK = "disk_unsupported"
_NIC = "nic_unsupported"
_USUAL_DISK = DiskOptions()
_USUAL_NIC = NicOptions()


def check(launch: Launch, release: Release) -> None:
    """Raise DriverError for the first thing that cannot be done."""
    _check_boot(launch)
    _check_cpus(launch)
    _check_memory(launch, release)
    _check_balloon(launch, release)
    _check_devices(launch)
    if launch.limit_groups:
        raise refusal("disks that share their limits", "give each disk limits of its own")
    for disk in launch.disks:
        check_disk(disk, release)
    for nic in launch.nics:
        check_nic(nic, release)


def refusal(what: str, hint: str = _ELSEWHERE, *, code: str = "unsupported_by_hypervisor") -> DriverError:
    """Return the error for something that Firecracker has no device or option for."""
    return DriverError(
        code,
        f"Firecracker cannot do this: {what}",
        hint=hint,
        failure_class=FailureClass.PERMANENT,
    )


def check_disk(disk: Disk, release: Release) -> None:
    """Raise DriverError for a disk that cannot be connected. The serial number that volumes have anyway is let go."""
    options = disk.options
    if isinstance(disk, RbdDisk):
        hint = "map the image on the node (rbd map) and give the machine the block device, or " + _ELSEWHERE
        raise refusal(f"disk {disk.id}, which is in a Ceph cluster", hint, code=_DISK)
    if isinstance(disk, DiskFile) and disk.format != "raw":
        hint = "use a raw one: `nacre volume clone NAME NAME-raw --full --format raw` makes one of a volume"
        raise refusal(f"disk {disk.id} in the format {disk.format}", hint, code=_DISK)
    if isinstance(disk, VhostUserDisk):
        _check_release(f"disk {disk.id}, which another process serves", releases.VHOST_USER_DISKS, release)
        if options.read_only or options.limits != _USUAL_DISK.limits:
            raise refusal(f"limits or write protection of disk {disk.id}", "let the process that serves the disk do it")
    for asked, what in (
        (options.direct, "direct I/O"),
        (options.queues != _USUAL_DISK.queues, "several queues"),
        (options.queue_size != _USUAL_DISK.queue_size, "a queue of another size"),
        (options.serial not in {"", serial_of(VolumeId(disk.id))}, "a serial number of its own"),
        (options.pci_segment, "another PCI segment"),
        (options.limit_group, "shared limits"),
    ):
        if asked:
            raise refusal(f"{what} for disk {disk.id}", f"leave that option at its default, or {_ELSEWHERE}")


def check_nic(nic: Nic, release: Release) -> None:
    """Raise DriverError for a NIC that cannot be connected."""
    if isinstance(nic, UserNic):
        raise refusal(
            f"NIC {nic.id} behind a NAT of the hypervisor, and ports published by it",
            "put the machine on a network with a tap, or " + _ELSEWHERE,
            code=_NIC,
        )
    if not isinstance(nic, TapNic):
        raise refusal(f"NIC {nic.id}, which is no tap device", "put the machine on a network with a tap", code=_NIC)
    options = nic.options
    if options.mtu is not None:
        _check_release(f"the MTU of NIC {nic.id}", releases.MTU, release)
    for asked, what in (
        (options.queues != _USUAL_NIC.queues, "several queues"),
        (options.queue_size != _USUAL_NIC.queue_size, "a queue of another size"),
        (not (options.tso and options.ufo and options.checksum), "work that is not left to the host"),
        (options.host_mac is not None, "a MAC for the host's end"),
        (options.iommu, "an IOMMU"),
        (options.pci_segment, "another PCI segment"),
    ):
        if asked:
            raise refusal(f"{what} for NIC {nic.id}", f"leave that option at its default, or {_ELSEWHERE}")


def _check_release(what: str, feature: Since, release: Release) -> None:
    if not knows(release, feature):
        raise refusal(what, f"it takes {releases.name(feature)} on the node")


def _check_boot(launch: Launch) -> None:
    if launch.firmware is not None:
        raise refusal("starting from firmware", "use an image with a kernel, or " + _ELSEWHERE)
    if launch.kernel is None:
        raise refusal("starting from a disk", "use an image with a kernel, or " + _ELSEWHERE)
    if launch.arrival is not None:
        raise refusal("taking in a machine that moves here while it runs", "save it there and restore it here")


def _check_cpus(launch: Launch) -> None:
    cpu, topology = launch.cpu, launch.cpu.topology
    if launch.cpus > MAX_CPUS:
        raise refusal(f"{launch.cpus} CPUs", f"give it at most {MAX_CPUS}, or {_ELSEWHERE}")
    if cpu.max is not None and cpu.max != launch.cpus:
        raise refusal("adding CPUs while the machine runs", "leave cpu.max out; stop the machine to change its CPUs")
    if cpu.model and cpu.model not in TEMPLATES:
        raise refusal(f"the CPU model {cpu.model}", f"leave it out, or use one of {', '.join(sorted(TEMPLATES))}")
    if topology is not None and (topology.dies, topology.packages, topology.cpus) != (1, 1, launch.cpus):
        raise refusal(
            "this CPU topology", "ask for one die and one package, with as many threads as the machine's CPUs"
        )
    if topology is not None and topology.threads == 2 and launch.cpus % 2:
        raise refusal("two threads per core with an odd number of CPUs", "give it an even number of CPUs")
    if cpu.pins:
        raise refusal("CPUs that are tied to CPUs of the host")
    if cpu.hyperv:
        raise refusal("hints for Windows guests")


def _check_memory(launch: Launch, release: Release) -> None:
    memory = launch.memory
    if launch.memory_bytes % MIB or not launch.memory_bytes:
        raise refusal("memory that is no whole number of MiB", "give it a size in MiB")
    more = (memory.max_bytes or launch.memory_bytes) - launch.memory_bytes
    if more > 0:
        _check_release("adding memory while the machine runs", releases.MEMORY_HOTPLUG, release)
        if memory.hotplug is not HotplugMethod.VIRTIO_MEM:
            raise refusal("adding memory as DIMMs", "set memory.hotplug to virtio-mem")
        if more % SLOT_BYTES:
            raise refusal(
                "this maximum of memory", f"let it differ from the memory by a multiple of {SLOT_BYTES // MIB} MiB"
            )
    if memory.hugepage_bytes is not None:
        _check_release("huge pages", releases.HUGE_PAGES, release)
        if memory.hugepage_bytes != 2 * MIB or launch.memory_bytes % (2 * MIB):
            raise refusal("huge pages of this size", "use pages of 2 MiB, and an even number of MiB of memory")
    if memory.shared and not any(isinstance(disk, VhostUserDisk) for disk in launch.disks):
        raise refusal("memory that is shared without a device that needs it", "leave memory.shared out")
    for asked, what in (
        (memory.mergeable, "memory whose equal pages are kept once"),
        (memory.prefault, "memory that is all taken at the start"),
        (launch.numa, "memory nodes"),
    ):
        if asked:
            raise refusal(what, f"leave that option out, or {_ELSEWHERE}")


def _check_balloon(launch: Launch, release: Release) -> None:
    balloon = launch.memory.balloon
    if balloon is None:
        return
    if balloon.reclaim_bytes > launch.memory_bytes:
        raise refusal("a balloon larger than the memory", "reclaim less")
    if balloon.free_page_reporting:
        _check_release("a balloon to which the guest reports free pages", releases.PAGE_REPORTING, release)


def _check_devices(launch: Launch) -> None:
    devices = launch.devices
    for asked, what in (
        (devices.serial not in {ConsoleMode.SOCKET, ConsoleMode.FILE, ConsoleMode.OFF}, "a serial port of this kind"),
        (devices.console is not ConsoleMode.OFF, "a virtio console"),
        (devices.rng not in {"", _RNG}, f"random numbers from {devices.rng}"),
        (devices.watchdog is not None, "a watchdog"),
        (devices.tpm or launch.tpm_socket is not None, "a TPM"),
        (devices.graphics is not Graphics.NONE, "a screen"),
        (devices.panic, "a device that tells of panics"),
    ):
        if asked:
            raise refusal(what, f"leave it out, or {_ELSEWHERE}")
