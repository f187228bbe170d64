"""What machines want of each other: near, apart both ways, spread; required and preferred."""

import pytest

from nacre.control.scheduler.placement import place
from nacre.control.scheduler.snapshot import Fleet, Request
from nacre.model.ids import NodeId, VmId
from nacre.model.nodes import NodeState
from nacre.model.placement import (
    Decision,
    NodePreference,
    Policy,
    Strategy,
    Taint,
    TaintEffect,
    Toleration,
    Topology,
)
from nacre.model.units import GIB
from support.rooms import middle, near, node, request, resident, spread

WEB, DB = {"app": "web"}, {"app": "db"}
ROOMS = [
    node("a", region="eu", zone="1"),
    node("b", region="eu", zone="1"),
    node("c", region="eu", zone="2"),
    node("d", region="us", zone="1"),
]


def where(one: Request, fleet: Fleet) -> set[str]:
    """Every node that could take the machine."""
    return {candidate.node for candidate in place(one, fleet, random=middle).candidates}


def codes(decision: Decision) -> dict[str, int]:
    return {rejection.code: rejection.nodes for rejection in decision.rejected}


@pytest.mark.parametrize(
    ("topology", "together", "apart"),
    [
        (Topology.NODE, {"a"}, {"b", "c", "d"}),
        (Topology.ZONE, {"a", "b"}, {"c", "d"}),  # zone 1 of another region is another zone
        (Topology.REGION, {"a", "b", "c"}, {"d"}),
    ],
)
def test_affinity_and_anti_affinity_count_by_node_zone_and_region(
    topology: Topology, together: set[str], apart: set[str]
) -> None:
    fleet = Fleet(Policy(), ROOMS, [resident("db-1", "a", labels=DB)])
    assert where(request(affinity=(near(topology, app="db"),)), fleet) == together
    assert where(request(anti_affinity=(near(topology, app="db"),)), fleet) == apart
    # The other way round: the one that lives there requires to be apart.
    fleet.settle(resident("db-1", "a", labels=DB, anti_affinity=(near(topology, app="web"),)))
    assert where(request(labels=WEB), fleet) == apart
    assert where(request(labels=DB), fleet) == {"a", "b", "c", "d"}


def test_machines_of_other_projects_are_no_neighbours() -> None:
    stranger = resident("db-1", "a", labels=DB, project="prj-2", anti_affinity=(near(app="web"),))
    fleet = Fleet(Policy(), ROOMS, [stranger])
    assert where(request(labels=WEB, anti_affinity=(near(app="db"),)), fleet) == {"a", "b", "c", "d"}
    assert where(request(affinity=(near(app="db"),)), fleet) == set()


def test_a_machine_is_not_its_own_neighbour() -> None:
    apart = (near(app="web"),)
    fleet = Fleet(Policy(), ROOMS, [resident("vm-1", "a", labels=WEB, anti_affinity=apart)])
    assert where(request("vm-1", labels=WEB, anti_affinity=apart), fleet) == {"a", "b", "c", "d"}
    assert where(request("vm-2", labels=WEB, anti_affinity=apart), fleet) == {"b", "c", "d"}


def test_the_first_of_a_group_that_wants_to_be_together_goes_anywhere() -> None:
    fleet = Fleet(Policy(), ROOMS)
    together = (near(Topology.ZONE, app="web"),)
    assert where(request(affinity=together), fleet) == set()
    first = request("vm-1", labels=WEB, affinity=together)
    assert where(first, fleet) == {"a", "b", "c", "d"}
    fleet.take(NodeId("c"), first)
    assert where(request("vm-2", labels=WEB, affinity=together), fleet) == {"c"}


def test_a_term_of_several_labels_needs_all_of_them() -> None:
    fleet = Fleet(
        Policy(), ROOMS, [resident("x", "a", labels={"app": "db", "tier": "1"}), resident("y", "b", labels=DB)]
    )
    assert where(request(anti_affinity=(near(app="db", tier="1"),)), fleet) == {"b", "c", "d"}
    assert where(request(affinity=(near(app="db"), near(tier="1"))), fleet) == {"a"}


def test_whoever_comes_and_goes_is_counted_as_it_does() -> None:
    fleet = Fleet(Policy(), ROOMS)
    apart = request(anti_affinity=(near(app="db"),))
    assert where(apart, fleet) == {"a", "b", "c", "d"}
    fleet.settle(resident("db-1", "a", labels=DB))
    fleet.settle(resident("db-2", "a", labels=DB))
    assert where(apart, fleet) == {"b", "c", "d"}
    fleet.leave(VmId("db-1"))
    assert where(apart, fleet) == {"b", "c", "d"}
    fleet.settle(resident("db-2", "d", labels=DB))
    assert where(apart, fleet) == {"a", "b", "c"}
    fleet.leave(VmId("db-2"))
    fleet.leave(VmId("db-2"))
    assert where(apart, fleet) == {"a", "b", "c", "d"}


def test_with_a_node_go_those_who_lived_there() -> None:
    fleet = Fleet(Policy(), ROOMS, [resident("db-1", "c", labels=DB)])
    assert where(request(anti_affinity=(near(Topology.REGION, app="db"),)), fleet) == {"d"}
    fleet.remove(NodeId("c"))
    assert where(request(anti_affinity=(near(Topology.REGION, app="db"),)), fleet) == {"a", "b", "d"}


def test_nodes_without_a_zone_are_one_place() -> None:
    fleet = Fleet(Policy(), [node("a"), node("b")], [resident("db-1", "a", labels=DB)])
    assert where(request(anti_affinity=(near(Topology.ZONE, app="db"),)), fleet) == set()


def test_required_spread_keeps_places_even() -> None:
    fleet = Fleet(Policy(), ROOMS)
    chosen: list[str] = []
    for number in range(6):
        one = request(f"web-{number}", labels=WEB, spread=(spread(app="web"),))
        decision = place(one, fleet, random=middle)
        assert decision.node is not None
        fleet.take(decision.node, one)
        room = fleet.room(decision.node)
        chosen.append(f"{room.region}-{room.zone}")
    assert sorted(chosen) == ["eu-1", "eu-1", "eu-2", "eu-2", "us-1", "us-1"]


def test_a_full_zone_holds_required_spread_back_and_a_closed_one_does_not() -> None:
    rooms = [node("a", zone="1"), node("b", zone="2", memory_bytes=8 * GIB)]
    fleet = Fleet(Policy(), rooms, [resident("web-1", "a", labels=WEB)])
    one = request(labels=WEB, spread=(spread(app="web"),))
    assert codes(place(one, fleet, random=middle)) == {"not_enough_memory": 1, "spread": 1}
    fleet.put(node("b", zone="2", memory_bytes=8 * GIB, state=NodeState.OFFLINE))
    assert place(one, fleet, random=middle).node == "a"


def test_preferences_move_a_choice_whatever_the_strategy() -> None:
    rooms = [
        node("a", zone="1"),
        node("b", zone="2", labels={"disk": "ssd"}),
        node("c", zone="3", taints=(Taint(key="old", effect=TaintEffect.PREFER_NO_SCHEDULE),)),
    ]
    fleet = Fleet(Policy(), rooms, [resident("db-1", "c", labels=DB)])
    liked = NodePreference(labels={"disk": "ssd"}, weight=100)
    old = (Toleration(key="old"),)
    for strategy in (Strategy.LEAST_LOADED, Strategy.BEST_FIT, Strategy.ROUND_ROBIN, Strategy.WEIGHTED):

        def best(strategy: Strategy = strategy, **asked: object) -> str:
            return place(request(strategy=strategy, **asked), fleet, random=middle).candidates[0].name

        assert best() == "a"
        assert best(prefer=(liked,)) == "b"
        assert best(affinity=(near(app="db", required=False, weight=100),), tolerations=old) == "c"
        assert best(zones=("3", "2", "1"), tolerations=old) == "c"
        apart = near(Topology.ZONE, app="db", required=False, weight=100)
        assert best(anti_affinity=(apart,), prefer=(NodePreference(labels={}, weight=1),)) == "a"


def test_a_preferred_spread_gives_way_when_there_is_no_room() -> None:
    rooms = [node("a", zone="1"), node("b", zone="2", memory_bytes=5 * GIB)]
    fleet = Fleet(Policy(), rooms, [resident("web-1", "a", labels=WEB)])
    even = spread(app="web", required=False)
    decision = place(request(labels=WEB, spread=(even,)), fleet, random=middle)
    assert [(c.name, c.parts["spread"]) for c in decision.candidates] == [("b", 0.0), ("a", -0.3)]
    big = place(request(labels=WEB, spread=(even,), memory_bytes=4 * GIB), fleet, random=middle)
    assert [(c.name, c.parts["spread"]) for c in big.candidates] == [("a", -0.3)]


def test_of_two_terms_that_speak_against_a_node_the_first_is_told() -> None:
    fleet = Fleet(
        Policy(), ROOMS, [resident("x", "a", labels={"app": "db", "tier": "1"}), resident("y", "b", labels=DB)]
    )
    decision = place(request(anti_affinity=(near(tier="1"), near(app="db"))), fleet, random=middle)
    assert [(r.code, r.message, r.nodes) for r in decision.rejected] == [
        ("anti_affinity", "the node has a machine with app=db", 1),
        ("anti_affinity", "the node has a machine with tier=1", 1),
    ]


def test_more_selectors_than_are_remembered_are_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nacre.control.scheduler.neighbours.MOST_SELECTORS", 2)
    labels = {f"k{number}": "v" for number in range(5)}
    fleet = Fleet(Policy(), ROOMS, [resident("x", "a", labels=labels)])
    for _ in range(3):
        for key in labels:
            assert where(request(anti_affinity=(near(**{key: "v"}),)), fleet) == {"b", "c", "d"}
    fleet.settle(resident("x", "b", labels=labels))
    for key in labels:
        assert where(request(anti_affinity=(near(**{key: "v"}),)), fleet) == {"a", "c", "d"}
