"""Virtual machines: what a user asks for, what a node reports, and when the two agree.

Used by every layer: the same `VmSpec` is in REST bodies, database rows, messages to agents and driver input. Pure.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from nacre.model.checkpoints import CheckpointIntent, CheckpointObserved, CheckpointSource, Restoration
from nacre.model.convergence import Failure
from nacre.model.guests import CloudInit, GuestInfo, SeedRef
from nacre.model.hardware import (
    MAX_DISKS,
    MAX_NICS,
    BootOptions,
    CpuOptions,
    DeviceOptions,
    DiskOptions,
    LimitGroup,
    Mac,
    MemoryOptions,
    NicOptions,
    NumaCell,
)
from nacre.model.ids import ImageId, ProjectId, RunId, StreamId, VmId, VolumeId
from nacre.model.images import ImageManifest
from nacre.model.migrations import ArrivalObserved, Outgoing, OutgoingObserved
from nacre.model.placement import MAX_PRIORITY, Placement
from nacre.model.units import MIB
from nacre.model.volumes import VolumeAttachment

MIN_MEMORY = 64 * MIB
MAX_MEMORY = 16 << 40
MIN_DISK = 1 * MIB
MAX_DISK = 64 << 40
DEFAULT_MEMORY = 512 * MIB
DEFAULT_STOP_TIMEOUT_S = 30.0
DEFAULT_HYPERVISOR = "qemu"
SIMULATED = "fake"
"""For nodes that run nothing."""
HYPERVISORS = (DEFAULT_HYPERVISOR, "cloud-hypervisor", "firecracker", SIMULATED)
"""Those that come with us. Nodes may have others."""


class Desired(StrEnum):
    """What a machine should be doing."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABSENT = "absent"


class Phase(StrEnum):
    """What a machine is doing."""

    PENDING = "pending"  # no node has taken it yet
    PREPARING = "preparing"  # image and disks are being made ready
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    CRASHED = "crashed"  # its process died and it will be started again
    DELETING = "deleting"
    ABSENT = "absent"  # nothing of it is left on the node
    UNKNOWN = "unknown"  # its node is out of reach


class RestartPolicy(StrEnum):
    """When a node starts a machine again by itself."""

    NEVER = "never"
    ON_FAILURE = "on-failure"  # after a crash, not after the guest powered itself off
    ALWAYS = "always"


class HaPolicy(StrEnum):
    """What happens to a machine whose node is lost."""

    NONE = "none"  # it waits for its node
    RESTART = "restart"  # it is started on another node, once its old node has surely let go of it


class MachineType(StrEnum):
    """The board that QEMU emulates."""

    Q35 = "q35"
    PC = "pc"
    MICROVM = "microvm"


class TransportProtocol(StrEnum):
    """What a published port carries."""

    TCP = "tcp"
    UDP = "udp"


PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class PublishedPort(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A port of the node that leads to a port of the guest."""

    guest_port: PortNumber
    """Port of the guest."""
    host_port: PortNumber
    """Port of the node."""
    host_address: str = "127.0.0.1"
    """Address of the node to listen on."""
    protocol: TransportProtocol = TransportProtocol.TCP
    """TCP or UDP."""

    def __str__(self) -> str:
        return f"{self.host_address}:{self.host_port}->{self.guest_port}/{self.protocol}"


class NetworkKind(StrEnum):
    """How a NIC reaches the world."""

    USER = "user"  # QEMU's own NAT, no privileges


class NicSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network interface."""

    network: NetworkKind = NetworkKind.USER
    """How it reaches the world."""
    mac: Mac | None = None
    """Derived from the machine's id and the NIC's place when not given."""
    options: NicOptions = NicOptions()
    """How it is connected."""


Numa = Annotated[tuple[NumaCell, ...], msgspec.Meta(max_length=64)]
LimitGroups = Annotated[tuple[LimitGroup, ...], msgspec.Meta(max_length=MAX_DISKS)]
Nics = Annotated[tuple[NicSpec, ...], msgspec.Meta(max_length=MAX_NICS)]


class VmSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of a machine. Sizes in bytes, times in seconds."""

    image: ImageId
    """Id of the image that it boots from."""
    hypervisor: str = DEFAULT_HYPERVISOR
    """What runs it."""
    machine: MachineType = MachineType.Q35
    """The board, for `qemu`."""
    cpus: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Virtual CPUs that it starts with."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=MIN_MEMORY, le=MAX_MEMORY, multiple_of=MIB)] = DEFAULT_MEMORY
    """Memory that it starts with, in bytes."""
    disk_bytes: Annotated[int, msgspec.Meta(ge=MIN_DISK, le=MAX_DISK, multiple_of=512)] | None = None
    """Size of the root disk. None takes the image's own size, and no disk if the image has none."""
    kernel_args: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    """Added to the image's kernel command line; only for images with a kernel."""
    nics: Nics = (NicSpec(),)
    """Network interfaces, in the order in which the guest sees them."""
    publish: Annotated[tuple[PublishedPort, ...], msgspec.Meta(max_length=64)] = ()
    """Ports of the node that lead to the first NIC."""
    restart: RestartPolicy = RestartPolicy.ON_FAILURE
    """When its node starts it again by itself."""
    stop_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = DEFAULT_STOP_TIMEOUT_S
    """How long a graceful stop may take before the machine is switched off."""
    placement: Placement = Placement()
    """Where it may and should go."""
    ha: HaPolicy = HaPolicy.NONE
    """What happens to it when its node is lost."""
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] = 100
    """Higher goes first when machines wait for room or are restarted elsewhere."""
    preemptible: bool = False
    """May be stopped to make room for a machine of higher priority; it then waits for room itself."""
    cpu: CpuOptions = CpuOptions()
    """How the CPUs are, besides how many."""
    memory: MemoryOptions = MemoryOptions()
    """How the memory is, besides how much."""
    numa: Numa = ()
    """Memory nodes of the guest. None: it has one."""
    root_disk: DiskOptions = DiskOptions()
    """How the root disk is connected."""
    limit_groups: LimitGroups = ()
    """Limits that disks share."""
    devices: DeviceOptions = DeviceOptions()
    """Consoles and small devices."""
    boot: BootOptions = BootOptions()
    """What it starts from if its image has no kernel."""
    cloud_init: SeedRef | None = None
    """What its cloud-init is given, as far as it may be shown."""


class VmIntent(msgspec.Struct, frozen=True, kw_only=True):
    """One machine of a node's desired state: everything the agent needs, nothing it must look up."""

    id: VmId
    """Its id, which never changes."""
    project: ProjectId
    """The project that it belongs to."""
    name: str
    """Its name."""
    generation: int
    """Raised with every change of what is wanted."""
    desired: Desired
    """What it should be doing."""
    spec: VmSpec
    """Its configuration."""
    image: ImageManifest
    """What it boots from."""
    reboot_nonce: int = 0
    """Raised by every request for a graceful reboot; the agent acts when it exceeds what it has applied."""
    reset_nonce: int = 0
    """The same for a hard reset."""
    force_stop: bool = False
    """Switch off without asking the guest."""
    fence: int = 0
    """The fencing token of this placement: every placement of a machine has a higher one than all before."""
    volumes: tuple[VolumeAttachment, ...] = ()
    """Its disks besides the root disk, in the order in which the guest sees them."""
    seed: CloudInit | None = None
    """What `spec.cloud_init` stands for. May hold secrets: it is in no log, no event and no command line."""
    outgoing: Outgoing | None = None
    """It is to be sent to another node while it runs. Given and withdrawn with a new generation only."""
    arrived_by: StreamId | None = None
    """The stream by which it came here while it ran: what has arrived by another one is of no use."""
    checkpoints: tuple[CheckpointIntent, ...] = ()
    """Those that it should have, and those that are to go."""
    restore: Restoration | None = None
    """The newest request to put it back to a checkpoint."""
    source: CheckpointSource | None = None
    """What its root disk starts as, if not as its image."""


class ExitReason(StrEnum):
    """Why a machine is no longer running."""

    STOPPED = "stopped"  # we asked, the guest complied
    KILLED = "killed"  # we switched it off
    GUEST_SHUTDOWN = "guest-shutdown"  # the guest powered itself off
    CRASHED = "crashed"  # its process died
    HOST_REBOOT = "host-reboot"  # the node went down under it
    FENCED = "fenced"  # its node could not renew its lease in time


class InForce(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a machine that runs has of its configuration. What has its default is left out where it is written."""

    least_cpus: int
    """CPUs that it started with: it cannot have fewer while it runs."""
    least_memory_bytes: int
    """Memory that it started with."""
    disk_bytes: int | None = None
    """Size of the root disk as it was asked for. None: as the image has it."""
    nics: tuple[NicSpec, ...] = ()
    """Its network interfaces."""
    cpu: CpuOptions = CpuOptions()
    """How the CPUs are."""
    memory: MemoryOptions = MemoryOptions()
    """How the memory is."""
    numa: tuple[NumaCell, ...] = ()
    """Memory nodes of the guest."""
    root_disk: DiskOptions = DiskOptions()
    """How the root disk is connected."""
    limit_groups: tuple[LimitGroup, ...] = ()
    """Limits that disks share."""
    devices: DeviceOptions = DeviceOptions()
    """Consoles and small devices."""
    boot: BootOptions = BootOptions()
    """What it has started from."""
    refused: tuple[str, ...] = ()
    """Fields that were to be changed while it runs and that its hypervisor cannot change."""


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a machine's process, from start to exit."""

    id: RunId
    """Its id, which never changes."""
    started_at: datetime
    """When its process began."""
    accelerator: str
    """What it runs with: `kvm`, `hvf` or `tcg`."""
    accelerator_reason: str
    """Why this accelerator and not a faster one; empty when there is nothing to explain."""
    cpus: int
    """CPUs that it has."""
    memory_bytes: int
    """Memory that it has, in bytes."""
    publish: tuple[PublishedPort, ...] = ()
    """Ports of the node that lead to it."""
    guarded: bool = False
    """Whether its process is held by a guard that fences it when the node's lease ends."""
    confined: bool = False
    """Whether its process runs as a user of its own, which may use this machine's files only."""
    volumes: tuple[VolumeId, ...] = ()
    """Those that its process has, or may have, open."""
    hotplug: bool = False
    """Whether volumes come and go while it runs."""
    config: InForce | None = None
    """What it has of its machine's configuration. Not from agents that changed nothing of machines that run."""
    seed: str = ""
    """The digest of what its cloud-init was given."""
    exited_at: datetime | None = None
    """When its process ended; null while it runs."""
    exit_reason: ExitReason | None = None
    """Why it ended."""
    exit_detail: str = ""
    """Why it ended, for people."""


class VmObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows of one machine."""

    id: VmId
    """Its id, which never changes."""
    generation: int
    """The newest intent that the agent has acted on or is acting on."""
    phase: Phase
    """What it is doing."""
    since: datetime
    """Since when."""
    run: RunInfo | None = None
    """The current life, or the last one."""
    reboot_nonce: int = 0
    """The newest reboot that was carried out."""
    reset_nonce: int = 0
    """The newest reset that was carried out."""
    restarts: int = 0
    """How often this agent has started the machine again after a crash since its intent last changed."""
    failure: Failure | None = None
    """What is wrong, if anything is."""
    fence: int = 0
    """The placement that this is about: one that has ended says nothing about the machine any more."""
    guest: GuestInfo | None = None
    """What the agent in the guest says, once it has said something in this life."""
    outgoing: OutgoingObserved | None = None
    """Set while it is sent to another node."""
    arriving: ArrivalObserved | None = None
    """Set for a machine that is coming from another node and does not belong here yet."""
    restore_nonce: int = 0
    """The newest restore that was carried out, or found impossible before anything was changed."""
    checkpoints: tuple[CheckpointObserved, ...] = ()
    """Those that there are, and those that could not be taken."""


def satisfies(desired: Desired, phase: Phase) -> bool:
    """Whether a machine in `phase` is what `desired` asks for."""
    match desired:
        case Desired.RUNNING:
            return phase is Phase.RUNNING
        case Desired.PAUSED:
            return phase is Phase.PAUSED
        case Desired.STOPPED:
            return phase in {Phase.STOPPED, Phase.PENDING}
        case Desired.ABSENT:
            return phase is Phase.ABSENT


def nic_mac(vm: VmId, index: int) -> str:
    """Return the MAC of a NIC whose spec gives none: locally administered, stable for the machine's life."""
    tail = vm.rsplit("-", 1)[-1]
    number = (hash_text(tail) + index) & 0xFFFFFFFF
    return "52:4e:" + ":".join(f"{(number >> shift) & 0xFF:02x}" for shift in (24, 16, 8, 0))


def hash_text(text: str) -> int:
    """Return a stable 32-bit number for `text` (FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/)."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value
