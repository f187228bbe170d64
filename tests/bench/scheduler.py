"""How long a decision takes in a large fleet, and what the fleet takes of memory. Without any database."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator

import psutil

from bench.results import Result
from nacre.control.scheduler.placement import place
from nacre.control.scheduler.snapshot import Fleet, NodeRoom, Request, Resident
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import Capacity, HypervisorInfo, NodeState, Usage
from nacre.model.placement import AffinityTerm, NodePreference, Placement, Policy, Strategy, Topology
from nacre.model.units import GIB, MIB

NODES = 5_000
RESIDENTS = 50_000
DECISIONS = 2_000
QEMU = HypervisorInfo(name="qemu", available=True, machines=("q35",), abilities=("guard",))
APPS = 5_000
"""Groups of ten machines that carry the same label."""


def decisions() -> Iterator[Result]:
    """Place machines of mixed wishes into a fleet of 5 000 nodes with 50 000 machines, with explanations."""
    numbers = random.Random(1)
    fleet, mib = loaded(numbers)
    place(request(0, numbers), fleet, random=numbers.random)
    samples = [timed(request(number, numbers), fleet, numbers) for number in range(1, DECISIONS + 1)]
    how = (
        f"{DECISIONS} decisions with explanation on {NODES} nodes with {RESIDENTS} machines, mixed strategies and "
        "wishes, each taken into the fleet; one thread, no database"
    )
    cuts = statistics.quantiles(samples, n=20)
    for name, value, limit in (("ms_p50", cuts[9], 5), ("ms_p95", cuts[18], 20)):
        yield Result(
            name=f"scheduler.decision.{name}",
            value=value,
            unit="ms",
            better="lower",
            reference=f"at most {limit} ms",
            samples=samples,
            how=how,
        )
    yield Result(
        name="scheduler.fleet.mib",
        value=mib,
        unit="MiB",
        better="lower",
        reference=f"{NODES} nodes, {RESIDENTS} machines",
        samples=[mib],
        how="growth of the resident memory of the process while such a fleet and everything in it is made",
    )


def anti_affinity() -> Iterator[Result]:
    """Place machines that require to be on other nodes than the rest of their group."""
    numbers = random.Random(2)
    fleet, _ = loaded(numbers)
    place(apart(0, numbers), fleet, random=numbers.random)
    samples = [timed(apart(number, numbers), fleet, numbers) for number in range(1, DECISIONS + 1)]
    yield Result(
        name="scheduler.anti_affinity_decisions.per_s",
        value=1000 * len(samples) / sum(samples),
        unit="1/s",
        better="higher",
        reference="at least 250/s",
        samples=samples,
        how=f"{DECISIONS} decisions with required anti-affinity, by node and by zone, in groups of up to 100 machines "
        f"on {NODES} nodes with {RESIDENTS} machines, each taken into the fleet; samples in ms, no database",
    )


def loaded(numbers: random.Random) -> tuple[Fleet, float]:
    """Return a fleet and what it takes of memory, in MiB."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    residents = [resident(number, numbers) for number in range(RESIDENTS)]
    used: dict[NodeId, list[int]] = {}
    for one in residents:
        sums = used.setdefault(one.node, [0, 0, 0])
        for index, amount in enumerate((one.cpus, one.memory_bytes, one.disk_bytes)):
            sums[index] += amount
    fleet = Fleet(Policy(), [node(number, used.get(node_id(number), [0, 0, 0])) for number in range(NODES)], residents)
    del residents, used
    gc.collect()
    return fleet, (process.memory_info().rss - before) / MIB


def timed(one: Request, fleet: Fleet, numbers: random.Random) -> float:
    """Milliseconds of one decision, which is then taken into the fleet."""
    began = time.perf_counter()
    decision = place(one, fleet, random=numbers.random)
    took = (time.perf_counter() - began) * 1000
    assert decision.node is not None, decision
    fleet.take(decision.node, one)
    return took


def node_id(number: int) -> NodeId:
    return NodeId(f"node-{number:026}")


def node(number: int, used: list[int]) -> NodeRoom:
    return NodeRoom(
        id=node_id(number),
        name=f"node-{number}",
        state=NodeState.READY if number % 50 else NodeState.CORDONED,
        region=f"region-{number % 2}",
        zone=f"zone-{number % 10}",
        labels={"disk": "ssd" if number % 3 else "hdd"},
        capacity=Capacity(cpus=32, memory_bytes=128 * GIB, disk_bytes=2000 * GIB),
        usage=Usage(load1=1.0, memory_bytes=64 * GIB, disk_bytes=500 * GIB),
        hypervisors=(QEMU,),
        architecture="x86_64",
        reliability=0.5 + number % 50 / 100,
        cpus=used[0],
        memory_bytes=used[1],
        disk_bytes=used[2],
    )


def resident(number: int, numbers: random.Random) -> Resident:
    app = number % APPS
    return Resident(
        vm=VmId(f"vm-{number:026}"),
        name=f"machine-{number}",
        project=ProjectId(f"prj-{app % 100:026}"),
        node=node_id(numbers.randrange(NODES)),
        labels={"app": f"app-{app}", "tier": f"tier-{number % 3}"},
        cpus=numbers.choice((1, 2, 4)),
        memory_bytes=numbers.choice((1, 2, 4, 8)) * GIB,
        disk_bytes=numbers.choice((10, 20, 50)) * GIB,
        anti_affinity=(AffinityTerm(labels={"app": f"app-{app}"}),) if app % 5 == 0 else (),
    )


def request(number: int, numbers: random.Random) -> Request:
    """One in five wants nothing; the others one of several things, most of them once in a while."""
    app = {"app": f"app-{numbers.randrange(APPS)}"}
    wishes: tuple[Callable[[], Placement], ...] = (
        Placement,
        lambda: Placement(strategy=numbers.choice(tuple(Strategy))),
        lambda: Placement(node_labels={"disk": "ssd"}, zones=("zone-1", "zone-3")),
        lambda: Placement(prefer=(NodePreference(labels={"disk": "ssd"}),), regions=("region-1", "region-0")),
        lambda: Placement(anti_affinity=(AffinityTerm(labels=app, topology=Topology.NODE, required=number % 2 == 0),)),
    )
    return asked(number, app, wishes[number % len(wishes)](), numbers)


def apart(number: int, numbers: random.Random) -> Request:
    """One of a group of a hundred that are apart by node, or of five that are apart by zone."""
    by_zone = number % 10 == 0
    app = {"app": f"by-zone-{number // 50}" if by_zone else f"by-node-{number // 100}"}
    topology = Topology.ZONE if by_zone else Topology.NODE
    return asked(number, app, Placement(anti_affinity=(AffinityTerm(labels=app, topology=topology),)), numbers)


def asked(number: int, labels: dict[str, str], placement: Placement, numbers: random.Random) -> Request:
    return Request(
        vm=VmId(f"vm-new-{number:022}"),
        project=ProjectId(f"prj-{number // 100 % 100:026}"),
        name=f"new-{number}",
        labels=labels,
        cpus=numbers.choice((1, 2, 4)),
        memory_bytes=numbers.choice((1, 2, 4, 8)) * GIB,
        disk_bytes=20 * GIB,
        hypervisor="qemu",
        machine="q35",
        placement=placement,
        ha=number % 4 == 0,
    )


BENCHES = {
    ("scheduler.decision.ms_p50", "scheduler.decision.ms_p95", "scheduler.fleet.mib"): decisions,
    ("scheduler.anti_affinity_decisions.per_s",): anti_affinity,
}
