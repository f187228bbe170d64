"""Packing groups: few nodes when tight, many places when spread, and every filter as for a single machine."""

import random

import pytest

from nacre.control.scheduler.packing import Packing, pack
from nacre.control.scheduler.snapshot import Fleet, Request
from nacre.model.nodes import NodeState
from nacre.model.placement import Policy, Strategy
from nacre.model.units import GIB
from support.rooms import middle, near, node, request


def machines(*gibibytes: int) -> list[Request]:
    return [request(f"vm-{number}", memory_bytes=size * GIB) for number, size in enumerate(gibibytes)]


def packed(requests: list[Request], fleet: Fleet, order: Packing) -> list[str | None]:
    return [decision.node for decision in pack(requests, fleet, order=order, random=middle)]


def test_first_fit_decreasing_fills_nodes_that_first_fit_would_not() -> None:
    sizes = (2, 3, 3, 5, 5, 6)  # 24 GiB onto three nodes of 8 GiB
    for order in (Packing.FIRST_FIT_DECREASING, Packing.BEST_FIT):
        fleet = Fleet(Policy(), [node(name) for name in "abcd"])
        assert packed(machines(*sizes), fleet, order) == ["a", "b", "c", "b", "c", "a"]


def test_first_fit_begins_with_the_fullest_node() -> None:
    fleet = Fleet(Policy(), [node("a"), node("b", memory_bytes=4 * GIB), node("c", memory_bytes=6 * GIB)])
    assert packed(machines(1, 2, 4), fleet, Packing.FIRST_FIT_DECREASING) == ["a", "c", "b"]


def test_best_fit_leaves_the_least_room() -> None:
    fleet = Fleet(Policy(), [node("a", memory_bytes=GIB), node("b", memory_bytes=3 * GIB), node("c")])
    assert packed(machines(5, 4), fleet, Packing.BEST_FIT) == ["b", "a"]


def test_what_fits_nowhere_says_why_and_the_others_are_placed() -> None:
    fleet = Fleet(Policy(), [node("a")])
    decisions = pack(machines(9, 8), fleet, order=Packing.FIRST_FIT_DECREASING, random=middle)
    assert [decision.node for decision in decisions] == [None, "a"]
    assert [rejection.code for rejection in decisions[0].rejected] == ["not_enough_memory"]
    assert decisions[1].strategy is Strategy.BEST_FIT


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Packing.SPREAD_NODES, {"a": 2, "b": 2, "c": 1, "d": 1}),
        (Packing.SPREAD_ZONES, {"eu-1": 2, "eu-2": 2, "us-1": 2}),
        (Packing.SPREAD_REGIONS, {"eu": 3, "us": 3}),
    ],
)
def test_a_spread_group_is_even_over_its_places(order: Packing, expected: dict[str, int]) -> None:
    rooms = [
        node("a", region="eu", zone="1"),
        node("b", region="eu", zone="1"),
        node("c", region="eu", zone="2"),
        node("d", region="us", zone="1"),
    ]
    names = {
        Packing.SPREAD_NODES: {room.id: room.name for room in rooms},
        Packing.SPREAD_ZONES: {room.id: f"{room.region}-{room.zone}" for room in rooms},
        Packing.SPREAD_REGIONS: {room.id: room.region for room in rooms},
    }[order]
    chosen = packed(machines(1, 1, 1, 1, 1, 1), Fleet(Policy(), rooms), order)
    counts = [names[one] for one in chosen if one is not None]
    assert {name: counts.count(name) for name in set(counts)} == expected


def test_a_spread_group_overflows_when_a_place_is_full() -> None:
    rooms = [
        node("a", zone="1"),
        node("b", zone="2", memory_bytes=7 * GIB),
        node("c", zone="3", state=NodeState.OFFLINE),
    ]
    chosen = packed(machines(1, 1, 1, 1), Fleet(Policy(), rooms), Packing.SPREAD_ZONES)
    assert sorted(one for one in chosen if one is not None) == ["a", "a", "a", "b"]


def test_machines_of_a_group_see_each_other() -> None:
    web = {"app": "web"}
    group = [request(f"vm-{n}", labels=web, anti_affinity=(near(app="web"),)) for n in range(3)]
    for order in Packing:
        chosen = packed(group, Fleet(Policy(), [node("a"), node("b")]), order)
        assert sorted(one or "" for one in chosen) == ["", "a", "b"]


def test_packing_uses_fewer_nodes_than_spreading() -> None:
    numbers = random.Random(7)
    group = machines(*(numbers.randint(1, 4) for _ in range(40)))
    used = {}
    for order in Packing:
        chosen = packed(group, Fleet(Policy(), [node(f"n{n:02}") for n in range(40)]), order)
        used[order] = len(set(chosen))
        assert None not in chosen
    total = sum(one.memory_bytes for one in group) // GIB
    assert used[Packing.FIRST_FIT_DECREASING] <= -(-total * 11 // (8 * 9)) + 1
    assert used[Packing.BEST_FIT] <= -(-total * 11 // (8 * 9)) + 1
    assert used[Packing.SPREAD_NODES] == 40
