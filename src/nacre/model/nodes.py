"""Nodes: the machines that run things. States as a table, capacity, conditions and what each can do. Pure."""

from datetime import datetime
from enum import StrEnum

import msgspec

from nacre.errors import ConflictError
from nacre.model.capabilities import Offered


class NodeState(StrEnum):
    """Where a node is in its life."""

    ENROLLING = "enrolling"  # has a certificate, has not connected yet
    READY = "ready"
    CORDONED = "cordoned"  # keeps what it runs, gets nothing new
    DRAINING = "draining"  # what it runs is being moved away
    MAINTENANCE = "maintenance"  # empty, and may be silent without that being news
    OFFLINE = "offline"  # missed its heartbeats
    FAILED = "failed"  # given up: its lease has ended, and what it ran may run elsewhere


class NodeWish(StrEnum):
    """What an operator wants of a node. Outlives being offline, which the state cannot say."""

    ACTIVE = "active"
    CORDONED = "cordoned"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"


_HEARD = frozenset({NodeState.READY, NodeState.CORDONED, NodeState.DRAINING, NodeState.MAINTENANCE})
LOST = frozenset({NodeState.OFFLINE, NodeState.FAILED})
"""Out of reach: nobody knows what it does."""

MOVES: dict[NodeState, frozenset[NodeState]] = {
    NodeState.ENROLLING: _HEARD | LOST,
    NodeState.READY: frozenset({NodeState.CORDONED, NodeState.DRAINING, NodeState.MAINTENANCE}) | LOST,
    NodeState.CORDONED: frozenset({NodeState.READY, NodeState.DRAINING, NodeState.MAINTENANCE}) | LOST,
    NodeState.DRAINING: frozenset({NodeState.READY, NodeState.CORDONED, NodeState.MAINTENANCE}) | LOST,
    NodeState.MAINTENANCE: frozenset({NodeState.READY, NodeState.CORDONED, NodeState.DRAINING, NodeState.FAILED}),
    NodeState.OFFLINE: _HEARD | {NodeState.FAILED},
    NodeState.FAILED: _HEARD,
}
"""Which state may follow which. A node in maintenance is never offline: it was told that it may be silent."""

STATE_OF_WISH: dict[NodeWish, NodeState] = {
    NodeWish.ACTIVE: NodeState.READY,
    NodeWish.CORDONED: NodeState.CORDONED,
    NodeWish.DRAINING: NodeState.DRAINING,
    NodeWish.MAINTENANCE: NodeState.MAINTENANCE,
}
"""The state of a node that is heard."""


def move(state: NodeState, to: NodeState) -> NodeState:
    """Return `to` if the table allows it (staying put is always allowed). Raises ConflictError."""
    if to is not state and to not in MOVES[state]:
        raise ConflictError(
            "illegal_node_state",
            f"a node that is {state} cannot become {to}",
            hint="look at the node's state and choose a move that it allows",
        )
    return to


class ConditionKind(StrEnum):
    """What can be wrong with a node without it being offline."""

    MEMORY_PRESSURE = "MemoryPressure"
    DISK_PRESSURE = "DiskPressure"
    NETWORK_UNAVAILABLE = "NetworkUnavailable"
    FLAPPING = "Flapping"
    CLOCK_SKEW = "ClockSkew"
    HYPERVISOR_UNAVAILABLE = "HypervisorUnavailable"
    HELD_WORKLOADS = "HeldWorkloads"
    TEARDOWN_REFUSED = "TeardownRefused"
    TENURE_WENT_BACK = "TenureWentBack"


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong with a node now. Cleared by no longer being reported."""

    kind: ConditionKind
    """Which of the conditions."""
    message: str
    """What is wrong, for people."""
    hint: str
    """What to do about it."""
    since: datetime
    """Since when it is so."""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has in all."""

    cpus: int
    """CPUs of the host."""
    memory_bytes: int
    """Memory of the host, in bytes."""
    disk_bytes: int
    """Disk for images and machines, in bytes."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What is in use on a node now, by anyone."""

    load1: float
    """Load of the last minute, as Linux counts it."""
    memory_bytes: int
    """Memory in use, in bytes."""
    disk_bytes: int
    """Disk in use, in bytes."""


class HypervisorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One hypervisor of a node, or why it is not there."""

    name: str
    """As in `hypervisor` of a machine."""
    available: bool
    """Whether it works."""
    reason: str = ""
    """Why it is not available, or why a faster accelerator is not used."""
    version: str = ""
    """Version that is installed."""
    accelerator: str = ""
    """What it runs machines with: `kvm`, `hvf` or `tcg`."""
    machines: tuple[str, ...] = ()
    """Machine types that it knows."""
    abilities: tuple[str, ...] = ()
    """What its driver can do beyond starting and stopping machines."""
    offer: tuple[Offered, ...] | None = None
    """What it can do for machines and, for what it cannot, why. Null in lists, and from agents that do not say."""


LIVE_MOVES = "live-moves"
"""Ability of a hypervisor: machines come and go while they run, with the content of their disks."""


class NumaNode(msgspec.Struct, frozen=True, kw_only=True):
    """One memory node of a host and its CPUs."""

    id: int
    """Its number."""
    cpus: str
    """As Linux lists them: `0-3,8-11`."""
    memory_bytes: int
    """Its memory, in bytes."""


class HugePages(msgspec.Struct, frozen=True, kw_only=True):
    """The huge pages of one size."""

    size_bytes: int
    """Size of one page, in bytes."""
    total: int
    """How many there are."""


class BlockDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of a host."""

    name: str
    """As the kernel calls it."""
    wwn: str = ""
    """World Wide Name, or another stable id; empty for disks without one."""
    model: str = ""
    """Model of the device."""
    size_bytes: int
    """Its size, in bytes."""
    rotational: bool = False
    """Whether it is a disk that spins."""


class PciDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device that could be passed to a guest."""

    address: str
    """`0000:01:00.0`"""
    kind: str
    """`gpu`, `nic`, `nvme` or `other`."""
    vendor: str
    """Vendor, as four hex digits."""
    device: str
    """Device, as four hex digits."""
    driver: str = ""
    """The driver of the host that holds it."""
    iommu_group: int | None = None
    """Devices of one group can only be passed on together; null without an IOMMU."""


class HostNic(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface of a host."""

    name: str
    """As the kernel calls it."""
    mac: str = ""
    """Its address."""
    mtu: int = 0
    """Largest packet, in bytes."""
    up: bool = False
    """Whether it is up."""
    speed_mbps: int | None = None
    """Its speed in Mbit/s; null if it does not say."""
    addresses: tuple[str, ...] = ()
    """IP addresses on it."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a host is made of."""

    cpu_model: str = ""
    """Model of the CPUs."""
    cpu_cores: int = 0
    """Cores of all CPUs."""
    cpu_threads: int = 0
    """Threads of all cores."""
    cpu_flags: str = ""
    """What its CPUs can do, as a digest: equal for hosts between which a machine can go on under KVM."""
    numa: tuple[NumaNode, ...] = ()
    """Memory nodes."""
    huge_pages: tuple[HugePages, ...] = ()
    """Huge pages that are set aside."""
    disks: tuple[BlockDevice, ...] = ()
    """Disks."""
    devices: tuple[PciDevice, ...] = ()
    """PCI devices that could be passed to a guest."""
    nics: tuple[HostNic, ...] = ()
    """Network interfaces."""


class ReliabilityPart(StrEnum):
    """What a node's reliability is judged by."""

    UPTIME = "uptime"
    RESPONSE = "response"
    SUCCESS = "success"
    CAPACITY = "capacity"
    STABILITY = "stability"


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """How far a node can be relied on, 0 to 1, with its parts, each 0 to 1 before weighting."""

    score: float = 0.5
    """0 to 1."""
    parts: dict[str, float] = {}
    """By `ReliabilityPart`."""
    discount: float = 1.0
    """What the weighted sum was multiplied with because the node is new; 1 once it is not."""
    flaps: float = 0.0
    """How often it went away and came back lately; halves every five minutes, counted from `flapped_at`."""
    flapped_at: datetime | None = None
    """When it last came back."""
    flapping_since: datetime | None = None
    """Set from when it has come and gone too often until that is long enough ago."""
    successes: float = 0.0
    """Starts that went well lately."""
    failures: float = 0.0
    """Starts of machines that went well and machines that failed or crashed; halve every day from `counted_at`."""
    counted_at: datetime | None = None
    """When the counts were last halved."""


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says about its host when it connects, and again when it changes."""

    hostname: str
    """Name of the host."""
    os: str
    """Operating system of the host."""
    kernel: str
    """Kernel of the host."""
    architecture: str
    """Architecture of the host, as its kernel calls it."""
    agent_version: str
    """Version of its agent."""
    boot_id: str
    """A name for the time since the host was booted."""
    capacity: Capacity
    """What it has in all."""
    hypervisors: tuple[HypervisorInfo, ...] = ()
    """Its hypervisors."""
    labels: dict[str, str] = {}
    """Labels that it brings along."""
    region: str = ""
    """Where it is, in the large."""
    zone: str = ""
    """Where it is, in the small: what fails together."""
    inventory: Inventory | None = None
    """Not from agents of version 1 of the protocol."""
    streams: tuple[str, ...] = ()
    """Kinds of streams that its agent carries besides consoles and their logs."""
