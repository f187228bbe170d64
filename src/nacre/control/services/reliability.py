"""Reliability of nodes: what was seen is read in pages, judged, and written where it has changed.

Called by the reconciler of reliability under its lease. What is judged, and how, is in `reliability_score`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from nacre.control.services import events
from nacre.control.services.node_changes import changed_conditions
from nacre.control.services.node_events import tell
from nacre.control.services.reliability_score import Seen, counted, judge, noticeable
from nacre.control.store import nodes
from nacre.control.store import reliability as store
from nacre.control.store.db import Database, Read, Tx
from nacre.control.store.reliability import Watched
from nacre.control.wake import NODES
from nacre.model.events import SYSTEM
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState, Reliability

PAGE = 500

_WENT_WELL = "vm.started"
_WENT_WRONG = ("vm.failed", "vm.crashed")
_NOT_HEARD = frozenset({NodeState.OFFLINE, NodeState.FAILED, NodeState.MAINTENANCE, NodeState.ENROLLING})


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How often nodes are heard, and when they are offline. Seconds."""

    heartbeat_s: float
    offline_after_s: float


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Starts that went well, and machines that failed or crashed, by node, up to an event."""

    until: int
    successes: Mapping[NodeId, int]
    failures: Mapping[NodeId, int]


@dataclass(frozen=True)
class Judged:
    """A node as it was seen, and what is thought of it now."""

    seen: Watched
    now: Reliability
    news: bool
    """Whether that is worth writing."""

    @property
    def steady_again(self) -> bool:
        """Whether the node has just stopped flapping."""
        before = self.seen.reliability
        return before is not None and before.flapping_since is not None and self.now.flapping_since is None


async def outcomes(rd: Read, *, after: int | None) -> Outcomes:
    """Return what has come of machines since the event `after`; nothing if there is no event to begin with."""
    until = await events.latest(rd)
    if after is None or after >= until:
        return Outcomes(until=until, successes={}, failures={})
    counts = await store.told_by_nodes(rd, (_WENT_WELL, *_WENT_WRONG), after=after, until=until)
    failures: dict[NodeId, int] = {}
    for (node, type_), number in counts.items():
        if type_ in _WENT_WRONG:
            failures[node] = failures.get(node, 0) + number
    successes = {node: number for (node, type_), number in counts.items() if type_ == _WENT_WELL}
    return Outcomes(until=until, successes=successes, failures=failures)


async def judgements(db: Database, terms: Terms, told: Outcomes) -> AsyncIterator[list[Judged]]:
    """Judge every node, a page at a time, each page read in a transaction of its own."""
    after = ""
    while True:
        async with db.read() as rd:
            page = await store.watched(rd, after=after, limit=PAGE)
            now = rd.now()
        if page:
            yield [judged(seen, terms, told, now) for seen in page]
        if len(page) < PAGE:
            return
        after = page[-1].id


def judged(seen: Watched, terms: Terms, told: Outcomes, now: datetime) -> Judged:
    """Judge one node. Pure."""
    before = seen.reliability
    successes, failures = told.successes.get(seen.id, 0), told.failures.get(seen.id, 0)
    if successes or failures:
        before = counted(before or Reliability(), successes, failures, now)
    judgement = judge(_seen(seen, terms, now), before, now)
    return Judged(seen, judgement, bool(successes or failures) or noticeable(seen.reliability, judgement))


async def save(tx: Tx, judged: Sequence[Judged]) -> None:
    """Store judgements, and tell of nodes that are steady again."""
    await store.save(tx, [(each.seen, each.now) for each in judged if each.news and not each.steady_again])
    for each in judged:
        if each.steady_again:
            await _save_steady(tx, each)


async def _save_steady(tx: Tx, judged: Judged) -> None:
    row = await nodes.get(tx, judged.seen.id, lock=True)
    if row is None or row.revision != judged.seen.revision:
        return
    changed = replace(row, reliability=judged.now)
    await nodes.save(tx, row, changed)
    for event, message, details in changed_conditions(row, changed):
        tell(tx, row, event, message, actor=SYSTEM, details=details)
    tx.wake(NODES)  # it takes machines again


def _seen(row: Watched, terms: Terms, now: datetime) -> Seen:
    """Return what was seen of a node.

    Whether a node is silent was found out on a clock that does not jump, so a node that counts as heard is never
    believed to have been silent for longer than that takes.
    """
    silence = max(0.0, (now - (row.last_seen_at or row.created_at)).total_seconds())
    if row.state not in _NOT_HEARD:
        silence = min(silence, terms.offline_after_s)
    return Seen(
        state=row.state,
        age=now - row.created_at,
        silence_s=silence,
        interval_s=terms.heartbeat_s,
        capacity=row.capacity,
        usage=row.usage,
        conditions=[condition.kind for condition in row.conditions],
    )
