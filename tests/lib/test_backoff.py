"""Waits grow, stay under the cap, are spread, and start over."""

import random

from nacre.lib.backoff import Backoff


def test_waits_double_up_to_the_cap() -> None:
    backoff = Backoff(first=0.5, cap=3, random=lambda: 1.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1, 2, 3, 3]
    backoff.reset()
    assert backoff.next() == 0.5


def test_one_wait_may_have_a_lower_ceiling() -> None:
    backoff = Backoff(first=1, cap=60, random=lambda: 1.0)
    assert [backoff.next(2) for _ in range(4)] == [1, 2, 2, 2]
    assert backoff.next() == 16


def test_waits_are_spread_over_the_upper_half() -> None:
    source = random.Random(1)
    waits = [Backoff(first=8, cap=8, random=source.random).next() for _ in range(1000)]
    assert 4 <= min(waits) < 4.1
    assert 7.9 < max(waits) <= 8


def test_an_outage_of_years_does_not_overflow() -> None:
    backoff = Backoff(first=1, cap=60, random=lambda: 0.0)
    backoff.attempts = 10_000_000
    assert backoff.next() == 30
