"""Clocks: what moves with what."""

from nacre.lib.clock import ManualClock, SystemClock


def test_only_time_that_passes_moves_the_clocks_that_nobody_sets() -> None:
    clock = ManualClock()
    began = clock.now()
    clock.jump(7200)
    assert (clock.monotonic(), clock.boottime()) == (0, 0)
    clock.advance(5)
    assert (clock.monotonic(), clock.boottime()) == (5, 5)
    assert (clock.now() - began).total_seconds() == 7205


def test_the_time_since_boot_is_at_least_the_time_awake() -> None:
    clock = SystemClock()
    first = clock.boottime()
    assert clock.boottime() >= first > 0
