"""Limits of disks in QEMU's terms. Pure.

QEMU fills its buckets without a pause (throttle.h: `avg` per second, room for `max`). A token bucket with room for one
refill and the burst is the same in the long run; a burst is there again whenever the disk has been idle for long.
"""

from collections.abc import Mapping

from nacre.model.hardware import RateLimits, TokenBucket

MOST = 10**15  # throttle.h, THROTTLE_VALUE_MAX


def group(limits: RateLimits) -> dict[str, int]:
    """Return the property `limits` of a throttle group. Zero is no limit."""
    return {f"{name}-total{suffix}": value for name, suffix, value in _values(limits)}


def throttle(limits: RateLimits) -> Mapping[str, int]:
    """Return the arguments of `block_set_io_throttle`."""
    values = {
        f"{name}{suffix.replace('-', '_')}": value for name, suffix, value in _values(limits) if value or not suffix
    }
    return {**dict.fromkeys(("bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0), **values}


def _values(limits: RateLimits) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    for name, bucket in (("bps", limits.bandwidth), ("iops", limits.operations)):
        average, most = _average(bucket)
        found += [(name, "", average), (name, "-max", most)]
    return found


def _average(bucket: TokenBucket | None) -> tuple[int, int]:
    if bucket is None:
        return 0, 0
    average = min(MOST, max(1, round(bucket.per_second)))
    room = min(MOST, bucket.size + bucket.burst)
    return average, room if room >= average else 0  # less than a second's worth is what QEMU allows by itself
