"""How far a node can be relied on: tables of the formulas, and what holds for whatever was seen."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.control.services.reliability_score import (
    FLAPPING_ABOVE,
    STEADY_BELOW,
    WEIGHTS,
    Seen,
    capacity,
    counted,
    faded,
    flapped,
    judge,
    noticeable,
    stability,
    success,
    uptime,
)
from nacre.model.nodes import Capacity, ConditionKind, NodeState, Reliability, ReliabilityPart, Usage

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HAS = Capacity(cpus=10, memory_bytes=1000, disk_bytes=1000)
WELL = Seen(
    state=NodeState.READY,
    age=timedelta(days=30),
    silence_s=2.0,
    interval_s=5.0,
    capacity=HAS,
    usage=Usage(load1=6.0, memory_bytes=100, disk_bytes=100),
)


def test_a_node_that_does_all_well_has_it_all():
    judged = judge(WELL, None, NOW)
    assert judged.score == pytest.approx(1.0)
    assert judged.parts == dict.fromkeys((part.value for part in ReliabilityPart), 1.0)
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("hours", "silence_s", "value"),
    [
        (0.9, 0, 0.5),
        (2, 14.9, 1.0),
        (2, 15, 0.9),
        (2, 45, 0.7),
        (2, 120, 0.5),
        (2, 300, 0.1),
        (25, 300, 0.2),
        (24 * 8, 300, 0.3),
        (24 * 8, 0, 1.0),
    ],
)
def test_uptime(hours: float, silence_s: float, value: float):
    assert uptime(replace(WELL, age=timedelta(hours=hours), silence_s=silence_s)) == pytest.approx(value)


@pytest.mark.parametrize(("silence_s", "value"), [(0, 1.0), (5, 0.8), (9.9, 0.8), (10, 0.6), (15, 0.3), (9000, 0.3)])
def test_response_is_silence_in_heartbeats(silence_s: float, value: float):
    assert judge(replace(WELL, silence_s=silence_s), None, NOW).parts["response"] == value


@pytest.mark.parametrize(
    ("share", "value"),
    [(0.0, 0.7), (0.29, 0.7), (0.3, 0.9), (0.5, 1.0), (0.7, 0.8), (0.85, 0.5), (0.95, 0.2), (1.5, 0.2)],
)
@pytest.mark.parametrize("resource", ["cpu", "memory", "disk"])
def test_capacity_follows_the_tightest_resource(share: float, value: float, resource: str):
    usage = Usage(
        load1=share * 10 if resource == "cpu" else 0,
        memory_bytes=int(share * 1000) if resource == "memory" else 0,
        disk_bytes=int(share * 1000) if resource == "disk" else 0,
    )
    assert capacity(replace(WELL, usage=usage)) == value


@pytest.mark.parametrize(
    ("state", "kinds", "cpu", "value"),
    [
        (NodeState.READY, (), 0.5, 1.0),
        (NodeState.READY, (ConditionKind.MEMORY_PRESSURE,), 0.5, 0.7),
        (NodeState.READY, (ConditionKind.DISK_PRESSURE, ConditionKind.MEMORY_PRESSURE), 0.5, 0.4),
        (NodeState.READY, (ConditionKind.NETWORK_UNAVAILABLE,), 0.95, 0.3),
        (NodeState.READY, (ConditionKind.CLOCK_SKEW,), 0.5, 1.0),
        (NodeState.ENROLLING, (), 0.5, 0.8),
        (NodeState.CORDONED, (), 0.5, 0.5),
        (NodeState.DRAINING, (ConditionKind.NETWORK_UNAVAILABLE, ConditionKind.DISK_PRESSURE), 0.5, 0.0),
        (NodeState.OFFLINE, (), 0.0, 0.0),
        (NodeState.FAILED, (), 0.0, 0.0),
    ],
)
def test_stability(state: NodeState, kinds: tuple[ConditionKind, ...], cpu: float, value: float):
    assert stability(state, kinds, cpu) == pytest.approx(value)


def test_a_new_node_is_discounted_for_ten_minutes():
    young = judge(replace(WELL, age=timedelta(minutes=9)), None, NOW)
    old = judge(replace(WELL, age=timedelta(minutes=11)), None, NOW)
    assert (young.discount, old.discount) == (0.8, 1.0)
    assert young.parts == old.parts
    assert young.score == pytest.approx(0.8 * old.score)


def test_outcomes_count_less_with_every_day():
    bad = counted(Reliability(), 0, 8, NOW)
    assert success(bad.successes, bad.failures) == pytest.approx(1 / 9)
    later = faded(bad, NOW + timedelta(days=3))
    assert later.failures == pytest.approx(1.0)
    assert counted(later, 1, 0, NOW + timedelta(days=3)).successes == 1.0


# Flapping


def test_three_flaps_in_a_row_are_too_many_and_it_is_over_when_they_are_forgotten():
    seen = flapped(flapped(None, NOW), NOW + timedelta(seconds=30))
    assert seen.flapping_since is None
    third = NOW + timedelta(seconds=60)
    seen = flapped(seen, third)
    assert seen.flaps > FLAPPING_ABOVE
    assert seen.flapping_since == third
    assert faded(seen, third + timedelta(minutes=9)).flapping_since == third
    steady = faded(seen, third + timedelta(minutes=11))
    assert (steady.flapping_since, steady.flaps < STEADY_BELOW) == (None, True)


def test_a_node_that_goes_away_once_in_a_while_does_not_flap():
    seen, at = None, NOW
    for _ in range(50):
        seen = flapped(seen, at)
        assert seen.flapping_since is None
        at += timedelta(minutes=8)


def test_one_more_flap_while_flapping_keeps_the_beginning():
    seen = None
    for minute in range(6):
        seen = flapped(seen, NOW + timedelta(minutes=minute))
    assert seen is not None
    assert seen.flapping_since == NOW + timedelta(minutes=2)  # 1 + .87 + .76 flaps


def test_a_clock_that_goes_back_forgets_nothing_and_invents_nothing():
    seen = flapped(flapped(None, NOW), NOW - timedelta(hours=5))
    assert seen.flaps == 2.0


def test_what_only_fades_is_not_worth_writing():
    judged = judge(WELL, counted(Reliability(), 100, 1, NOW), NOW)
    assert noticeable(None, judged)
    later = NOW + timedelta(minutes=1)
    assert not noticeable(judged, judge(WELL, judged, later))
    assert noticeable(judged, judge(replace(WELL, silence_s=15.0), judged, later))


def test_judging_often_and_seldom_comes_to_the_same():
    often = seldom = counted(flapped(None, NOW), 3, 5, NOW)
    for minute in range(1, 61):
        often = judge(WELL, often, NOW + timedelta(minutes=minute))
    seldom = judge(WELL, seldom, NOW + timedelta(minutes=60))
    assert often.score == pytest.approx(seldom.score, abs=1e-3)
    assert (often.flaps, often.failures) == (pytest.approx(seldom.flaps), pytest.approx(seldom.failures))


# Whatever was seen

seconds = st.floats(0, 1e7)
amounts = st.integers(0, 1 << 50)
seens = st.builds(
    Seen,
    state=st.sampled_from(NodeState),
    age=st.timedeltas(timedelta(), timedelta(days=3650)),
    silence_s=seconds,
    interval_s=st.floats(0.1, 600),
    capacity=st.none() | st.builds(Capacity, cpus=st.integers(0, 512), memory_bytes=amounts, disk_bytes=amounts),
    usage=st.none() | st.builds(Usage, load1=st.floats(0, 1e4), memory_bytes=amounts, disk_bytes=amounts),
    conditions=st.lists(st.sampled_from(ConditionKind)),
)
before = st.none() | st.builds(
    Reliability,
    flaps=st.floats(0, 1000),
    flapped_at=st.none() | st.just(NOW),
    flapping_since=st.none() | st.just(NOW),
    successes=st.floats(0, 1e6),
    failures=st.floats(0, 1e6),
    counted_at=st.none() | st.just(NOW),
)


@given(seens, before, st.timedeltas(timedelta(days=-1), timedelta(days=30)))
def test_every_score_and_part_lies_between_nothing_and_all(seen: Seen, known: Reliability | None, later: timedelta):
    judged = judge(seen, known, NOW + later)
    assert 0.0 <= judged.score <= 1.0
    assert judged.parts.keys() == {part.value for part in ReliabilityPart}
    assert all(0.0 <= value <= 1.0 for value in judged.parts.values())


@given(seens, before, seconds)
def test_more_silence_never_helps(seen: Seen, known: Reliability | None, more: float):
    quieter = replace(seen, silence_s=seen.silence_s + more)
    assert judge(quieter, known, NOW).score <= judge(seen, known, NOW).score + 1e-9


@given(seens, before, st.sampled_from(ConditionKind))
def test_one_more_condition_never_helps(seen: Seen, known: Reliability | None, kind: ConditionKind):
    worse = replace(seen, conditions=[*seen.conditions, kind])
    assert judge(worse, known, NOW).score <= judge(seen, known, NOW).score + 1e-9


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_successes_help_and_failures_do_not(successes: float, failures: float, more: float):
    known = success(successes, failures)
    assert success(successes + more, failures) >= known >= success(successes, failures + more)


@given(st.lists(st.timedeltas(timedelta(), timedelta(hours=1)), max_size=20))
def test_flaps_fade_and_never_go_below_nothing(gaps: list[timedelta]):
    seen, at = Reliability(), NOW
    for gap in gaps:
        at += gap
        after = flapped(seen, at)
        assert after.flaps <= seen.flaps + 1.0
        assert (after.flapping_since is not None) == (
            after.flaps > FLAPPING_ABOVE or (faded(seen, at).flapping_since is not None)
        )
        seen = after
    assert 0.0 <= faded(seen, at + timedelta(days=1)).flaps < 1e-9


def test_what_is_stored_is_read_back():
    seen = counted(flapped(None, NOW), 2, 1, NOW)
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Reliability) == seen
