"""Placing machines: every strategy, the same answer for the same question, and no node that cannot take the machine."""

import pytest

from nacre.control.scheduler.explain import summary
from nacre.control.scheduler.placement import place
from nacre.control.scheduler.snapshot import Fleet, NodeRoom, Request
from nacre.model.ids import NodeId
from nacre.model.nodes import Capacity, ConditionKind, HypervisorInfo, NodeState, Usage
from nacre.model.placement import Decision, Policy, Strategy, Taint, TaintEffect, Toleration, Weights
from nacre.model.units import GIB
from support.rooms import PORT, QEMU, middle, node, request, taken


def asked(one: Request, *rooms: NodeRoom, policy: Policy | None = None) -> Decision:
    return place(one, Fleet(policy or Policy(), rooms), random=middle)


def gone(reason: str) -> HypervisorInfo:
    return HypervisorInfo(name="qemu", available=False, reason=reason)


FULL_DISK = Usage(load1=0, memory_bytes=0, disk_bytes=96 * GIB)
GPU = Taint(key="gpu", value="a100")


@pytest.mark.parametrize(
    ("room", "one", "code"),
    [
        (node(state=NodeState.CORDONED), request(), "node_not_ready"),
        (node(state=NodeState.OFFLINE), request(), "node_not_ready"),
        (node(state=NodeState.DRAINING), request(), "node_not_ready"),
        (node(conditions=frozenset({ConditionKind.MEMORY_PRESSURE})), request(), "memory_pressure"),
        (node(conditions=frozenset({ConditionKind.DISK_PRESSURE})), request(), "disk_pressure"),
        (node(conditions=frozenset({ConditionKind.NETWORK_UNAVAILABLE})), request(), "network_unavailable"),
        (node(hypervisors=()), request(), "no_hypervisor"),
        (node(hypervisors=(gone("not installed"),)), request(), "hypervisor_unavailable"),
        (node(), request(machine="microvm"), "no_machine_type"),
        (node(hypervisors=(HypervisorInfo(name="qemu", available=True),)), request(ha=True), "no_guard"),
        (node(architecture="aarch64"), request(architecture="x86_64"), "wrong_architecture"),
        (node(labels={"disk": "hdd"}), request(node_labels={"disk": "ssd"}), "label_missing"),
        (node(region="us"), request(regions=("eu",)), "wrong_region"),
        (node(zone="us-1"), request(zones=("eu-1", "eu-2")), "wrong_zone"),
        (node(taints=(GPU,)), request(), "taint_not_tolerated"),
        (node(taints=(GPU,)), request(tolerations=(Toleration(key="gpu", value="v100"),)), "taint_not_tolerated"),
        (node(), request(memory_bytes=9 * GIB), "not_enough_memory"),
        (node(memory_bytes=8 * GIB), request(), "not_enough_memory"),
        (node(capacity=None), request(), "not_enough_memory"),
        (node(), request(cpus=17), "not_enough_cpus"),
        (node(), request(disk_bytes=201 * GIB), "not_enough_disk"),
        (node(usage=FULL_DISK), request(), "no_disk_headroom"),
        (node(ports=(taken(),)), request(publish=(PORT,)), "port_in_use"),
        (node(), request(exclude=frozenset({NodeId("a")})), "excluded"),
        (node(), request(within=frozenset({NodeId("b")}), volume="data"), "volume_elsewhere"),
        (node(), request(full=frozenset({NodeId("a")}), pools="fast"), "pool_full"),
    ],
)
def test_a_node_that_cannot_take_a_machine_says_why(room: NodeRoom, one: Request, code: str) -> None:
    decision = asked(one, room)
    assert decision.node is None
    assert code in {rejection.code for rejection in decision.rejected}
    assert summary(decision)[0] == min(rejection.code for rejection in decision.rejected)
    words = summary(decision)[1]
    assert words == "there is no other node" if code == "excluded" else "the only node cannot take it" in words


@pytest.mark.parametrize(
    ("room", "one"),
    [
        (node(conditions=frozenset({ConditionKind.CLOCK_SKEW})), request()),
        (node(hypervisors=(HypervisorInfo(name="qemu", available=True),)), request(machine="anything")),
        (node(), request(ha=True, architecture="x86_64")),
        (node(labels={"disk": "ssd", "rack": "1"}), request(node_labels={"disk": "ssd"})),
        (node(region="eu", zone="eu-2"), request(regions=("us", "eu"), zones=("eu-1", "eu-2"))),
        (node(taints=(GPU,)), request(tolerations=(Toleration(key="gpu"),))),
        (node(taints=(Taint(key="old", effect=TaintEffect.PREFER_NO_SCHEDULE),)), request()),
        (node(memory_bytes=7 * GIB, cpus=15), request()),
        (node(usage=Usage(load1=0, memory_bytes=0, disk_bytes=95 * GIB)), request()),
        (node(ports=(taken(),)), request("vm-2", publish=(PORT,))),
    ],
)
def test_what_does_not_speak_against_a_node(room: NodeRoom, one: Request) -> None:
    assert asked(one, room).node == room.id


@pytest.mark.parametrize(
    "restless", [node("a", flapping=True), node("a", conditions=frozenset({ConditionKind.FLAPPING}))]
)
def test_a_node_that_comes_and_goes_is_taken_only_if_no_other_can_be(restless: NodeRoom) -> None:
    full = node("b", memory_bytes=8 * GIB)
    decision = asked(request(), restless, full, node("c", memory_bytes=6 * GIB))
    assert (decision.node, decision.fitting) == ("c", 1)
    assert {rejection.code for rejection in decision.rejected} == {"node_flapping", "not_enough_memory"}
    decision = asked(request(), restless, full)
    assert (decision.node, decision.fitting) == ("a", 1)
    assert {rejection.code for rejection in decision.rejected} == {"not_enough_memory"}
    assert asked(request(only=NodeId("a")), restless, node("c")).node == "a"


def test_a_node_that_comes_and_goes_is_named_among_those_that_could_not_be_taken() -> None:
    decision = asked(request(), node("a", flapping=True, state=NodeState.CORDONED), node("b", state=NodeState.CORDONED))
    assert decision.node is None
    assert {rejection.code: rejection.nodes for rejection in decision.rejected} == {
        "node_flapping": 1,
        "node_not_ready": 2,
    }


def test_the_policy_says_how_much_may_be_promised() -> None:
    roomy = Policy(cpu_overcommit=8, memory_overcommit=2, disk_overcommit=4, disk_headroom=0)
    assert asked(request(cpus=32, memory_bytes=16 * GIB, disk_bytes=400 * GIB), node(), policy=roomy).node
    kept = Policy(reserved_cpus=1, reserved_memory_bytes=GIB)
    refused = asked(request(cpus=13, memory_bytes=8 * GIB), node(), policy=kept)
    messages = {rejection.message for rejection in refused.rejected}
    assert messages == {"needs 13 CPUs, 12 left", "needs 8GiB of memory, 7GiB left"}


def test_a_new_policy_counts_at_once() -> None:
    fleet = Fleet(Policy(), [node()])
    assert place(request(cpus=17), fleet, random=middle).node is None
    fleet.policy = Policy(cpu_overcommit=5)
    assert place(request(cpus=17), fleet, random=middle).node == "a"


def test_the_least_loaded_node_is_chosen() -> None:
    full, empty = node("a", memory_bytes=6 * GIB), node("b", memory_bytes=GIB)
    assert asked(request(), full, empty).node == "b"
    assert asked(request(), full, node("b", memory_bytes=GIB, cpus=15)).node == "a"


def test_best_fit_fills_the_fullest_node_that_still_fits() -> None:
    rooms = [node("a"), node("b", memory_bytes=6 * GIB), node("c", memory_bytes=8 * GIB)]
    assert asked(request(strategy=Strategy.BEST_FIT), *rooms).node == "b"


def test_round_robin_takes_turns_and_starts_with_the_lowest_id() -> None:
    fleet = Fleet(Policy(strategy=Strategy.ROUND_ROBIN), [node("c"), node("a"), node("b")])
    turns: list[str | None] = []
    for number in range(7):
        one = request(f"vm-{number}")
        chosen = place(one, fleet, random=middle).node
        assert chosen is not None
        fleet.take(chosen, one)
        turns.append(chosen)
    assert turns == ["a", "b", "c", "a", "b", "c", "a"]


def test_random_reaches_every_node_and_repeats_itself_with_the_same_numbers() -> None:
    fleet = Fleet(Policy(strategy=Strategy.RANDOM), [node(name) for name in "abcdefgh"])
    draws = [number / 200 for number in range(200)]
    chosen = [place(request(), fleet, random=lambda draw=draw: draw).node for draw in draws]
    assert set(chosen) == set("abcdefgh")
    assert chosen == [place(request(), fleet, random=lambda draw=draw: draw).node for draw in draws]
    assert max(chosen.count(name) for name in "abcdefgh") < 50


def test_the_weighted_score_is_made_of_five_factors_and_weights_are_normalised() -> None:
    rooms = [node("a", region="eu", reliability=0.4), node("b", region="us", reliability=0.9)]
    decision = asked(request(strategy=Strategy.WEIGHTED), *rooms)
    assert decision.node == "b"
    assert set(decision.candidates[0].parts) == {"locality", "reliability", "cost", "utilization", "network"}
    assert decision.candidates[0].parts["reliability"] == pytest.approx(0.27)
    only_place = Weights(locality=7, reliability=0, cost=0, utilization=0, network=0)
    decision = asked(request(strategy=Strategy.WEIGHTED, weights=only_place, regions=("eu", "us")), *rooms)
    assert decision.node == "a"
    assert decision.candidates[0].parts["locality"] == pytest.approx(1)
    assert decision.candidates[1].parts["locality"] == pytest.approx(0.9)
    none = Weights(locality=0, reliability=0, cost=0, utilization=0, network=0)
    assert asked(request(strategy=Strategy.WEIGHTED, weights=none), *rooms).candidates[0].parts[
        "reliability"
    ] == pytest.approx(0.9 / 5)


@pytest.mark.parametrize(
    ("cpus", "memory", "factor"),
    [(1, 0.5, 0.7), (2, 1, 1.0), (5, 2.5, 0.8), (9, 4.5, 0.6), (12, 6, 0.3)],
)
def test_the_cost_of_a_node_is_that_of_what_it_would_be_filled_with(cpus: int, memory: float, factor: float) -> None:
    weights = Weights(locality=0, reliability=0, cost=1, utilization=0, network=0)
    one = request(cpus=cpus, memory_bytes=int(memory * GIB), strategy=Strategy.WEIGHTED, weights=weights)
    assert asked(one, node()).candidates[0].parts["cost"] == pytest.approx(factor)


@pytest.mark.parametrize(
    ("used_cpus", "used_memory", "factor"),
    [
        (9.4, 4.2, 1.0),  # both at .65 with the machine
        (0, 0, 1 - ((0.65 - 1 / 16) + (0.65 - 1 / 8)) / 2),
        (0, 4, 1 - ((0.65 - 1 / 16) + (0.65 - 5 / 8)) / 2),
        (8, 2, 1 - ((0.65 - 9 / 16) + (0.65 - 3 / 8)) / 2 + 0.1),  # brings memory closer to CPU
        (15, 6, 1 - (0.35 + (7 / 8 - 0.65)) / 2 + 0.1 - 0.3),  # beyond .9
    ],
)
def test_utilisation_is_best_at_two_thirds(used_cpus: float, used_memory: float, factor: float) -> None:
    big = Capacity(cpus=4000, memory_bytes=8000 * GIB, disk_bytes=10**6 * GIB)
    weights = Weights(locality=0, reliability=0, cost=0, utilization=1, network=0)
    one = request(cpus=1000, memory_bytes=1000 * GIB, strategy=Strategy.WEIGHTED, weights=weights)
    room = node(capacity=big, cpus=int(used_cpus * 1000), memory_bytes=int(used_memory * 1000) * GIB)
    assert asked(one, room).candidates[0].parts["utilization"] == pytest.approx(min(1.0, factor))


@pytest.mark.parametrize("strategy", Strategy)
def test_the_parts_of_a_candidate_add_up_to_its_score(strategy: Strategy) -> None:
    rooms = [node(name, region="eu", zone=name, taints=(GPU,) if name == "b" else ()) for name in "abc"]
    one = request(strategy=strategy, zones=("c", "b", "a"), tolerations=(Toleration(key="gpu"),))
    decision = asked(one, *rooms)
    assert decision.strategy is strategy
    assert decision.fitting == 3
    for candidate in decision.candidates:
        assert sum(candidate.parts.values()) == pytest.approx(candidate.score)
    assert [c.score for c in decision.candidates] == sorted((c.score for c in decision.candidates), reverse=True)


@pytest.mark.parametrize("strategy", [s for s in Strategy if s is not Strategy.RANDOM])
def test_equal_nodes_are_chosen_by_id_whatever_the_order_in_which_they_came(strategy: Strategy) -> None:
    for names in ("abc", "cab", "bca"):
        assert asked(request(strategy=strategy), *(node(name) for name in names)).node == "a"


def test_an_explanation_may_be_left_out() -> None:
    fleet = Fleet(Policy(), [node("a"), node("b", state=NodeState.CORDONED)])
    decision = place(request(), fleet, random=middle, explain=False)
    assert (decision.node, decision.considered, decision.fitting) == ("a", 2, 1)
    assert (decision.rejected, decision.candidates) == ((), ())


def test_a_success_tells_what_spoke_against_the_other_nodes() -> None:
    decision = asked(request(), node("a"), node("b", state=NodeState.CORDONED), node("c", memory_bytes=8 * GIB))
    assert [(r.code, r.nodes) for r in decision.rejected] == [("node_not_ready", 1), ("not_enough_memory", 1)]
    assert [candidate.name for candidate in decision.candidates] == ["a"]


def test_only_the_node_that_somebody_chose_is_looked_at() -> None:
    rooms = [node("a"), node("b", memory_bytes=GIB), node("c", state=NodeState.CORDONED)]
    assert asked(request(only=NodeId("b")), *rooms).node == "b"
    refused = asked(request(only=NodeId("c")), *rooms)
    assert (refused.node, refused.considered) == (None, 1)
    assert summary(refused, pinned=True) == ("node_not_ready", "the chosen node cannot take it: the node is cordoned")
    gone = asked(request(only=NodeId("gone")), *rooms)
    assert gone.considered == 0
    assert summary(gone, pinned=True) == ("no_nodes", "there is no such node")


def test_the_holder_of_a_port_is_named_to_its_own_project_only() -> None:
    own = asked(request(publish=(PORT,)), node(ports=(taken(),)))
    assert "holder" in summary(own)[1]
    foreign = asked(request(publish=(PORT,)), node(ports=(taken("prj-2"),)))
    assert "holder" not in summary(foreign)[1]
    assert "another machine" in summary(foreign)[1]


def test_a_node_that_has_gone_is_no_longer_chosen_and_its_place_is_used_again() -> None:
    fleet = Fleet(Policy(), [node("a"), node("b", memory_bytes=GIB)])
    assert place(request(), fleet, random=middle).node == "a"
    fleet.remove(NodeId("a"))
    decision = place(request(memory_bytes=8 * GIB), fleet, random=middle)
    assert (decision.node, decision.considered, len(decision.rejected)) == (None, 1, 1)
    fleet.put(node("0", labels={"disk": "ssd"}))
    assert place(request(node_labels={"disk": "ssd"}), fleet, random=middle).node == "0"


def test_changes_of_a_node_are_seen_by_checks_that_remember() -> None:
    fleet = Fleet(Policy(), [node("a")])
    one = request(node_labels={"disk": "ssd"})
    assert place(one, fleet, random=middle).node is None
    fleet.put(node("a", labels={"disk": "ssd"}))
    assert place(one, fleet, random=middle).node == "a"
    fleet.put(node("a", labels={"disk": "ssd"}, state=NodeState.MAINTENANCE))
    assert place(one, fleet, random=middle).node is None
    fleet.put(node("a", labels={"disk": "ssd"}, hypervisors=(QEMU,), taints=(GPU,)))
    assert [r.code for r in place(one, fleet, random=middle).rejected] == ["taint_not_tolerated"]


def test_what_was_reserved_is_given_back() -> None:
    fleet = Fleet(Policy(), [node("a")])
    before = fleet.room(NodeId("a"))
    first = request("vm-1", memory_bytes=8 * GIB, publish=(PORT,))
    fleet.take(NodeId("a"), first)
    refused = place(request("vm-2", publish=(PORT,)), fleet, random=middle)
    assert {r.code for r in refused.rejected} == {"not_enough_memory", "port_in_use"}
    fleet.release(first.vm)
    assert fleet.room(NodeId("a")) == before
    assert place(request("vm-2", publish=(PORT,)), fleet, random=middle).node == "a"


def test_ports_are_free_once_a_node_no_longer_tells_of_them() -> None:
    fleet = Fleet(Policy(), [node("a", ports=(taken(),)), node("b", ports=(taken(),))])
    one = request(publish=(PORT,))
    assert place(one, fleet, random=middle).node is None
    fleet.put(node("a"))
    assert place(one, fleet, random=middle).node == "a"
    fleet.remove(NodeId("b"))
    fleet.put(node("c"))
    fleet.put(node("a", ports=(taken("prj-2"),)))
    assert place(one, fleet, random=middle).node == "c"


def test_a_platform_without_nodes_says_so() -> None:
    assert summary(asked(request())) == ("no_nodes", "there is no node")


def test_reasons_of_many_nodes_are_counted() -> None:
    decision = asked(
        request(), node("a", state=NodeState.CORDONED), node("b", state=NodeState.CORDONED), node("c", cpus=16)
    )
    assert summary(decision) == (
        "no_placement",
        "no node can take it: the node is cordoned (2 of 3 nodes); needs 1 CPUs, 0 left (1 of 3 nodes)",
    )
