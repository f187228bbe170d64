"""Nodes that have fallen silent are offline. Run by `main` in every replica; the second to notice changes nothing.

Silence is measured on our own monotonic clock, as the time since a node's last sign of life was first read: a wall
clock that jumps, here or on another replica, makes no node offline. After a start every node gets the full time.
"""

from collections.abc import Mapping
from datetime import datetime

from nacre.control.reconcilers.loop import Loop
from nacre.control.services import node_signs
from nacre.control.store.db import Database
from nacre.control.wake import NODES
from nacre.model.ids import NodeId


class Silence:
    """How long each node has been silent. Pure: the time is passed in."""

    def __init__(self) -> None:
        self._since: dict[NodeId, tuple[datetime | None, float]] = {}

    def note(self, last_seen: Mapping[NodeId, datetime | None], now: float) -> dict[NodeId, float]:
        """Return seconds of silence of each node, counted from when its `last_seen` was first noted."""
        self._since = {
            node: known if (known := self._since.get(node)) is not None and known[0] == seen else (seen, now)
            for node, seen in last_seen.items()
        }
        return {node: now - first for node, (_, first) in self._since.items()}


class NodeWatch:
    """Marks silent nodes offline."""

    def __init__(self, db: Database, *, offline_after_s: float) -> None:
        self._db = db
        self._limit_s = offline_after_s
        self._silence = Silence()

    def loop(self) -> Loop:
        """Return the loop to run."""
        return Loop("nodes", self._db.wakes, (NODES,), self.once, poll_s=max(0.1, self._limit_s / 6))

    async def once(self) -> float | None:
        """Look at every node."""
        async with self._db.read() as rd:
            last_seen = await node_signs.last_seen(rd)
        silence = self._silence.note(last_seen, self._db.clock.monotonic())
        for node in sorted(node for node, seconds in silence.items() if seconds >= self._limit_s):
            async with self._db.write() as tx:
                await node_signs.silent(tx, node, last_seen[node])
        return None
