"""Doorbells between the parts of a control plane. They carry a topic and no data, and losing one costs latency only.

Rung by `store.db` after a commit; waited for by reconcilers, agent links, event streams and `?wait=`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

VMS = "vms"
IMAGES = "images"
NODES = "nodes"
MOVES = "moves"
"""A move or a drain may have something to do next."""
EVENTS = "events"
OPERATIONS = "operations"
STREAMS = "streams"
"""A viewer waits for a stream of a node whose link leads to another replica."""


def node_topic(node: str) -> str:
    """The topic that rings when the desired state of one node may have changed."""
    return f"node:{node}"


class Wakes:
    """The doorbells of one process. Other replicas ring them through the database."""

    def __init__(self) -> None:
        self._bells: dict[str, set[asyncio.Event]] = defaultdict(set)

    def ring(self, topic: str) -> None:
        """Wake everyone who waits for `topic`."""
        for bell in self._bells.get(topic, ()):
            bell.set()

    def ring_all(self) -> None:
        """Wake everyone: rings may have been missed."""
        for topic in list(self._bells):
            self.ring(topic)

    @contextmanager
    def listen(self, *topics: str) -> Generator["Bell"]:
        """Hear `topics` from now on: a ring between two waits is not lost."""
        event = asyncio.Event()
        for topic in topics:
            self._bells[topic].add(event)
        try:
            yield Bell(event)
        finally:
            for topic in topics:
                self._bells[topic].discard(event)
                if not self._bells[topic]:
                    del self._bells[topic]


class Bell:
    """One listener's doorbell."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def wait(self, timeout: float) -> bool:
        """Return True when it rang since the last wait, False after `timeout` seconds of silence."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
