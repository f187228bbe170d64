"""How far a node can be relied on, from what was seen of it; and flapping, which is coming and going too often. Pure.

The five parts, their weights and steps are those of Cloudless (its reliability engine: .30 uptime + .20 response +
.20 success + .15 capacity + .15 stability, a node younger than ten minutes times .8). It does not say how success is
counted; here it is the share of starts that went well, old ones counting less. Its penalties for taints and for the
lack of a public address are left out: they say nothing about reliability.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from nacre.model.nodes import Capacity, ConditionKind, NodeState, Reliability, ReliabilityPart, Usage

WEIGHTS: dict[ReliabilityPart, float] = {
    ReliabilityPart.UPTIME: 0.30,
    ReliabilityPart.RESPONSE: 0.20,
    ReliabilityPart.SUCCESS: 0.20,
    ReliabilityPart.CAPACITY: 0.15,
    ReliabilityPart.STABILITY: 0.15,
}

NEW = timedelta(minutes=10)
NEW_DISCOUNT = 0.8

FLAP_HALF_LIFE = timedelta(minutes=5)
FLAPPING_ABOVE = 2.5
STEADY_BELOW = 0.75
"""Far below the other, so that flapping does not flap."""
OUTCOME_HALF_LIFE = timedelta(days=1)

_UPTIME_STEPS = ((15.0, 1.0), (30.0, 0.9), (60.0, 0.7), (300.0, 0.5))
"""Seconds since the last sign of life, and what less than that is worth."""
_UPTIME_ELSE = 0.1
_UPTIME_YOUNG = 0.5
_RESPONSE_STEPS = ((1.0, 1.0), (2.0, 0.8), (3.0, 0.6))
"""The same in intervals of heartbeats."""
_RESPONSE_ELSE = 0.3
_CAPACITY_STEPS = ((0.3, 0.7), (0.5, 0.9), (0.7, 1.0), (0.85, 0.8), (0.95, 0.5))
"""Utilisation, and what less than that is worth: a node that is well used has shown that it can be."""
_CAPACITY_ELSE = 0.2
_CPU_PRESSURE = 0.9
_STABILITY_LOSS: dict[ConditionKind, float] = {
    ConditionKind.MEMORY_PRESSURE: 0.3,
    ConditionKind.DISK_PRESSURE: 0.3,
    ConditionKind.NETWORK_UNAVAILABLE: 0.5,
    ConditionKind.FLAPPING: 0.5,  # not in the source, which knows no flapping
}
_STATE_LOSS: dict[NodeState, float] = {
    NodeState.ENROLLING: 0.2,
    NodeState.CORDONED: 0.5,
    NodeState.DRAINING: 0.5,
    NodeState.MAINTENANCE: 0.5,
}
_GONE = frozenset({NodeState.OFFLINE, NodeState.FAILED})
_CPU_LOSS = 0.2
_NOTICED_SCORE, _NOTICED_PART = 0.01, 0.1


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of a node."""

    state: NodeState
    age: timedelta
    """Since it joined."""
    silence_s: float
    """Since its last sign of life."""
    interval_s: float
    """Between heartbeats."""
    capacity: Capacity | None = None
    usage: Usage | None = None
    conditions: Collection[ConditionKind] = ()


def judge(seen: Seen, before: Reliability | None, now: datetime) -> Reliability:
    """Return the reliability of a node now. What is remembered of before fades with time."""
    old = faded(before or Reliability(), now)
    conditions = set(seen.conditions)
    if old.flapping_since is not None:
        conditions.add(ConditionKind.FLAPPING)
    parts = {
        ReliabilityPart.UPTIME: uptime(seen),
        ReliabilityPart.RESPONSE: _step(seen.silence_s / seen.interval_s, _RESPONSE_STEPS, _RESPONSE_ELSE),
        ReliabilityPart.SUCCESS: success(old.successes, old.failures),
        ReliabilityPart.CAPACITY: capacity(seen),
        ReliabilityPart.STABILITY: stability(seen.state, conditions, _cpu(seen)),
    }
    discount = NEW_DISCOUNT if seen.age < NEW else 1.0
    return msgspec.structs.replace(
        old,
        score=round(discount * sum(WEIGHTS[part] * value for part, value in parts.items()), 4),
        parts={part.value: round(value, 4) for part, value in parts.items()},
        discount=discount,
    )


def uptime(seen: Seen) -> float:
    """Return .5 for a node younger than an hour, else by its silence, and .1 more after a day and after a week."""
    if seen.age < timedelta(hours=1):
        return _UPTIME_YOUNG
    value = _step(seen.silence_s, _UPTIME_STEPS, _UPTIME_ELSE)
    value += 0.1 * ((seen.age > timedelta(hours=24)) + (seen.age > timedelta(days=7)))
    return _bounded(value)


def success(successes: float, failures: float) -> float:
    """Return the share of starts that went well. A node that has shown nothing is believed in, but not much."""
    return (1.0 + successes) / (1.0 + successes + failures)


def capacity(seen: Seen) -> float:
    """Return what the utilisation of the tightest resource is worth; that of an idle node if nothing is known."""
    if seen.capacity is None or seen.usage is None:
        return _CAPACITY_STEPS[0][1]
    shares = (
        _cpu(seen),
        _share(seen.usage.memory_bytes, seen.capacity.memory_bytes),
        _share(seen.usage.disk_bytes, seen.capacity.disk_bytes),
    )
    return _step(max(shares), _CAPACITY_STEPS, _CAPACITY_ELSE)


def stability(state: NodeState, conditions: Collection[ConditionKind], cpu: float) -> float:
    """Return 1 less what each thing that is wrong takes from it; 0 for a node that is gone."""
    if state in _GONE:
        return 0.0
    loss = sum(_STABILITY_LOSS.get(kind, 0.0) for kind in set(conditions)) + _STATE_LOSS.get(state, 0.0)
    return _bounded(1.0 - loss - (_CPU_LOSS if cpu > _CPU_PRESSURE else 0.0))


def counted(before: Reliability, successes: int, failures: int, now: datetime) -> Reliability:
    """Return the reliability with more starts that went well or not, to be judged anew."""
    old = faded(before, now)
    return msgspec.structs.replace(old, successes=old.successes + successes, failures=old.failures + failures)


def flapped(before: Reliability | None, now: datetime) -> Reliability:
    """Return the reliability of a node that was gone and has just come back. Its score waits for the next judgement."""
    old = faded(before or Reliability(), now)
    flaps = old.flaps + 1.0
    since = old.flapping_since or (now if flaps > FLAPPING_ABOVE else None)
    return msgspec.structs.replace(old, flaps=flaps, flapped_at=now, flapping_since=since)


def faded(before: Reliability, now: datetime) -> Reliability:
    """Return what is left of flaps and outcomes by now, and whether the node still counts as flapping."""
    flaps = before.flaps * _left(before.flapped_at, FLAP_HALF_LIFE, now)
    left = _left(before.counted_at, OUTCOME_HALF_LIFE, now)
    return msgspec.structs.replace(
        before,
        flaps=flaps,
        flapped_at=now,
        flapping_since=before.flapping_since if flaps >= STEADY_BELOW else None,
        successes=before.successes * left,
        failures=before.failures * left,
        counted_at=now,
    )


def noticeable(before: Reliability | None, after: Reliability) -> bool:
    """Whether a judgement is worth writing: the rest follows from what is written, by the time that has passed."""
    if before is None or before.flapping_since != after.flapping_since or before.discount != after.discount:
        return True
    if abs(before.score - after.score) >= _NOTICED_SCORE:
        return True
    return any(abs(value - before.parts.get(part, -1.0)) >= _NOTICED_PART for part, value in after.parts.items())


def _cpu(seen: Seen) -> float:
    if seen.capacity is None or seen.usage is None:
        return 0.0
    return seen.usage.load1 / max(1, seen.capacity.cpus)


def _share(used: int, of: int) -> float:
    return used / of if of > 0 else 1.0


def _step(value: float, steps: tuple[tuple[float, float], ...], otherwise: float) -> float:
    return next((worth for limit, worth in steps if value < limit), otherwise)


def _left(since: datetime | None, half_life: timedelta, now: datetime) -> float:
    """Return which share is left; a clock that went back takes nothing away and adds nothing."""
    return 1.0 if since is None else 0.5 ** (max(timedelta(), now - since) / half_life)


def _bounded(value: float) -> float:
    return min(1.0, max(0.0, value))
