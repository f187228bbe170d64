"""Rebalancing: load becomes more even, no filter is violated, and once it is done there is nothing left to do."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.control.scheduler.filters import against
from nacre.control.scheduler.placement import fits
from nacre.control.scheduler.rebalance import Proposal, propose, spread
from nacre.control.scheduler.snapshot import Fleet, Request
from nacre.model.ids import NodeId
from nacre.model.nodes import Capacity, NodeState
from nacre.model.placement import Policy, Topology
from nacre.model.units import GIB
from support.rooms import near, node, request, resident


def settled(fleet: Fleet, on: str, *requests: Request) -> Fleet:
    for one in requests:
        fleet.reserve(NodeId(on), one)
    return fleet


def carry_out(fleet: Fleet, proposals: list[Proposal]) -> None:
    for proposal in proposals:
        one = proposal.resident.request
        assert one is not None
        assert fleet.neighbours.get(one.vm) == proposal.resident
        row = fleet.row(proposal.target)
        assert row is not None
        assert against(one, fleet, row) == ()
        fleet.release(one.vm)
        fleet.reserve(proposal.target, one)


def told(proposals: list[Proposal]) -> list[tuple[str, str, str]]:
    return [(proposal.resident.vm, proposal.source, proposal.target) for proposal in proposals]


def test_a_full_node_gives_to_an_empty_one_until_both_are_even() -> None:
    fleet = settled(Fleet(Policy(), [node("a"), node("b")]), "a", *(request(f"vm-{n}") for n in range(8)))
    before = fleet.rooms()
    proposals = propose(fleet, min_gain=0.05, max_moves=100)
    assert fleet.rooms() == before
    assert len(proposals) == 4
    assert {(proposal.source, proposal.target) for proposal in proposals} == {("a", "b")}
    assert proposals[0].before == spread(fleet)
    for first, second in pairwise(proposals):
        assert first.after < first.before
        assert abs(first.after - second.before) < 1e-9
    carry_out(fleet, proposals)
    assert abs(spread(fleet) - proposals[-1].after) < 1e-9
    assert propose(fleet, min_gain=0.05, max_moves=100) == []


def test_small_gains_are_not_worth_a_move() -> None:
    fleet = settled(Fleet(Policy(), [node("a"), node("b")]), "a", request("x"), request("y"))
    gain = propose(fleet, min_gain=0.01, max_moves=9)[0].gain
    assert propose(fleet, min_gain=gain + 0.001, max_moves=9) == []


def test_no_more_moves_than_asked_for_and_the_best_first() -> None:
    machines = [request("small"), request("large", memory_bytes=3 * GIB), request("other")]
    fleet = settled(Fleet(Policy(), [node("a"), node("b")]), "a", *machines)
    assert told(propose(fleet, min_gain=0.01, max_moves=1)) == [("large", "a", "b")]


def test_nothing_is_moved_to_or_from_nodes_that_are_not_ready() -> None:
    rooms = [node("a"), node("b", state=NodeState.CORDONED), node("c", state=NodeState.OFFLINE)]
    fleet = settled(Fleet(Policy(), rooms), "a", *(request(f"vm-{n}") for n in range(6)))
    assert propose(fleet, min_gain=0.01, max_moves=9) == []
    fleet = settled(Fleet(Policy(), rooms), "b", *(request(f"vm-{n}") for n in range(6)))
    assert propose(fleet, min_gain=0.01, max_moves=9) == []


def test_filters_hold_for_moves() -> None:
    rooms = [node("a", zone="1"), node("b", zone="2"), node("c", zone="1", labels={"disk": "hdd"})]
    pinned = [request("zone", zones=("1",), node_labels={"disk": "ssd"}), request("apart", labels={"app": "web"})]
    fleet = settled(Fleet(Policy(), rooms), "a", *pinned)
    fleet.settle(resident("web", "b", anti_affinity=(near(Topology.ZONE, app="web"),)))
    fleet.settle(resident("web-2", "c", anti_affinity=(near(app="web"),)))
    assert propose(fleet, min_gain=0.01, max_moves=9) == []


def test_whom_another_needs_nearby_stays_and_so_does_who_is_not_known_well_enough() -> None:
    db = request("db", labels={"app": "db"})
    web = request("web", affinity=(near(app="db"),))
    fleet = settled(Fleet(Policy(), [node("a"), node("b")]), "a", db, web)
    fleet.settle(resident("unknown", "a"))
    assert propose(fleet, min_gain=0.01, max_moves=9) == []


def test_a_fleet_without_nodes_has_nothing_to_move() -> None:
    assert propose(Fleet(Policy()), min_gain=0.1, max_moves=9) == []
    assert spread(Fleet(Policy())) == 0.0


MACHINES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(1, 6), st.sampled_from(["", "web", "db"])), max_size=20
)


@settings(max_examples=200)
@given(MACHINES, st.lists(st.integers(1, 3), min_size=2, max_size=5), st.sampled_from([0.0, 0.02, 0.1]))
def test_moves_make_load_more_even_and_a_second_run_has_none(
    machines: list[tuple[int, int, int, str]], sizes: list[int], min_gain: float
) -> None:
    rooms = [
        node(f"n{number}", capacity=Capacity(cpus=4 * size, memory_bytes=8 * size * GIB, disk_bytes=100 * size * GIB))
        for number, size in enumerate(sizes)
    ]
    fleet = Fleet(Policy(memory_overcommit=4, cpu_overcommit=8), rooms)
    for number, (on, cpus, memory, app) in enumerate(machines):
        apart = (near(app="web"),) if app == "db" else ()
        one = request(f"vm-{number:02}", cpus=cpus, memory_bytes=memory * GIB, labels={"app": app}, anti_affinity=apart)
        if not fits(one, fleet.room(NodeId(f"n{on % len(sizes)}")), fleet.policy):
            fleet.reserve(NodeId(f"n{on % len(sizes)}"), one)
    before, rooms_before = spread(fleet), fleet.rooms()
    proposals = propose(fleet, min_gain=min_gain, max_moves=1000)
    assert fleet.rooms() == rooms_before
    assert len({proposal.resident.vm for proposal in proposals}) == len(proposals)
    carry_out(fleet, proposals)
    assert spread(fleet) <= before
    assert all(proposal.gain >= min_gain and proposal.after < proposal.before for proposal in proposals)
    assert propose(fleet, min_gain=min_gain, max_moves=1000) == []
