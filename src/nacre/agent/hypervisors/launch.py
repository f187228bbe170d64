"""What a driver is given to start one life of a machine. Made by `agent/vms`, read by drivers. Pure.

All paths exist and belong to the agent; what is in a file is never guessed.
"""

from dataclasses import dataclass
from pathlib import Path

from nacre.model.hardware import (
    CpuOptions,
    DeviceOptions,
    DiskOptions,
    LimitGroup,
    MemoryOptions,
    NicOptions,
    NumaCell,
)
from nacre.model.ids import RunId, VmId
from nacre.model.vms import MachineType, PublishedPort


@dataclass(frozen=True, kw_only=True)
class DiskFile:
    """A disk as a file or a block device of this host."""

    id: str
    path: Path
    format: str
    """`raw` or `qcow2`. Never guessed from the content, which belongs to the guest."""
    read_only: bool = False
    options: DiskOptions = DiskOptions()
    cdrom: bool = False
    """Shown to the guest as a medium in a drive, such as an installer or a cloud-init seed."""


@dataclass(frozen=True, kw_only=True)
class RbdDisk:
    """A disk in a Ceph cluster, which the hypervisor reaches by itself."""

    id: str
    pool: str
    image: str
    configuration: Path
    """The cluster's `ceph.conf`, which names the monitors, and the keyring unless there is a `secret`."""
    user: str = "admin"
    secret: Path | None = None
    """A file with the user's key in base64. It may go once the disk is open."""
    read_only: bool = False
    options: DiskOptions = DiskOptions()


@dataclass(frozen=True, kw_only=True)
class VhostUserDisk:
    """A disk that another process of this host serves."""

    id: str
    socket: Path
    options: DiskOptions = DiskOptions()


Disk = DiskFile | RbdDisk | VhostUserDisk


@dataclass(frozen=True, kw_only=True)
class UserNic:
    """A NIC behind the hypervisor's own NAT, with ports that lead in from the host."""

    id: str
    mac: str
    publish: tuple[PublishedPort, ...] = ()
    options: NicOptions = NicOptions()


@dataclass(frozen=True, kw_only=True)
class TapNic:
    """A NIC on a tap device of this host that is there already."""

    id: str
    mac: str
    device: str
    options: NicOptions = NicOptions()


@dataclass(frozen=True, kw_only=True)
class MacvtapNic:
    """A NIC on a macvtap interface of this host that is there already."""

    id: str
    mac: str
    device: Path
    """Its character device, `/dev/tapN`."""
    options: NicOptions = NicOptions()


@dataclass(frozen=True, kw_only=True)
class VhostUserNic:
    """A NIC that another process of this host serves."""

    id: str
    mac: str
    socket: Path
    server: bool = False
    """Whether the hypervisor listens and the other process connects."""
    options: NicOptions = NicOptions()


Nic = UserNic | TapNic | MacvtapNic | VhostUserNic


@dataclass(frozen=True, kw_only=True)
class FirmwareFiles:
    """What a UEFI guest starts from."""

    code: Path
    """Read only, shared by all machines."""
    variables: Path | None = None
    """The machine's own; kept between lives."""
    secure_boot: bool = False


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What the hypervisor's process is kept in. User and group are of this machine alone."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Groups besides, which may read what machines share and use the host's accelerator."""
    jail: Path | None = None
    """Where drivers that do so (`abilities.HasJails`) make a folder that is all that the machine's process sees."""


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What must be known, besides the launch, of a guest that comes from another host."""

    shape: str = ""
    """What the guest said there (`abilities.HasShape`). Only its driver understands it."""
    disks: tuple[str, ...] = ()
    """Disks whose content comes as well."""
    held: bool = False
    """Whether the guest, once it is here, stands still until it is resumed."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Everything a driver needs to start one life of a machine. All paths exist and belong to the agent."""

    vm: VmId
    run: RunId
    name: str
    machine: MachineType
    cpus: int
    memory_bytes: int
    directory: Path
    """Kept between lives: disks, console log, hypervisor log."""
    run_directory: Path
    """Short path for sockets; emptied between lives."""
    lock_fd: int
    """An open file descriptor holding an exclusive flock on the machine. The hypervisor's process inherits it,
    so the lock lives exactly as long as the process: whoever cannot take it must adopt, not start."""
    lease: Path | None = None
    """A file that says until when the guest may run (`guard.py`). With it, the hypervisor is started under a guard."""
    kernel: Path | None = None
    initrd: Path | None = None
    kernel_args: str = ""
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    cpu: CpuOptions = CpuOptions()
    memory: MemoryOptions = MemoryOptions()
    numa: tuple[NumaCell, ...] = ()
    devices: DeviceOptions = DeviceOptions()
    limit_groups: tuple[LimitGroup, ...] = ()
    firmware: FirmwareFiles | None = None
    """None: the kernel above, or the hypervisor's BIOS."""
    tpm_socket: Path | None = None
    """Where swtpm listens, if the machine has a TPM."""
    confinement: Confinement | None = None
    arrival: Arrival | None = None
    """Set if the guest comes from another host."""

    @property
    def publish(self) -> tuple[PublishedPort, ...]:
        """Ports of this host that lead to the guest."""
        return tuple(port for nic in self.nics if isinstance(nic, UserNic) for port in nic.publish)
