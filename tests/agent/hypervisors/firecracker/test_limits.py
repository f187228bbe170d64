"""Limits as Firecracker takes them."""

from nacre.agent.hypervisors.firecracker import limits
from nacre.model.hardware import NO_LIMITS, RateLimits, TokenBucket

NONE = {"size": 0, "refill_time": 0}


def test_no_limits_are_not_mentioned():
    assert limits.of(NO_LIMITS) == {}


def test_a_burst_is_there_once():
    assert limits.of(RateLimits(operations=TokenBucket(size=5, refill_ms=200, burst=3))) == {
        "ops": {"size": 5, "refill_time": 200, "one_time_burst": 3}
    }


def test_what_replaces_limits_takes_away_what_it_does_not_set():
    assert limits.replacing(NO_LIMITS) == {"bandwidth": NONE, "ops": NONE}
    assert limits.replacing(RateLimits(bandwidth=TokenBucket(size=9))) == {
        "bandwidth": {"size": 9, "refill_time": 1000},
        "ops": NONE,
    }
