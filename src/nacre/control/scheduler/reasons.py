"""Why one node cannot take a machine, as one sees who looks at that node alone. Pure.

A reason says what is missing and never names the node, so that it may be shown to a tenant. `filters` asks the same
of all nodes at once, with the functions of this module wherever a check depends on facts that seldom change.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nacre.control.scheduler.values import NodeRoom, Request, TakenPort
from nacre.model.capabilities import BASELINE, mask_of, named
from nacre.model.checkpoints import WORD
from nacre.model.nodes import Capacity, ConditionKind, NodeState
from nacre.model.placement import Policy, TaintEffect
from nacre.model.units import format_size
from nacre.model.vm_checks import ports_overlap
from nacre.model.vms import PublishedPort

GUARD = "guard"
"""The ability of a hypervisor to hold machines that are restarted elsewhere when their node is lost."""

_BASELINE = mask_of(BASELINE)
BLOCKING = {
    ConditionKind.MEMORY_PRESSURE: ("memory_pressure", "the node is short of memory"),
    ConditionKind.DISK_PRESSURE: ("disk_pressure", "the node is short of disk"),
    ConditionKind.NETWORK_UNAVAILABLE: ("network_unavailable", "the network of the node is not available"),
}
"""Conditions of a node that keep new machines away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """One thing that speaks against a node."""

    code: str
    message: str


EXCLUDED = Reason(code="excluded", message="the node is ruled out")

StaticCheck = Callable[[Request, NodeRoom], Reason | None]


def ready(_request: Request, node: NodeRoom) -> Reason | None:
    """The node takes new machines."""
    if node.state is NodeState.READY:
        return None
    return Reason(code="node_not_ready", message=f"the node is {node.state}")


def steady(_request: Request, node: NodeRoom) -> Reason | None:
    """The node has not come and gone too often lately."""
    if not node.flapping and ConditionKind.FLAPPING not in node.conditions:
        return None
    return Reason(code="node_flapping", message="the node comes and goes")


def conditions(_request: Request, node: NodeRoom) -> Reason | None:
    """Nothing is wrong with the node that would hurt a new machine. Of several conditions, the first is told."""
    for kind, (code, message) in BLOCKING.items():
        if kind in node.conditions:
            return Reason(code=code, message=message)
    return None


def hypervisor(request: Request, node: NodeRoom) -> Reason | None:
    """The node has the hypervisor, and that has the machine type and, for a machine to be restarted, a guard."""
    found = next((info for info in node.hypervisors if info.name == request.hypervisor), None)
    if found is None:
        return Reason(code="no_hypervisor", message=f"no hypervisor {request.hypervisor}")
    if not found.available:
        return Reason(code="hypervisor_unavailable", message=f"{found.name} is not available: {found.reason}")
    if found.machines and request.machine not in found.machines:
        return Reason(code="no_machine_type", message=f"{found.name} has no machine type {request.machine}")
    if request.ha and GUARD not in found.abilities:
        return Reason(code="no_guard", message=f"{found.name} cannot fence machines that are restarted elsewhere")
    return None


def capabilities(request: Request, node: NodeRoom) -> Reason | None:
    """The node's hypervisor can do what the machine asks for. Whether there is one is said by `hypervisor`."""
    if not any(info.name == request.hypervisor and info.available for info in node.hypervisors):
        return None
    offered = next((mask for name, mask in node.offered if name == request.hypervisor), _BASELINE)
    missing = named(request.needs & ~offered)
    if not missing:
        return None
    return Reason(code="capability_missing", message=f"{request.hypervisor} cannot do {', '.join(missing)}")


def architecture(request: Request, node: NodeRoom) -> Reason | None:
    """The node's processor runs the machine's programs."""
    if not request.architecture or request.architecture == node.architecture:
        return None
    has = node.architecture or "unknown"
    return Reason(code="wrong_architecture", message=f"needs architecture {request.architecture}, has {has}")


def node_labels(request: Request, node: NodeRoom) -> Reason | None:
    """The node has the labels that are required."""
    missing = [
        f"{key}={value}" for key, value in request.placement.node_labels.items() if node.labels.get(key) != value
    ]
    if not missing:
        return None
    return Reason(code="label_missing", message=f"label {', '.join(sorted(missing))} is missing")


def region(request: Request, node: NodeRoom) -> Reason | None:
    """The node is in one of the regions."""
    wanted = request.placement.regions
    if not wanted or node.region in wanted:
        return None
    return Reason(code="wrong_region", message=f"not in region {' or '.join(wanted)}")


def zone(request: Request, node: NodeRoom) -> Reason | None:
    """The node is in one of the zones."""
    wanted = request.placement.zones
    if not wanted or node.zone in wanted:
        return None
    return Reason(code="wrong_zone", message=f"not in zone {' or '.join(wanted)}")


def taints(request: Request, node: NodeRoom) -> Reason | None:
    """The machine tolerates what the node objects to. Of several taints, the first is told."""
    for taint in sorted(node.taints, key=str):
        if taint.effect is TaintEffect.NO_SCHEDULE and not any(t.covers(taint) for t in request.placement.tolerations):
            return Reason(code="taint_not_tolerated", message=f"taint {taint} is not tolerated")
    return None


STATIC: tuple[StaticCheck, ...] = (
    ready,
    steady,
    conditions,
    hypervisor,
    capabilities,
    architecture,
    node_labels,
    region,
    zone,
    taints,
)
"""Checks that depend on the facts of a node and not on what is left of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of a node may be promised in all."""

    cpus: int
    memory_bytes: int
    disk_bytes: int


def limits(capacity: Capacity | None, policy: Policy) -> Limits:
    """Return what may be promised of a node: what it has less what is kept for the host, times the overcommit."""
    if capacity is None:
        return Limits(cpus=0, memory_bytes=0, disk_bytes=0)
    return Limits(
        cpus=max(0, int((capacity.cpus - policy.reserved_cpus) * policy.cpu_overcommit)),
        memory_bytes=max(0, int((capacity.memory_bytes - policy.reserved_memory_bytes) * policy.memory_overcommit)),
        disk_bytes=max(0, int(capacity.disk_bytes * policy.disk_overcommit)),
    )


def lacks(request: Request, node: NodeRoom, policy: Policy) -> tuple[Reason, ...]:
    """Return what the node has too little of: memory, CPUs, disk to promise, or disk in fact."""
    has = limits(node.capacity, policy)
    found: list[Reason] = []
    if request.memory_bytes > has.memory_bytes - node.memory_bytes:
        found.append(no_memory(request, has.memory_bytes - node.memory_bytes))
    if request.cpus > has.cpus - node.cpus:
        found.append(no_cpus(request, has.cpus - node.cpus))
    if request.disk_bytes > has.disk_bytes - node.disk_bytes:
        found.append(no_disk(request, has.disk_bytes - node.disk_bytes))
    free = free_share(node)
    if free < policy.disk_headroom:
        found.append(no_headroom(free, policy))
    return tuple(found)


def free_share(node: NodeRoom) -> float:
    """Return how much of the node's disk is free in fact, 0 to 1; 1 if nobody has measured it."""
    if node.capacity is None or node.usage is None or node.capacity.disk_bytes <= 0:
        return 1.0
    return max(0.0, 1.0 - node.usage.disk_bytes / node.capacity.disk_bytes)


def no_memory(request: Request, left: int, most: bool = False) -> Reason:
    """Too little memory. With `most`, `left` is that of the best of several nodes."""
    needs, has = format_size(request.memory_bytes), format_size(max(0, left))
    return Reason(code="not_enough_memory", message=f"needs {needs} of memory, {_most(most)}{has} left")


def no_cpus(request: Request, left: int, most: bool = False) -> Reason:
    """Too few virtual CPUs."""
    return Reason(code="not_enough_cpus", message=f"needs {request.cpus} CPUs, {_most(most)}{max(0, left)} left")


def no_disk(request: Request, left: int, most: bool = False) -> Reason:
    """Too little disk to promise."""
    needs, has = format_size(request.disk_bytes), format_size(max(0, left))
    return Reason(code="not_enough_disk", message=f"needs {needs} of disk, {_most(most)}{has} left")


def no_headroom(free: float, policy: Policy, most: bool = False) -> Reason:
    """Too little of the disk is free in fact."""
    # Rounded towards what makes the sentence true: 4.96 % is not shown as 5 %.
    has, needs = int(free * 1000) / 10, policy.disk_headroom * 100
    return Reason(
        code="no_disk_headroom", message=f"{_most(most)}{has:g}% of the disk is free, {needs:g}% must stay free"
    )


def port_holder(wanted: tuple[PublishedPort, ...], taken: tuple[TakenPort, ...]) -> TakenPort | None:
    """Return the first taken port that one of `wanted` overlaps."""
    if not wanted:
        return None
    return next((other for other in taken for port in wanted if ports_overlap(port, other.port)), None)


def ports(request: Request, node: NodeRoom) -> Reason | None:
    """Nobody else listens where the machine wants to. The holder is named only to its own project."""
    taken = port_holder(request.publish, tuple(port for port in node.ports if port.vm != request.vm))
    if taken is None:
        return None
    holder = taken.vm_name if taken.project == request.project and taken.vm_name else "another machine"
    where = f"{taken.port.host_address}:{taken.port.host_port}/{taken.port.protocol}"
    return Reason(code="port_in_use", message=f"port {where} is used by {holder}")


def choice(request: Request, node: NodeRoom) -> Reason | None:
    """The node is not one that the caller rules out."""
    if node.id in request.exclude:
        return EXCLUDED
    return None


def reach(request: Request, node: NodeRoom) -> Reason | None:
    """The node reaches the machine's volumes."""
    if request.within and node.id not in request.within:
        return no_reach(request)
    return None


def no_reach(request: Request) -> Reason:
    """Say that a node does not reach a volume, or has not the checkpoint that a machine is to be made from."""
    if request.volume.startswith(WORD):
        return Reason(code="checkpoint_elsewhere", message=f"{request.volume} is not on the node")
    return Reason(code="volume_elsewhere", message=f"volume {request.volume} is not on the node")


def pool_room(request: Request, node: NodeRoom) -> Reason | None:
    """The node's pools have room for the volumes that are to be made with the machine."""
    if node.id in request.full:
        return no_pool_room(request)
    return None


def no_pool_room(request: Request) -> Reason:
    """Say that a node's pools have too little left."""
    return Reason(code="pool_full", message=f"pool {request.pools} has no room for its volumes")


def fits(request: Request, room: NodeRoom, policy: Policy, *, restless: bool = False) -> tuple[Reason, ...]:
    """Return everything that speaks against one node; nothing means that it can take the machine.

    For checking a decision again under the lock of the node. It knows nothing of other machines: affinity and spread
    are not in it, see `filters.against` for those. With `restless`, coming and going does not speak against it.
    """
    asked = (*(check for check in STATIC if check is not steady or not restless), choice, reach, pool_room, ports)
    return tuple(reason for check in asked if (reason := check(request, room)) is not None) + lacks(
        request, room, policy
    )


def _most(most: bool) -> str:
    return "at most " if most else ""
