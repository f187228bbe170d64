"""Whole explanations, committed: what people read when they ask why a machine is where it is, or nowhere yet.

When a change is meant, write them anew: NACRE_WRITE_GOLDEN=1 pytest tests/control/scheduler/test_golden.py
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nacre.control.scheduler.explain import summary
from nacre.control.scheduler.packing import Packing, pack
from nacre.control.scheduler.placement import place
from nacre.control.scheduler.snapshot import Fleet, NodeRoom, Resident
from nacre.model.ids import NodeId
from nacre.model.nodes import Capacity, ConditionKind, HypervisorInfo, NodeState, Usage
from nacre.model.placement import (
    Decision,
    NodePreference,
    Policy,
    Strategy,
    Taint,
    TaintEffect,
    Toleration,
    Topology,
    Weights,
)
from nacre.model.units import GIB
from support.rooms import PORT, QEMU, middle, near, node, request, resident, spread, taken

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("NACRE_WRITE_GOLDEN") == "1"

WEB, DB = {"app": "web"}, {"app": "db"}
GPU = Taint(key="gpu", value="a100")
OLD = Taint(key="old", effect=TaintEffect.PREFER_NO_SCHEDULE)


def fleet(*rooms: NodeRoom, residents: tuple[Resident, ...] = (), policy: Policy | None = None) -> Fleet:
    return Fleet(policy or Policy(), rooms, residents)


def numbered(number: int, prefix: str, **changes: object) -> list[NodeRoom]:
    return [node(f"{prefix}-{at}", **changes) for at in range(number)]


def regions(**changes: object) -> list[NodeRoom]:
    """Two zones in Europe, one in America, each with two nodes of different load."""
    return [
        node(
            f"{region}-{zone}-{at}",
            region=region,
            zone=f"{region}-{zone}",
            memory_bytes=at * 2 * GIB,
            cpus=at,
            reliability=0.9 - at / 10,
            labels={"disk": "ssd" if at else "hdd"},
            **changes,
        )
        for region, zone in (("eu", "1"), ("eu", "2"), ("us", "1"))
        for at in range(2)
    ]


def every_reason() -> Decision:
    one = request(
        memory_bytes=4 * GIB,
        cpus=8,
        disk_bytes=100 * GIB,
        ha=True,
        architecture="x86_64",
        publish=(PORT,),
        node_labels={"disk": "ssd"},
        regions=("eu",),
        zones=("eu-1", "eu-2"),
        anti_affinity=(near(app="db"),),
        labels=WEB,
        exclude=frozenset({NodeId("left-0")}),
    )
    good = {"labels": {"disk": "ssd"}, "region": "eu", "zone": "eu-1"}
    bare = HypervisorInfo(name="qemu", available=True, machines=("q35",))
    broken = HypervisorInfo(name="qemu", available=False, reason="/dev/kvm is missing")
    board = HypervisorInfo(name="qemu", available=True, machines=("pc",), abilities=("guard",))
    rooms = [
        *numbered(7, "cordoned", **good, state=NodeState.CORDONED),
        *numbered(6, "offline", **good, state=NodeState.OFFLINE),
        *numbered(2, "flapping", **good, flapping=True, state=NodeState.CORDONED),
        *numbered(2, "memory", **good, conditions=frozenset({ConditionKind.MEMORY_PRESSURE})),
        *numbered(1, "disk", **good, conditions=frozenset({ConditionKind.DISK_PRESSURE})),
        *numbered(1, "network", **good, conditions=frozenset({ConditionKind.NETWORK_UNAVAILABLE})),
        *numbered(3, "bare", **good, hypervisors=()),
        *numbered(2, "broken", **good, hypervisors=(broken,)),
        *numbered(2, "board", **good, hypervisors=(board,)),
        *numbered(2, "guardless", **good, hypervisors=(bare,)),
        *numbered(4, "arm", **good, architecture="aarch64"),
        *numbered(3, "unlabelled", region="eu", zone="eu-1"),
        *numbered(5, "us", labels={"disk": "ssd"}, region="us", zone="us-1"),
        *numbered(3, "tainted", **good, taints=(GPU,)),
        *numbered(4, "full", **good, memory_bytes=5 * GIB, cpus=12),
        *numbered(2, "busy", **good, cpus=10),
        *numbered(2, "promised", **good, disk_bytes=150 * GIB),
        *numbered(1, "stuffed", **good, usage=Usage(load1=0, memory_bytes=0, disk_bytes=97 * GIB)),
        *numbered(2, "ports", **good, ports=(taken(),)),
        *numbered(1, "left", **good),
        *numbered(2, "db", **good),
        *numbered(1, "shy", **good),
    ]
    residents = (
        resident("x", "db-0", labels=DB),
        resident("y", "db-1", labels=DB),
        resident("z", "shy-0", anti_affinity=(near(app="web"),)),
    )
    return place(one, fleet(*rooms, residents=residents), random=middle)


def no_room() -> Decision:
    rooms = [*numbered(3, "a", memory_bytes=6 * GIB), *numbered(2, "b", memory_bytes=7 * GIB)]
    return place(request(memory_bytes=4 * GIB), fleet(*rooms), random=middle)


def one_node_without_room() -> Decision:
    return place(request(memory_bytes=9 * GIB, cpus=17), fleet(node("a")), random=middle)


def no_nodes() -> Decision:
    return place(request(), fleet(), random=middle)


def many_different_failures() -> Decision:
    rooms = [
        node(f"n{at}", hypervisors=(HypervisorInfo(name="qemu", available=False, reason=f"exit status {at % 6}"),))
        for at in range(20)
    ]
    return place(request(), fleet(*rooms), random=middle)


def ports_of_others() -> Decision:
    rooms = [*numbered(3, "own", ports=(taken(),)), *numbered(2, "foreign", ports=(taken("prj-2"),))]
    return place(request(publish=(PORT,)), fleet(*rooms), random=middle)


def pinned_to_a_node_that_is_full() -> Decision:
    rooms = [node("a", memory_bytes=8 * GIB), node("b")]
    return place(request(only=NodeId("a")), fleet(*rooms), random=middle)


def apart_by_zone() -> Decision:
    residents = (resident("x", "eu-1-0", labels=WEB), resident("y", "us-1-1", labels=WEB))
    one = request(labels=WEB, anti_affinity=(near(Topology.ZONE, app="web"),))
    return place(one, fleet(*regions(), residents=residents), random=middle)


def near_to_nobody() -> Decision:
    return place(request(affinity=(near(Topology.ZONE, app="db"),)), fleet(*regions()), random=middle)


def spread_over_zones() -> Decision:
    residents = (resident("x", "eu-1-0", labels=WEB), resident("y", "us-1-1", labels=WEB))
    return place(
        request(labels=WEB, spread=(spread(app="web"),)), fleet(*regions(), residents=residents), random=middle
    )


def preferences() -> Decision:
    one = request(
        labels=WEB,
        prefer=(NodePreference(labels={"disk": "ssd"}, weight=80),),
        affinity=(near(Topology.REGION, required=False, weight=100, app="db"),),
        anti_affinity=(near(required=False, app="web"),),
        spread=(spread(required=False, app="web"),),
        regions=("us", "eu"),
    )
    rooms = [*regions(), node("eu-3-0", region="eu", zone="eu-3", taints=(OLD,))]
    residents = (resident("x", "eu-1-1", labels=WEB), resident("y", "eu-2-0", labels=DB))
    return place(one, fleet(*rooms, residents=residents), random=middle)


def by_strategy(strategy: Strategy) -> Callable[[], Decision]:
    def decide() -> Decision:
        one = request("vm-2", strategy=strategy, regions=("eu", "us"), memory_bytes=2 * GIB)
        among = fleet(*regions())
        among.take(NodeId("eu-1-0"), request("vm-1"))
        return place(one, among, random=middle)

    return decide


def weighted_by_reliability() -> Decision:
    weights = Weights(locality=0, reliability=3, cost=0, utilization=1, network=0)
    return place(request(strategy=Strategy.WEIGHTED, weights=weights), fleet(*regions()), random=middle)


def tolerated() -> Decision:
    large = Capacity(cpus=64, memory_bytes=512 * GIB, disk_bytes=4000 * GIB)
    rooms = [node("gpu", taints=(GPU,), capacity=large, hypervisors=(QEMU,)), *numbered(2, "small")]
    one = request(memory_bytes=64 * GIB, cpus=32, tolerations=(Toleration(key="gpu"),))
    return place(one, fleet(*rooms), random=middle)


def packed() -> Decision:
    group = [request(f"vm-{at}", memory_bytes=size * GIB) for at, size in enumerate((2, 5, 3))]
    rooms = [node("a"), node("b", memory_bytes=2 * GIB), node("c", memory_bytes=7 * GIB)]
    return pack(group, fleet(*rooms), order=Packing.FIRST_FIT_DECREASING, random=middle)[0]


def spread_group() -> Decision:
    group = [request(f"vm-{at}") for at in range(3)]
    return pack(group, fleet(*regions()), order=Packing.SPREAD_ZONES, random=middle)[2]


SCENARIOS: dict[str, Callable[[], Decision]] = {
    "every-reason": every_reason,
    "no-room": no_room,
    "one-node-without-room": one_node_without_room,
    "no-nodes": no_nodes,
    "many-different-failures": many_different_failures,
    "ports-of-others": ports_of_others,
    "pinned-to-a-node-that-is-full": pinned_to_a_node_that_is_full,
    "apart-by-zone": apart_by_zone,
    "near-to-nobody": near_to_nobody,
    "spread-over-zones": spread_over_zones,
    "preferences": preferences,
    **{f"strategy-{strategy}": by_strategy(strategy) for strategy in Strategy},
    "weighted-by-reliability": weighted_by_reliability,
    "tolerated": tolerated,
    "packed": packed,
    "spread-group": spread_group,
}


def text(decision: Decision) -> str:
    """Everything in a decision."""
    code, message = summary(decision)
    lines = [
        f"node: {decision.node or '-'}",
        f"strategy: {decision.strategy}",
        f"fitting: {decision.fitting} of {decision.considered}",
        f"summary: {code}: {message}",
        "rejected:",
        *(f"  {one.nodes:3}  {one.code:22}  {one.message}" for one in decision.rejected),
        "candidates:",
    ]
    for candidate in decision.candidates:
        parts = "  ".join(f"{name} {value:+.3f}" for name, value in candidate.parts.items())
        lines.append(f"  {candidate.name:8}  {candidate.score:.3f}  {parts}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", SCENARIOS)
def test_explanations_are_what_was_agreed(name: str) -> None:
    path, told = GOLDEN / f"{name}.txt", text(SCENARIOS[name]())
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(told)
    assert told == path.read_text()


def test_every_golden_file_is_of_a_scenario() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SCENARIOS)


def test_a_refusal_never_names_a_node() -> None:
    decision = every_reason()
    words = {word.strip(".,;:()") for one in decision.rejected for word in one.message.split()}
    assert decision.node is None
    assert not words & {"cordoned-0", "db-0", "db-1", "shy-0", "left-0", "ports-0"}
