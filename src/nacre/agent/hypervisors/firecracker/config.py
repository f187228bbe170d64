"""What is said to Firecracker about one machine before it starts. Pure: a launch in, requests in their order out.

Called by `driver`; golden tests hold it still. All paths are relative to the folder that the process works in, jailed
or not, so a machine that was saved finds its disks again wherever that folder is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import ids, limits, releases
from nacre.agent.hypervisors.firecracker.releases import Release, knows
from nacre.agent.hypervisors.firecracker.scruples import check
from nacre.agent.hypervisors.launch import Disk, DiskFile, Launch, Nic, RbdDisk, TapNic, VhostUserDisk
from nacre.model.convergence import FailureClass
from nacre.model.hardware import ConsoleMode
from nacre.model.units import MIB

API_SOCKET = "api.sock"
LOG = "firecracker.log"
METRICS = "metrics"
KERNEL = "kernel"
INITRD = "initrd"
DISKS = "disks"
SAVED_STATE = "saved.state"
SAVED_MEMORY = "saved.memory"

SLOT_MIB = 128
"""Memory is added in slots of this size."""
STATISTICS_S = 5
"""How often the guest is asked what its balloon holds."""
MAX_ARGUMENTS = 2048
"""Bytes of kernel arguments, those that Firecracker adds included."""

# The guest's end is seen by its process ending, which its rebooting does and nothing else. The keyboard is the button.
_ARGUMENTS = ("reboot=k", "panic=1", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd")
_CONSOLE = "console=ttyS0"
_NO_CONSOLE = "8250.nr_uarts=0"
_ADDED = 64

Body = Mapping[str, object]


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    body: Body


@dataclass(frozen=True)
class Placed:
    """A file of the host under the name by which the process knows it."""

    name: str
    source: Path
    own: bool = False
    """It is of this machine alone, and its process may write to it."""


def build(launch: Launch, *, release: Release) -> list[Request]:
    """Return what configures the machine. Raises DriverError for what Firecracker cannot do."""
    check(launch, release)
    requests = [Request("PUT", "/machine-config", _machine(launch, release))]
    requests.append(Request("PUT", "/boot-source", _boot_source(launch)))
    root = root_disk(launch)
    requests += [drive(disk, root=disk.id == root) for disk in launch.disks]
    requests += [interface(nic) for nic in launch.nics]
    if launch.memory.balloon is not None:
        requests.append(Request("PUT", "/balloon", _balloon(launch, release)))
    if (more := hotplug_mib(launch)) > 0:
        body = {"total_size_mib": more, "slot_size_mib": SLOT_MIB, "block_size_mib": 2}
        requests.append(Request("PUT", "/hotplug/memory", body))
    if launch.devices.rng:
        requests.append(Request("PUT", "/entropy", {}))
    return requests


def placed(launch: Launch) -> list[Placed]:
    """Name the files that the requests speak of."""
    found: list[Placed] = []
    if launch.kernel is not None:
        found.append(Placed(KERNEL, launch.kernel))
    if launch.initrd is not None:
        found.append(Placed(INITRD, launch.initrd))
    return found + [place(disk) for disk in launch.disks]


def place(disk: Disk) -> Placed:
    """Name the file of a disk that has been checked."""
    assert not isinstance(disk, RbdDisk)
    return Placed(disk_path(disk.id), disk.path if isinstance(disk, DiskFile) else disk.socket, own=True)


def disk_path(name: str) -> str:
    """Where the process finds a disk."""
    return f"{DISKS}/{ids.device(name)}"


def drive(disk: Disk, *, root: bool) -> Request:
    """Connect a disk."""
    device = ids.device(disk.id)
    body: dict[str, object] = {"drive_id": device, "is_root_device": root}
    if isinstance(disk, VhostUserDisk):
        body["socket"] = disk_path(disk.id)
    else:
        body["path_on_host"] = disk_path(disk.id)
        body["is_read_only"] = disk.options.read_only or (isinstance(disk, DiskFile) and disk.read_only)
        # Without it a flush by the guest is not one.
        body["cache_type"] = "Writeback"
        if found := limits.of(disk.options.limits):
            body["rate_limiter"] = found
    return Request("PUT", f"/drives/{device}", body)


def interface(nic: Nic) -> Request:
    """Connect a NIC."""
    assert isinstance(nic, TapNic)
    device = ids.device(nic.id)
    body: dict[str, object] = {"iface_id": device, "host_dev_name": nic.device, "guest_mac": nic.mac}
    if nic.options.mtu is not None:
        body["mtu"] = nic.options.mtu
    if found := limits.of(nic.options.receive_limits):
        body["rx_rate_limiter"] = found
    if found := limits.of(nic.options.send_limits):
        body["tx_rate_limiter"] = found
    return Request("PUT", f"/network-interfaces/{device}", body)


def root_disk(launch: Launch) -> str | None:
    """Name the disk that Firecracker tells the guest to use as its root; None if the guest knows by itself."""
    if launch.initrd is not None or any(word.startswith("root=") for word in launch.kernel_args.split()):
        return None
    return next((disk.id for disk in launch.disks if not (isinstance(disk, DiskFile) and disk.cdrom)), None)


def arguments(launch: Launch) -> str:
    """Return the kernel's arguments: the machine's own, and those without which its end would not be seen."""
    words = launch.kernel_args.split()
    given = {word.partition("=")[0] for word in words}
    words += [word for word in _ARGUMENTS if word.partition("=")[0] not in given]
    if launch.devices.serial is ConsoleMode.OFF:
        words.append(_NO_CONSOLE)
    elif "console" not in given:
        words.append(_CONSOLE)
    text = " ".join(words)
    if len(text.encode()) > MAX_ARGUMENTS - _ADDED:
        raise DriverError(
            "kernel_arguments_too_long",
            f"the kernel arguments are longer than the {MAX_ARGUMENTS} bytes that Firecracker takes",
            hint="shorten kernel_args of the machine or of its image",
            failure_class=FailureClass.PERMANENT,
        )
    return text


def hotplug_mib(launch: Launch) -> int:
    """How much memory may be added while the machine runs."""
    most = launch.memory.max_bytes or launch.memory_bytes
    return max(0, (most - launch.memory_bytes) // MIB)


def _machine(launch: Launch, release: Release) -> Body:
    topology = launch.cpu.topology
    body: dict[str, object] = {
        "vcpu_count": launch.cpus,
        "mem_size_mib": launch.memory_bytes // MIB,
        "smt": topology is not None and topology.threads == 2,
    }
    if launch.cpu.model:
        body["cpu_template"] = launch.cpu.model
    if knows(release, releases.HUGE_PAGES):
        body["huge_pages"] = _pages(launch, release)
    return body


def _pages(launch: Launch, release: Release) -> str:
    if launch.memory.hugepage_bytes is not None:
        return "2M"
    even = launch.memory_bytes // MIB % 2 == 0
    return "Transparent" if launch.memory.thp and even and knows(release, releases.TRANSPARENT_PAGES) else "None"


def _boot_source(launch: Launch) -> Body:
    body: dict[str, object] = {"kernel_image_path": KERNEL, "boot_args": arguments(launch)}
    if launch.initrd is not None:
        body["initrd_path"] = INITRD
    return body


def _balloon(launch: Launch, release: Release) -> Body:
    balloon = launch.memory.balloon
    assert balloon is not None
    body: dict[str, object] = {
        "amount_mib": balloon.reclaim_bytes // MIB,
        "deflate_on_oom": balloon.deflate_on_oom,
        "stats_polling_interval_s": STATISTICS_S,
    }
    if knows(release, releases.PAGE_REPORTING):
        body["free_page_reporting"] = balloon.free_page_reporting
    return body
