"""Values for tests of the scheduler: nodes, requests and residents with everything that a test does not care about."""

from nacre.control.scheduler.snapshot import NodeRoom, Request, Resident, TakenPort
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import Capacity, HypervisorInfo, NodeState
from nacre.model.placement import AffinityTerm, Placement, SpreadConstraint, Topology
from nacre.model.units import GIB
from nacre.model.vms import PublishedPort

QEMU = HypervisorInfo(name="qemu", available=True, machines=("q35",), abilities=("guard",))
PORT = PublishedPort(guest_port=80, host_port=8080)


def node(name: str = "a", **changes: object) -> NodeRoom:
    """A ready node of 4 CPUs, 8 GiB and 100 GiB."""
    values: dict[str, object] = {
        "id": NodeId(name),
        "name": name,
        "state": NodeState.READY,
        "capacity": Capacity(cpus=4, memory_bytes=8 * GIB, disk_bytes=100 * GIB),
        "hypervisors": (QEMU,),
        "architecture": "x86_64",
    }
    return NodeRoom(**{**values, **changes})  # type: ignore[arg-type]


def request(vm: str = "vm-1", **changes: object) -> Request:
    """A machine of 1 CPU, 1 GiB and 1 GiB. What is not of a request is of its placement."""
    values: dict[str, object] = {
        "vm": VmId(vm),
        "project": ProjectId("prj-1"),
        "name": vm,
        "cpus": 1,
        "memory_bytes": GIB,
        "disk_bytes": GIB,
        "hypervisor": "qemu",
        "machine": "q35",
    }
    asked = {name: changes.pop(name) for name in list(changes) if name in Placement.__struct_fields__}
    if asked:
        values["placement"] = Placement(**asked)  # type: ignore[arg-type]
    return Request(**{**values, **changes})  # type: ignore[arg-type]


def resident(vm: str, on: str, **changes: object) -> Resident:
    """A machine of 1 CPU, 1 GiB and 1 GiB that lives on a node."""
    values: dict[str, object] = {
        "vm": VmId(vm),
        "name": vm,
        "project": ProjectId("prj-1"),
        "node": NodeId(on),
        "cpus": 1,
        "memory_bytes": GIB,
        "disk_bytes": GIB,
    }
    return Resident(**{**values, **changes})  # type: ignore[arg-type]


def taken(project: str = "prj-1", port: PublishedPort = PORT) -> TakenPort:
    """A port that a machine named `holder` has."""
    return TakenPort(port=port, vm=VmId("vm-2"), vm_name="holder", project=ProjectId(project))


def near(topology: Topology = Topology.NODE, *, required: bool = True, weight: int = 50, **labels: str) -> AffinityTerm:
    """A term of affinity or of anti-affinity."""
    return AffinityTerm(labels=labels, topology=topology, required=required, weight=weight)


def spread(
    topology: Topology = Topology.ZONE, *, skew: int = 1, required: bool = True, **labels: str
) -> SpreadConstraint:
    """A spread constraint."""
    return SpreadConstraint(labels=labels, topology=topology, max_skew=skew, required=required)


def middle() -> float:
    """A random number that is always the same."""
    return 0.5
