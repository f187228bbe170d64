"""Plans of trouble: the same for the same seed, and nothing that no promise covers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from support.trouble import LOSSES, WEIGHTS, Kind, Trouble, plan

LULL_S = 14.0


def planned(seed: int, seconds: float = 900) -> list[Trouble]:
    return plan(seed, seconds, nodes=3, replicas=2, lull_every=60, lull=LULL_S)


def test_a_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert planned(1) == planned(1)
    assert planned(1) != planned(2)


def test_a_quarter_of_an_hour_has_every_kind_of_trouble() -> None:
    assert {trouble.kind for trouble in planned(1)} == set(WEIGHTS) | {Kind.GUARD_STOPPED}


@given(st.integers())
def test_a_guard_stands_still_only_while_all_else_is_well(seed: int) -> None:
    troubles = planned(seed)
    for each in troubles:
        if each.kind is Kind.GUARD_STOPPED:
            others = [other for other in troubles if other is not each]
            assert all(other.at + other.lasts + LULL_S <= each.at for other in others if other.at <= each.at)
            assert all(other.at >= each.at + each.lasts for other in others if other.at >= each.at)


@given(st.integers())
def test_the_longest_losses_of_a_node_are_longer_than_a_lull_and_happen_while_all_else_is_well(seed: int) -> None:
    troubles = planned(seed)
    for guard, loss in itertools.pairwise(troubles):
        if guard.kind is Kind.GUARD_STOPPED:
            assert loss.kind in LOSSES
            assert loss.lasts >= LULL_S
            others = [other for other in troubles if other not in (guard, loss)]
            assert not [
                other for other in others if other.at < loss.at + loss.lasts and other.at + other.lasts > loss.at
            ]


@given(st.integers())
def test_a_program_that_is_killed_or_stopped_is_left_alone_until_it_runs_again(seed: int) -> None:
    free: dict[tuple[str, int], float] = {}
    for each in planned(seed):
        if each.kind in {Kind.AGENT_KILLED, Kind.AGENT_STOPPED, Kind.POWER_OFF}:
            assert free.get(("agent", each.target), 0.0) <= each.at
            free["agent", each.target] = each.at + each.lasts
        if each.kind in {Kind.REPLICA_KILLED, Kind.REPLICA_STOPPED}:
            assert free.get(("replica", each.target), 0.0) <= each.at
            free["replica", each.target] = each.at + each.lasts
