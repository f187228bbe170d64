"""Never twice, and always again: HA restart in simulated time, over everything that may go wrong.

Hosts whose clocks are two percent apart, agents that are stopped between any two steps, guards, a network that cuts,
loses and delays, two replicas that both act, a database that goes away. What decides is the real code; see
`support.ha_world`. The last tests break one rule of the design at a time and must see a machine run twice, or the rule
would be idle, or the simulation blind to it.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nacre.control.services.failover import Terms
from nacre.model.nodes import NodeState
from support import ha_faults
from support.ha_faults import FAULTS, storm
from support.ha_model import LEASE_S, Pace, Rules
from support.ha_world import World

STORM_S = 400.0
WITHIN_S = 150.0
"""How soon after everything is well again all machines run: a wait for a lease, slow turns, a resync."""


def started(seed: int, **about: Any) -> World:
    """A world in which everything runs."""
    world = World(seed, **about)
    world.run(20)
    assert world.converged() == []
    return world


@pytest.mark.parametrize("seed", range(40))
def test_nothing_runs_twice_in_a_storm_and_everything_runs_after_it(seed: int) -> None:
    world = started(seed)
    storm(world, STORM_S)
    assert world.violations == []
    world.heal()
    world.run(WITHIN_S)
    assert world.violations == []
    assert world.converged() == []
    assert world.steps > 5000


def test_storms_do_take_machines_off_nodes() -> None:
    taken = 0
    for seed in range(5):
        world = started(seed)
        storm(world, STORM_S)
        taken += world.taken
    assert taken > 10


@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(min_value=1000),
    nodes=st.integers(min_value=2, max_value=6),
    vms=st.integers(min_value=1, max_value=12),
    faults=st.sets(st.sampled_from(sorted(FAULTS)), min_size=1),
    every_s=st.sampled_from((3.0, 8.0, 20.0)),
    pace=st.builds(
        Pace,
        round_s=st.sampled_from((0.3, 1.0)),
        read_s=st.sampled_from((0.01, 0.3, 6.0)),
        act_s=st.sampled_from((0.01, 0.2, 6.0)),
        place_s=st.sampled_from((0.02, 1.0)),
        beat_s=st.sampled_from((0.5, 5.0)),
        start_s=st.sampled_from((0.01, 3.0, 20.0)),
    ),
)
def test_nothing_runs_twice_whatever_happens_how_often_and_how_fast(
    seed: int, nodes: int, vms: int, faults: set[str], every_s: float, pace: Pace
) -> None:
    world = World(seed, node_count=nodes, vm_count=vms, pace=pace)
    world.run(20)
    storm(world, 200.0, faults=faults, every_s=every_s)
    world.heal()
    world.run(60)
    assert world.violations == []


# What must not happen although it would be safe


@pytest.mark.parametrize("seconds", [10, 30, 60, 300])
@pytest.mark.parametrize("fault", [ha_faults.stall, ha_faults.restart])
def test_a_control_plane_that_is_away_moves_nothing(fault: Any, seconds: float) -> None:
    world = started(1)
    for replica in world.replicas:
        fault(world, replica, seconds)
    world.run(seconds + 60)
    assert (world.given_up, world.taken, world.violations) == (0, 0, [])
    assert world.converged() == []


def test_machines_go_on_through_an_outage_that_is_shorter_than_the_lease() -> None:
    world = started(2)
    ha_faults.take_database_away(world, 28)
    for _ in range(60):
        world.run(1)
        assert len(world.running) == world.vm_count


def test_machines_stand_still_in_a_longer_one_and_go_on_after_it() -> None:
    world = started(3)
    runs = {vm: life for host in world.hosts.values() for vm, life in host.lives.items()}
    ha_faults.take_database_away(world, 90)
    world.run(60)
    assert world.running == {}
    world.run(60)
    assert world.converged() == []
    assert {vm: life for host in world.hosts.values() for vm, life in host.lives.items()} == runs
    assert world.given_up == 0


@pytest.mark.parametrize(
    ("nodes", "lost", "given_up"), [(3, 2, 0), (5, 3, 0), (1, 1, 0), (2, 1, 1), (4, 2, 2), (5, 2, 2)]
)
def test_a_mass_loss_is_held_back(nodes: int, lost: int, given_up: int) -> None:
    world = started(4, node_count=nodes, vm_count=3 * nodes)
    for host in list(world.hosts.values())[:lost]:
        ha_faults.cut(world, host, 200)
    world.run(150)
    assert world.given_up == given_up
    world.run(50 + WITHIN_S)
    assert world.violations == []
    assert world.converged() == []


def test_a_host_without_power_is_replaced_within_forty_five_seconds() -> None:
    for seed in range(10):
        world = started(seed, drift=0.0005)
        vm, node = next(iter(world.running.items()))
        world.hosts[node].power_off()
        world.run(45)
        assert world.running.get(vm) not in {None, node}
        assert world.nodes[node].state is NodeState.FAILED


# Every rule is needed


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Where a missing rule shows: the gap that it closes is made wide, or the margin that it gives is outrun."""

    about: dict[str, Any] = field(default_factory=dict[str, Any])
    weather: dict[str, Any] = field(default_factory=dict[str, Any])


SLOW_TURNS = Terms(lease_s=LEASE_S, per_s=0.4, max_share=0.5)
QUICK = {"act_s": 0.01, "place_s": 0.02, "start_s": 0.01}
STOPPED_AGENTS = {"faults": ("stop",), "durations": (35, 38, 42, 50), "every_s": 15.0}

TRIALS: dict[str, Trial] = {
    "lease_runs_from_asking": Trial(),
    "granted_for_the_tenure_only": Trial(),
    "guards_freeze": Trial(),
    "margin": Trial(about={"pace": Pace(round_s=0.1, read_s=0.01, **QUICK)}),
    "counted_after_reading": Trial(about={"pace": Pace(round_s=0.1, read_s=6, **QUICK)}),
    "renewals_checked_when_giving_up": Trial(
        about={"pace": Pace(act_s=6, beat_s=5, place_s=0.1, start_s=0.1), "vm_count": 12}, weather=STOPPED_AGENTS
    ),
    "taken_only_while_given_up": Trial(
        about={"pace": Pace(act_s=6, place_s=0.1, start_s=0.1), "vm_count": 12}, weather=STOPPED_AGENTS
    ),
    "a_grant_ends_being_given_up": Trial(
        about={"pace": Pace(beat_s=5, place_s=0.1, start_s=0.1), "vm_count": 24, "terms": SLOW_TURNS},
        weather=STOPPED_AGENTS,
    ),
    "taking_ends_the_tenure": Trial(
        about={"pace": Pace(beat_s=5, place_s=0.1, start_s=0.1), "vm_count": 24, "terms": SLOW_TURNS},
        weather=STOPPED_AGENTS,
    ),
    "guards_check_before_starting": Trial(
        about={"pace": Pace(start_s=20), "vm_count": 12},
        weather={"faults": ("stop", "power"), "durations": (45, 60), "every_s": 10.0},
    ),
}
SEEDS = 40


def test_every_rule_has_its_trial() -> None:
    assert set(TRIALS) == {rule.name for rule in fields(Rules)}


@pytest.mark.parametrize("rule", TRIALS)
def test_without_this_rule_something_runs_twice(rule: str) -> None:
    trial = TRIALS[rule]
    for seed in range(SEEDS):
        world = World(seed, rules=Rules(**{rule: False}), **trial.about)
        world.run(20)
        storm(world, STORM_S, **trial.weather)
        if world.violations:
            return
    pytest.fail(f"nothing ran twice in {SEEDS} storms")


@pytest.mark.parametrize("rule", TRIALS)
def test_with_all_rules_nothing_does_in_the_same_storms(rule: str) -> None:
    trial = TRIALS[rule]
    for seed in range(3):
        world = World(seed, **trial.about)
        world.run(20)
        storm(world, STORM_S, **trial.weather)
        assert world.violations == []
