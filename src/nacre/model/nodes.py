"""Nodes: the machines that run things. States as a table, capacity, conditions and what each can do. Pure."""

from datetime import datetime
from enum import StrEnum

import msgspec

from nacre.errors import ConflictError


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
    message: str
    hint: str
    since: datetime


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has in all."""

    cpus: int
    memory_bytes: int
    disk_bytes: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What is in use on a node now, by anyone."""

    load1: float
    memory_bytes: int
    disk_bytes: int


class HypervisorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One hypervisor of a node, or why it is not there."""

    name: str
    available: bool
    reason: str = ""
    """Why it is not available, or why a faster accelerator is not used."""
    version: str = ""
    accelerator: str = ""
    machines: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()


LIVE_MOVES = "live-moves"
"""Ability of a hypervisor: machines come and go while they run, with the content of their disks."""


class NumaNode(msgspec.Struct, frozen=True, kw_only=True):
    """One memory node of a host and its CPUs."""

    id: int
    cpus: str
    """As Linux lists them: `0-3,8-11`."""
    memory_bytes: int


class HugePages(msgspec.Struct, frozen=True, kw_only=True):
    """The huge pages of one size."""

    size_bytes: int
    total: int


class BlockDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of a host."""

    name: str
    wwn: str = ""
    """World Wide Name, or another stable id; empty for disks without one."""
    model: str = ""
    size_bytes: int
    rotational: bool = False


class PciDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device that could be passed to a guest."""

    address: str
    """`0000:01:00.0`"""
    kind: str
    """`gpu`, `nic`, `nvme` or `other`."""
    vendor: str
    device: str
    driver: str = ""
    iommu_group: int | None = None


class HostNic(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface of a host."""

    name: str
    mac: str = ""
    mtu: int = 0
    up: bool = False
    speed_mbps: int | None = None
    addresses: tuple[str, ...] = ()


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a host is made of."""

    cpu_model: str = ""
    cpu_cores: int = 0
    cpu_threads: int = 0
    cpu_flags: str = ""
    """What its CPUs can do, as a digest: equal for hosts between which a machine can go on under KVM."""
    numa: tuple[NumaNode, ...] = ()
    huge_pages: tuple[HugePages, ...] = ()
    disks: tuple[BlockDevice, ...] = ()
    devices: tuple[PciDevice, ...] = ()
    nics: tuple[HostNic, ...] = ()


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
    parts: dict[str, float] = {}
    """By `ReliabilityPart`."""
    discount: float = 1.0
    """What the weighted sum was multiplied with because the node is new; 1 once it is not."""
    flaps: float = 0.0
    """How often it went away and came back lately; halves every five minutes, counted from `flapped_at`."""
    flapped_at: datetime | None = None
    flapping_since: datetime | None = None
    """Set from when it has come and gone too often until that is long enough ago."""
    successes: float = 0.0
    failures: float = 0.0
    """Starts of machines that went well and machines that failed or crashed; halve every day from `counted_at`."""
    counted_at: datetime | None = None


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says about its host when it connects, and again when it changes."""

    hostname: str
    os: str
    kernel: str
    architecture: str
    agent_version: str
    boot_id: str
    capacity: Capacity
    hypervisors: tuple[HypervisorInfo, ...] = ()
    labels: dict[str, str] = {}
    region: str = ""
    zone: str = ""
    inventory: Inventory | None = None
    """Not from agents of version 1 of the protocol."""
