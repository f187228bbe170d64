"""Nodes that have fallen silent are offline. Run by `main` in every replica; the second to notice changes nothing.

A node that is linked here is judged by when we heard it last (`Hearing`), to a fraction of a second. Any other by the
time since its last sign of life was first read from the database, so that a wall clock that jumps, here or on another
replica, makes no node offline; and time in which the database could not be read does not count. After a start every
node gets the full time.
"""

from collections.abc import Mapping
from datetime import datetime

from nacre.control.reconcilers.hearing import Hearing
from nacre.control.reconcilers.loop import Loop
from nacre.control.services import node_signs
from nacre.control.store.db import Database
from nacre.model.ids import NodeId

_LOOK_AGAIN_S = 0.05
"""After something came from a node that was about to be judged."""
_MARGIN_S = 0.005


class Silence:
    """How long each node has been silent, from the database. Pure: the time is passed in."""

    def __init__(self, *, round_s: float) -> None:
        """`round_s` is how often `note` is called; what is much longer was an outage, and counts for nothing."""
        self._round_s = round_s
        self._since: dict[NodeId, tuple[datetime | None, float]] = {}
        self._noted: float | None = None

    def note(self, last_seen: Mapping[NodeId, datetime | None], now: float) -> dict[NodeId, float]:
        """Return seconds of silence of each node, counted from when its `last_seen` was first noted."""
        away = 0.0 if self._noted is None else now - self._noted - 2 * self._round_s
        self._noted = now
        self._since = {
            node: (seen, known[1] if away <= 0 else min(now, known[1] + 2 * (away + self._round_s)))
            if (known := self._since.get(node)) is not None and known[0] == seen
            else (seen, now)
            for node, seen in last_seen.items()
        }
        return {node: now - first for node, (_, first) in self._since.items()}


class NodeWatch:
    """Marks silent nodes offline."""

    def __init__(self, db: Database, *, offline_after_s: float, hearing: Hearing | None = None) -> None:
        self._db = db
        self._limit_s = offline_after_s
        self._hearing = hearing
        self._round_s = max(0.1, offline_after_s / 6)
        self._silence = Silence(round_s=self._round_s)
        self._last_seen: dict[NodeId, datetime | None] = {}
        self._read_at: float | None = None

    def loop(self) -> Loop:
        """Return the loop to run. No bell rings for silence."""
        return Loop("nodes", self._db.wakes, (), self.once, poll_s=self._round_s)

    async def once(self) -> float | None:
        """Look at every node. Returns when the next would be offline.

        What is stored is read anew once a round: in between nodes fall due one after the other, and reading about
        thousands for each would make all of them late. What is old about it is noticed when a node is to be marked.
        """
        now = self._db.clock.monotonic()
        if self._read_at is None or now - self._read_at >= self._round_s:
            await self._read(now)
        last_seen = self._last_seen
        by_database = self._silence.note(last_seen, now)
        silence = {node: self._settled(node, seconds) for node, seconds in by_database.items()}
        lost = {node: last_seen[node] for node, seconds in silence.items() if seconds >= self._limit_s}
        unread = {node for node in lost if self._hearing is not None and self._hearing.has_unread(node)}
        if lost.keys() - unread:
            async with self._db.write() as tx:
                suspects = {node: seen for node, seen in lost.items() if node not in unread}
                await node_signs.fallen_silent(tx, suspects, self._is_silent)
            self._last_seen = {node: seen for node, seen in last_seen.items() if node not in suspects}
        if unread:
            return _LOOK_AGAIN_S
        waiting = [seconds for node, seconds in silence.items() if node not in lost]
        return self._limit_s - max(waiting) + _MARGIN_S if waiting else None

    async def _read(self, now: float) -> None:
        async with self._db.read() as rd:
            self._last_seen = dict(await node_signs.last_seen(rd))
        self._read_at = now
        if self._hearing is not None:
            self._hearing.keep(set(self._last_seen))

    def _settled(self, node: NodeId, by_database: float) -> float:
        """Return how long a node has been silent, by what we heard ourselves and by what others have stored.

        What we store ourselves is read back a little later than it was heard; what is much younger is from others.
        """
        heard = self._hearing.silence(node) if self._hearing is not None else None
        if heard is None:
            return by_database
        return heard if heard - by_database <= 2 * self._round_s else by_database

    def _is_silent(self, node: NodeId) -> bool:
        """Whether a node is silent even now."""
        heard = self._hearing.silence(node) if self._hearing is not None else None
        return heard is None or heard >= self._limit_s
