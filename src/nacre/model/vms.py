"""Virtual machines: what a user asks for, what a node reports, and when the two agree.

Used by every layer: the same `VmSpec` is in REST bodies, database rows, messages to agents and driver input. Pure.
"""

from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated

import msgspec

from nacre.errors import InvalidInputError, UnsupportedError
from nacre.model.convergence import Failure
from nacre.model.ids import ImageId, NodeId, ProjectId, RunId, StreamId, VmId
from nacre.model.images import ImageManifest
from nacre.model.migrations import ArrivalObserved, Outgoing, OutgoingObserved
from nacre.model.placement import MAX_PRIORITY, Placement, check_placement
from nacre.model.units import MIB

MIN_MEMORY = 64 * MIB
MAX_MEMORY = 16 << 40
MIN_DISK = 1 * MIB
MAX_DISK = 64 << 40
DEFAULT_MEMORY = 512 * MIB
DEFAULT_STOP_TIMEOUT_S = 30.0


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
    host_port: PortNumber
    host_address: str = "127.0.0.1"
    protocol: TransportProtocol = TransportProtocol.TCP

    def __str__(self) -> str:
        return f"{self.host_address}:{self.host_port}->{self.guest_port}/{self.protocol}"


class NetworkKind(StrEnum):
    """How a NIC reaches the world."""

    USER = "user"  # QEMU's own NAT, no privileges


class NicSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network interface."""

    network: NetworkKind = NetworkKind.USER
    mac: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$", max_length=17)] | None = None
    """Derived from the machine's id and the NIC's place when not given."""


class VmSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of a machine. Sizes in bytes, times in seconds."""

    image: ImageId
    hypervisor: str = "qemu"
    machine: MachineType = MachineType.Q35
    cpus: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    memory_bytes: Annotated[int, msgspec.Meta(ge=MIN_MEMORY, le=MAX_MEMORY, multiple_of=MIB)] = DEFAULT_MEMORY
    disk_bytes: Annotated[int, msgspec.Meta(ge=MIN_DISK, le=MAX_DISK, multiple_of=512)] | None = None
    """Size of the root disk. None takes the image's own size, and no disk if the image has none."""
    kernel_args: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    """Added to the image's kernel command line; only for images with a kernel."""
    nics: Annotated[tuple[NicSpec, ...], msgspec.Meta(max_length=8)] = (NicSpec(),)
    publish: Annotated[tuple[PublishedPort, ...], msgspec.Meta(max_length=64)] = ()
    restart: RestartPolicy = RestartPolicy.ON_FAILURE
    stop_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = DEFAULT_STOP_TIMEOUT_S
    """How long a graceful stop may take before the machine is switched off."""
    placement: Placement = Placement()
    ha: HaPolicy = HaPolicy.NONE
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] = 100
    """Higher goes first when machines wait for room or are restarted elsewhere."""
    preemptible: bool = False
    """May be stopped to make room for a machine of higher priority; it then waits for room itself."""


class VmIntent(msgspec.Struct, frozen=True, kw_only=True):
    """One machine of a node's desired state: everything the agent needs, nothing it must look up."""

    id: VmId
    project: ProjectId
    name: str
    generation: int
    desired: Desired
    spec: VmSpec
    image: ImageManifest
    reboot_nonce: int = 0
    """Raised by every request for a graceful reboot; the agent acts when it exceeds what it has applied."""
    reset_nonce: int = 0
    """The same for a hard reset."""
    force_stop: bool = False
    """Switch off without asking the guest."""
    fence: int = 0
    """The fencing token of this placement: every placement of a machine has a higher one than all before."""
    outgoing: Outgoing | None = None
    """It is to be sent to another node while it runs. Given and withdrawn with a new generation only."""
    arrived_by: StreamId | None = None
    """The stream by which it came here while it ran: what has arrived by another one is of no use."""


class VmArrival(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that is about to come from another node while it runs. It does not belong here yet."""

    stream: StreamId
    source: NodeId
    """Only this node is listened to."""
    vm: VmIntent
    """As it will be once it belongs here, with the token that is reserved for that."""


class RetiredVm(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that has moved away. Placements up to `fence` are to be switched off and set aside with their disks."""

    id: VmId
    fence: int


class CopyState(StrEnum):
    """What has become of what a machine left behind on a node."""

    RETIRING = "retiring"  # the node has not said yet that it has let go of it
    KEPT = "kept"  # switched off; its disks are kept until they expire or an operator discards them
    DISCARDING = "discarding"  # its disks are to be deleted


class CopyRef(msgspec.Struct, frozen=True, kw_only=True):
    """What one placement of a machine left behind on a node."""

    id: VmId
    fence: int


class CopyObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has of a retired placement."""

    id: VmId
    fence: int
    exists: bool
    """False for a placement that the node was told to retire and has nothing of."""
    size_bytes: int = 0
    """What its disks take."""
    since: datetime | None = None


class ExitReason(StrEnum):
    """Why a machine is no longer running."""

    STOPPED = "stopped"  # we asked, the guest complied
    KILLED = "killed"  # we switched it off
    GUEST_SHUTDOWN = "guest-shutdown"  # the guest powered itself off
    CRASHED = "crashed"  # its process died
    HOST_REBOOT = "host-reboot"  # the node went down under it
    FENCED = "fenced"  # its node could not renew its lease in time


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a machine's process, from start to exit."""

    id: RunId
    started_at: datetime
    accelerator: str
    accelerator_reason: str
    """Why this accelerator and not a faster one; empty when there is nothing to explain."""
    cpus: int
    memory_bytes: int
    publish: tuple[PublishedPort, ...] = ()
    guarded: bool = False
    """Whether its process is held by a guard that fences it when the node's lease ends."""
    exited_at: datetime | None = None
    exit_reason: ExitReason | None = None
    exit_detail: str = ""


class VmObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows of one machine."""

    id: VmId
    generation: int
    """The newest intent that the agent has acted on or is acting on."""
    phase: Phase
    since: datetime
    run: RunInfo | None = None
    """The current life, or the last one."""
    reboot_nonce: int = 0
    reset_nonce: int = 0
    restarts: int = 0
    """How often this agent has started the machine again after a crash since its intent last changed."""
    failure: Failure | None = None
    fence: int = 0
    """The placement that this is about: one that has ended says nothing about the machine any more."""
    outgoing: OutgoingObserved | None = None
    """Set while it is sent to another node."""
    arriving: ArrivalObserved | None = None
    """Set for a machine that is coming from another node and does not belong here yet."""


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


def restart_required(spec: VmSpec, run: RunInfo | None) -> tuple[str, ...]:
    """Name the fields of `spec` that take effect only when the machine is next started."""
    if run is None or run.exited_at is not None:
        return ()
    pairs = {
        "cpus": (spec.cpus, run.cpus),
        "memory_bytes": (spec.memory_bytes, run.memory_bytes),
        "publish": (spec.publish, run.publish),
    }
    changed = [name for name, (wanted, has) in pairs.items() if wanted != has]
    if spec.ha is HaPolicy.RESTART and not run.guarded:
        changed.append("ha")
    return tuple(changed)


def check_spec(spec: VmSpec) -> VmSpec:
    """Return `spec` if its parts fit together. Raises InvalidInputError or UnsupportedError naming the field."""
    for index, port in enumerate(spec.publish):
        field = f"publish[{index}]"
        try:
            address = ip_address(port.host_address)
        except ValueError as error:
            raise InvalidInputError(
                "invalid_address",
                f"{port.host_address!r} is not an IP address",
                hint="publish on an address of the node: 127.0.0.1 for local use, 0.0.0.0 for every address",
                field=f"{field}.host_address",
            ) from error
        if address.version == 6:
            raise UnsupportedError(
                "ipv6_publish_unsupported",
                f"{port.host_address} is an IPv6 address, and QEMU's user-mode network publishes on IPv4 only",
                hint="publish on an IPv4 address of the node, or put a proxy in front of it",
                field=f"{field}.host_address",
            )
        clash = next((p for p in spec.publish[:index] if ports_overlap(p, port)), None)
        if clash is not None:
            raise InvalidInputError(
                "port_published_twice",
                f"{port} and {clash} use the same port",
                hint="change one of them",
                field=field,
            )
    if spec.publish and not spec.nics:
        raise InvalidInputError(
            "publish_without_nic",
            "ports are published but there is no NIC",
            hint="add a user-mode NIC",
            field="publish",
        )
    if "\n" in spec.kernel_args or "\0" in spec.kernel_args:
        raise InvalidInputError(
            "invalid_kernel_args",
            "kernel_args has a line break",
            hint="write it on one line",
            field="kernel_args",
        )
    check_placement(spec.placement)
    return spec


def ports_overlap(one: PublishedPort, other: PublishedPort) -> bool:
    """Whether two published ports cannot both be listened on: same protocol and port, same or wildcard address."""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    first, second = ip_address(one.host_address), ip_address(other.host_address)
    return first == second or first.is_unspecified or second.is_unspecified


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
