"""Who was heard when, by a process that may itself stand still."""

import pytest

from nacre.control.reconcilers.hearing import TICK_S, Hearing
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId

A, B = NodeId("node-a"), NodeId("node-b")


@pytest.fixture
def hearing(clock: ManualClock) -> Hearing:
    return Hearing(clock, heartbeat_s=5)


def live(clock: ManualClock, hearing: Hearing, seconds: float) -> None:
    for _ in range(round(seconds / TICK_S)):
        clock.advance(TICK_S)
        hearing.tick()


def test_silence_is_the_time_since_a_node_was_heard(clock: ManualClock, hearing: Hearing) -> None:
    hearing.hear(A)
    live(clock, hearing, 7)
    hearing.hear(B)
    live(clock, hearing, 1)
    assert (hearing.silence(A), hearing.silence(B)) == (8, 1)
    assert hearing.silence(NodeId("node-c")) is None


def test_time_in_which_the_process_stood_still_counts_for_nobody(clock: ManualClock, hearing: Hearing) -> None:
    hearing.hear(A)
    live(clock, hearing, 10)
    clock.advance(6)
    assert hearing.silence(A) == pytest.approx(10 + 6 - 2 * (6 - TICK_S))
    hearing.hear(B)
    live(clock, hearing, 4)
    assert hearing.silence(A) == pytest.approx(14 + 6 - 2 * (6 - TICK_S))
    assert hearing.silence(B) == 4


def test_a_hesitation_shorter_than_a_heartbeat_costs_nobody_time(clock: ManualClock, hearing: Hearing) -> None:
    hearing.hear(A)
    live(clock, hearing, 10)
    clock.advance(4)
    assert hearing.silence(A) == 14


def test_a_long_standstill_gives_everybody_the_full_time(clock: ManualClock, hearing: Hearing) -> None:
    hearing.hear(A)
    live(clock, hearing, 10)
    clock.advance(60)
    assert hearing.silence(A) == 0.0


def test_heartbeats_that_did_not_come_are_counted_when_the_next_one_does(clock: ManualClock, hearing: Hearing) -> None:
    for pause in (5, 9.5, 5):
        hearing.hear(A)
        live(clock, hearing, pause)
    hearing.hear(A)
    assert hearing.missed == 0
    live(clock, hearing, 16)
    hearing.hear(A)
    assert hearing.missed == 2


def test_what_was_before_a_new_link_was_not_missed(clock: ManualClock, hearing: Hearing) -> None:
    hearing.hear(A)
    live(clock, hearing, 100)
    hearing.hear(A, first=True)
    assert hearing.missed == 0


def test_nodes_that_are_no_more_are_forgotten(hearing: Hearing) -> None:
    hearing.hear(A)
    hearing.hear(B)
    hearing.keep({B})
    assert hearing.silence(A) is None
    assert hearing.silence(B) == 0.0
