"""Limits of devices as Firecracker takes them. Pure. Used by `config` and `guest`."""

from nacre.model.hardware import RateLimits, TokenBucket

Limiter = dict[str, dict[str, int]]

_NONE = {"size": 0, "refill_time": 0}
"""A bucket without size or time is no bucket: so a limit is taken away, because one that is not named stays."""


def of(limits: RateLimits) -> Limiter:
    """Return the limits of a device that is new; empty if it has none."""
    wanted = {"bandwidth": limits.bandwidth, "ops": limits.operations}
    return {name: _bucket(bucket) for name, bucket in wanted.items() if bucket is not None}


def replacing(limits: RateLimits) -> Limiter:
    """Return what makes these the limits of a device, whatever they were."""
    return {"bandwidth": _NONE, "ops": _NONE} | of(limits)


def _bucket(bucket: TokenBucket) -> dict[str, int]:
    made = {"size": bucket.size, "refill_time": bucket.refill_ms}
    return made | {"one_time_burst": bucket.burst} if bucket.burst else made
