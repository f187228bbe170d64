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
    OFFLINE = "offline"  # missed its heartbeats
    FAILED = "failed"


MOVES: dict[NodeState, frozenset[NodeState]] = {
    NodeState.ENROLLING: frozenset({NodeState.READY, NodeState.OFFLINE, NodeState.FAILED}),
    NodeState.READY: frozenset({NodeState.CORDONED, NodeState.OFFLINE, NodeState.FAILED}),
    NodeState.CORDONED: frozenset({NodeState.READY, NodeState.OFFLINE, NodeState.FAILED}),
    NodeState.OFFLINE: frozenset({NodeState.READY, NodeState.CORDONED, NodeState.FAILED}),
    NodeState.FAILED: frozenset({NodeState.READY, NodeState.CORDONED, NodeState.OFFLINE}),
}


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
    CLOCK_SKEW = "ClockSkew"
    HYPERVISOR_UNAVAILABLE = "HypervisorUnavailable"
    HELD_WORKLOADS = "HeldWorkloads"
    TEARDOWN_REFUSED = "TeardownRefused"


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
