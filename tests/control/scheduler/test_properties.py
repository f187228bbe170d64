"""Whatever the fleet and whatever is asked: no overcommitment, no neighbours that are to be apart, the same answers."""

import random
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.control.scheduler.filters import against, screen
from nacre.control.scheduler.packing import Packing, pack
from nacre.control.scheduler.placement import fits, place
from nacre.control.scheduler.reasons import limits
from nacre.control.scheduler.snapshot import Fleet, NodeRoom, Request
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import Capacity, ConditionKind, HypervisorInfo, NodeState, Usage
from nacre.model.placement import (
    AffinityTerm,
    Decision,
    NodePreference,
    Placement,
    Policy,
    SpreadConstraint,
    Strategy,
    Taint,
    TaintEffect,
    Toleration,
    Topology,
)
from nacre.model.units import GIB
from nacre.model.vm_checks import ports_overlap
from nacre.model.vms import PublishedPort
from support.rooms import node, request

LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["web", "db"]), max_size=2)
SOME_LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["web", "db"]), min_size=1, max_size=2)
TERMS = st.lists(
    st.builds(
        AffinityTerm,
        labels=SOME_LABELS,
        topology=st.sampled_from(Topology),
        required=st.booleans(),
        weight=st.integers(1, 100),
    ),
    max_size=2,
).map(tuple)
SPREADS = st.lists(
    st.builds(
        SpreadConstraint,
        labels=SOME_LABELS,
        topology=st.sampled_from(Topology),
        max_skew=st.integers(1, 2),
        required=st.booleans(),
    ),
    max_size=1,
).map(tuple)
TAINTS = st.lists(
    st.builds(Taint, key=st.sampled_from("ab"), value=st.sampled_from(["", "v"]), effect=st.sampled_from(TaintEffect)),
    max_size=2,
).map(tuple)
TOLERATIONS = st.lists(
    st.builds(
        Toleration,
        key=st.sampled_from("ab"),
        value=st.sampled_from([None, "", "v"]),
        effect=st.sampled_from([None, *TaintEffect]),
    ),
    max_size=2,
).map(tuple)
ADDRESSES = st.sampled_from(["127.0.0.1", "0.0.0.0", "127.0.0.2"])
PORTS = st.lists(
    st.builds(PublishedPort, guest_port=st.just(80), host_port=st.integers(8080, 8082), host_address=ADDRESSES),
    max_size=2,
).map(lambda found: tuple(p for n, p in enumerate(found) if not any(ports_overlap(p, q) for q in found[:n])))
ZONES = st.sampled_from(["", "1", "2"])
REGIONS = st.sampled_from(["", "eu"])


def mostly(usual: object, *others: object) -> st.SearchStrategy[object]:
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), st.sampled_from(list(others)))


HYPERVISORS = st.sampled_from(
    [
        HypervisorInfo(name="qemu", available=True, machines=("q35",), abilities=("guard",)),
        HypervisorInfo(name="qemu", available=True),
        HypervisorInfo(name="qemu", available=False, reason="not installed"),
        HypervisorInfo(name="other", available=True),
    ]
)
ROOMS = st.fixed_dictionaries(
    {
        "state": mostly(NodeState.READY, *NodeState),
        "region": REGIONS,
        "zone": ZONES,
        "labels": LABELS,
        "taints": mostly((), (Taint(key="a"),), (Taint(key="b", value="v", effect=TaintEffect.PREFER_NO_SCHEDULE),)),
        "capacity": mostly(Capacity(cpus=4, memory_bytes=8 * GIB, disk_bytes=20 * GIB), None),
        "usage": st.one_of(
            st.none(),
            st.builds(Usage, load1=st.just(0.0), memory_bytes=st.just(0), disk_bytes=st.integers(0, 20 * GIB)),
        ),
        "hypervisors": st.lists(HYPERVISORS, min_size=1, max_size=2).map(tuple),
        "architecture": mostly("x86_64", "aarch64", ""),
        "conditions": mostly(frozenset(), *(frozenset({kind}) for kind in ConditionKind)),
        "flapping": mostly(False, True),
        "reliability": st.floats(0, 1),
        "cpus": st.integers(0, 16),
        "memory_bytes": st.integers(0, 9).map(lambda size: size * GIB),
    }
)
POLICIES = st.builds(
    Policy,
    strategy=st.sampled_from(Strategy),
    cpu_overcommit=st.sampled_from([0.7, 1.0, 4.0]),
    memory_overcommit=st.sampled_from([0.9, 1.0, 1.5]),
    disk_overcommit=st.sampled_from([1.0, 2.0]),
    disk_headroom=st.sampled_from([0.0, 0.05, 0.5]),
    reserved_cpus=st.sampled_from([0.0, 0.5]),
    reserved_memory_bytes=st.sampled_from([0, GIB]),
)
REQUESTS = st.fixed_dictionaries(
    {
        "project": st.sampled_from([ProjectId("prj-1"), ProjectId("prj-2")]),
        "labels": LABELS,
        "cpus": st.integers(1, 6),
        "memory_bytes": st.integers(1, 4).map(lambda size: size * GIB),
        "disk_bytes": st.integers(1, 8).map(lambda size: size * GIB),
        "hypervisor": mostly("qemu", "other"),
        "machine": mostly("q35", "microvm"),
        "ha": st.booleans(),
        "architecture": mostly("", "x86_64"),
        "publish": PORTS,
        "exclude": mostly(frozenset(), frozenset({NodeId("n0")})),
        "full": mostly(frozenset(), frozenset({NodeId("n1"), NodeId("n2")})),
        "placement": st.builds(
            Placement,
            node_labels=mostly({}, {"app": "web"}),
            regions=mostly((), ("eu", "")),
            zones=mostly((), ("1",), ("2", "1")),
            tolerations=TOLERATIONS,
            prefer=mostly((), (NodePreference(labels={"app": "web"}, weight=7),)),
            affinity=mostly((), (AffinityTerm(labels={"app": "web"}, topology=Topology.ZONE),)),
            anti_affinity=TERMS,
            spread=SPREADS,
            strategy=st.sampled_from([None, *Strategy]),
        ),
    }
)
FLEETS = st.lists(ROOMS, min_size=1, max_size=8)
ASKED = st.lists(REQUESTS, min_size=1, max_size=12)


def rooms_of(found: list[dict[str, object]]) -> list[NodeRoom]:
    return [node(f"n{number}", **changes) for number, changes in enumerate(found)]


def requests_of(found: list[dict[str, object]]) -> list[Request]:
    return [request(f"vm-{number}", **changes) for number, changes in enumerate(found)]


def alone(one: Request) -> Request:
    """The request without what it wants of other machines."""
    placement = Placement(
        node_labels=one.placement.node_labels,
        regions=one.placement.regions,
        zones=one.placement.zones,
        tolerations=one.placement.tolerations,
    )
    return request(
        one.vm,
        **{
            name: getattr(one, name)
            for name in ("project", "cpus", "memory_bytes", "disk_bytes", "hypervisor", "machine", "publish", "ha")
        },
        architecture=one.architecture,
        exclude=one.exclude,
        full=one.full,
        placement=placement,
    )


@settings(max_examples=80)
@given(FLEETS, ASKED, POLICIES)
def test_one_node_looked_at_alone_is_judged_as_it_is_among_all(
    found: list[dict[str, object]], asked: list[dict[str, object]], policy: Policy
) -> None:
    rooms = rooms_of(found)
    fleet = Fleet(policy, rooms)
    for one in requests_of(asked):
        lonely = alone(one)
        screened = screen(lonely, fleet)
        expected = {room.id: fits(lonely, room, policy) for room in fleet.rooms()}
        for node_id, why in expected.items():
            row = fleet.row(node_id)
            assert row is not None
            assert bool(screened.fits[row]) == (not why)
        counted = Counter(reason.code for why in expected.values() for reason in why)
        told = Counter[str]()
        for rejection in screened.rejected:
            told[rejection.code] += rejection.nodes
        assert told == counted
        assert [(-r.nodes, r.code) for r in screened.rejected] == sorted((-r.nodes, r.code) for r in screened.rejected)
        decision = place(one, fleet, random=lambda: 0.3)
        if decision.node is not None:
            assert fits(one, fleet.room(decision.node), policy, restless=True) == ()
            fleet.take(decision.node, one)


@settings(max_examples=80)
@given(FLEETS, ASKED, POLICIES)
def test_one_row_with_its_neighbours_is_judged_as_it_is_among_all(
    found: list[dict[str, object]], asked: list[dict[str, object]], policy: Policy
) -> None:
    fleet = Fleet(policy, rooms_of(found))
    for one in requests_of(asked):
        screened = screen(one, fleet)
        counted = Counter[str]()
        for room in fleet.rooms():
            row = fleet.row(room.id)
            assert row is not None
            why = against(one, fleet, row)
            assert bool(screened.fits[row]) == (not why)
            counted.update(reason.code for reason in why)
        told = Counter[str]()
        for rejection in screened.rejected:
            told[rejection.code] += rejection.nodes
        assert told == counted
        decision = place(one, fleet, random=lambda: 0.3)
        if decision.node is not None:
            fleet.take(decision.node, one)


def one_by_one(requests: list[Request], fleet: Fleet, chance: Callable[[], float]) -> list[Decision]:
    found: list[Decision] = []
    for one in requests:
        decision = place(one, fleet, random=chance)
        found.append(decision)
        if decision.node is not None:
            fleet.take(decision.node, one)
    return found


@settings(max_examples=80)
@given(FLEETS, ASKED, POLICIES, st.sampled_from([None, *Packing]), st.booleans())
def test_no_node_promises_more_than_it_may_and_nobody_has_a_neighbour_that_is_to_be_apart(
    found: list[dict[str, object]],
    asked: list[dict[str, object]],
    policy: Policy,
    packing: Packing | None,
    backwards: bool,
) -> None:
    rooms = [node(f"n{number}", **{**changes, "cpus": 0, "memory_bytes": 0}) for number, changes in enumerate(found)]
    fleet = Fleet(policy, reversed(rooms) if backwards else rooms)
    requests = requests_of(asked)
    if packing is None:
        decisions = one_by_one(requests, fleet, random.Random(3).random)
    else:
        decisions = pack(requests, fleet, order=packing, random=random.Random(3).random)
    for room in fleet.rooms():
        may = limits(room.capacity, policy)
        assert room.cpus <= may.cpus
        assert room.memory_bytes <= may.memory_bytes
        assert room.disk_bytes <= may.disk_bytes
        ports = [taken.port for taken in room.ports]
        assert not any(ports_overlap(one, two) for at, one in enumerate(ports) for two in ports[:at])
    placed = [(one, fleet.room(d.node)) for one, d in zip(requests, decisions, strict=True) if d.node is not None]
    for one, at in placed:
        for other, there in placed:
            if one is not other and one.project == other.project:
                for term in one.placement.anti_affinity:
                    if term.required and term.labels.items() <= other.labels.items():
                        assert not same_place(term.topology, at, there)


def same_place(topology: Topology, one: NodeRoom, other: NodeRoom) -> bool:
    match topology:
        case Topology.NODE:
            return one.id == other.id
        case Topology.ZONE:
            return (one.region, one.zone) == (other.region, other.zone)
        case Topology.REGION:
            return one.region == other.region


@settings(max_examples=50)
@given(FLEETS, ASKED, POLICIES, st.randoms(use_true_random=False))
def test_the_same_question_has_the_same_answer_however_the_fleet_came_to_be(
    found: list[dict[str, object]], asked: list[dict[str, object]], policy: Policy, shuffle: random.Random
) -> None:
    rooms, requests = rooms_of(found), requests_of(asked)
    expected = one_by_one(requests, Fleet(policy, rooms), random.Random(3).random)
    shuffle.shuffle(rooms)
    other = Fleet(policy, [node("gone"), *rooms[:1]])
    for one in requests:
        place(one, other, random=lambda: 0.0)
    other.remove(NodeId("gone"))
    for room in rooms[1:]:
        other.put(room)
    assert one_by_one(requests, other, random.Random(3).random) == expected


@settings(max_examples=80)
@given(
    st.lists(st.tuples(REGIONS, ZONES, st.integers(1, 8)), min_size=1, max_size=8),
    st.sampled_from(Topology),
    st.integers(1, 3),
    st.integers(1, 30),
)
def test_required_spread_is_never_exceeded(
    places: list[tuple[str, str, int]], topology: Topology, skew: int, number: int
) -> None:
    rooms = [
        node(f"n{at}", region=region, zone=zone, memory_bytes=(8 - free) * GIB)
        for at, (region, zone, free) in enumerate(places)
    ]
    fleet = Fleet(Policy(), rooms)
    spread = SpreadConstraint(labels={"app": "web"}, topology=topology, max_skew=skew, required=True)
    requests = [request(f"vm-{n}", labels={"app": "web"}, placement=Placement(spread=(spread,))) for n in range(number)]
    decisions = one_by_one(requests, fleet, random.Random(3).random)
    counts = {place_of(topology, room): 0 for room in rooms}
    for decision in decisions:
        if decision.node is not None:
            counts[place_of(topology, fleet.room(decision.node))] += 1
    assert max(counts.values()) - min(counts.values()) <= skew


def place_of(topology: Topology, room: NodeRoom) -> tuple[str, ...]:
    names = {Topology.NODE: (room.id,), Topology.ZONE: (room.region, room.zone), Topology.REGION: (room.region,)}
    return names[topology]


@settings(max_examples=80)
@given(
    FLEETS, ASKED, st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["move", "leave", "release"])), max_size=20)
)
def test_counts_that_were_kept_up_are_those_of_a_fleet_made_anew(
    found: list[dict[str, object]], asked: list[dict[str, object]], changes: list[tuple[int, str]]
) -> None:
    rooms, requests = rooms_of(found), requests_of(asked)
    fleet = Fleet(Policy(), rooms)
    homes: dict[VmId, NodeId] = {}
    for at, one in enumerate(requests):
        homes[one.vm] = rooms[at % len(rooms)].id
        fleet.reserve(homes[one.vm], one)
        place(one, fleet, random=lambda: 0.5)
    for at, change in changes:
        one = requests[at % len(requests)]
        if one.vm not in homes:
            continue
        if change == "leave":
            fleet.leave(one.vm)
            homes.pop(one.vm)
        else:
            fleet.release(one.vm)
            homes.pop(one.vm)
            if change == "move":
                homes[one.vm] = rooms[(at + 1) % len(rooms)].id
                fleet.reserve(homes[one.vm], one)
    fresh = Fleet(Policy(), fleet.rooms(), [r for vm in homes if (r := fleet.neighbours.get(vm)) is not None])
    for one in requests:
        assert place(one, fleet, random=lambda: 0.5) == place(one, fresh, random=lambda: 0.5)
