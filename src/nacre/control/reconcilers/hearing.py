"""When this replica last heard each node that is or was linked to it, on our own monotonic clock.

Fed by the gateway the moment a heartbeat arrives, before anything is stored; asked by `NodeWatch`. A process that stood
still (stopped, starved, or on a host that slept) heard nobody, which says nothing about them: such time is not counted,
and as much again is given for what is on its way.
"""

from collections.abc import Callable

import structlog

from nacre.lib.clock import Clock
from nacre.model.ids import NodeId

log = structlog.get_logger()

TICK_S = 0.25
"""How often `tick` is called while the process does not stand still."""
_STILL_S = 1.0
"""A tick that comes later than this, and than the next heartbeat of everybody, means that the process stood still."""


class Hearing:
    """The ears of one replica."""

    def __init__(self, clock: Clock, heartbeat_s: float) -> None:
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._still_s = max(_STILL_S, heartbeat_s)
        self._heard: dict[NodeId, float] = {}
        self._ticked = clock.monotonic()
        self._unread: Callable[[NodeId], bool] = lambda _: False
        self.missed = 0
        """Heartbeats that did not come when they were due."""

    def attach(self, unread: Callable[[NodeId], bool]) -> None:
        """`unread` says whether something that a node has sent is here and was not looked at yet."""
        self._unread = unread

    def hear(self, node: NodeId, *, first: bool = False) -> None:
        """Note that a node is heard now. `first` is for a new link: what was before it was not missed on it."""
        now, before = self._clock.monotonic(), self._heard.get(node)
        if before is not None and not first and now - before > 2 * self._heartbeat_s:
            self.missed += int((now - before) / self._heartbeat_s) - 1
        self._heard[node] = now

    def silence(self, node: NodeId) -> float | None:
        """Return for how many seconds a node has been silent; None if it was never heard here."""
        now = self.tick()
        since = self._heard.get(node)
        return None if since is None else now - since

    def has_unread(self, node: NodeId) -> bool:
        """Whether a node has said something that was not looked at yet."""
        return self._unread(node)

    def tick(self) -> float:
        """Notice whether the process has stood still since the last call, and return the time."""
        now = self._clock.monotonic()
        late = now - self._ticked - TICK_S
        if late > self._still_s:
            log.warning("process.stood_still", seconds=round(late, 1), next="nodes get as much more time")
            for node, since in self._heard.items():
                self._heard[node] = min(now, since + 2 * late)
        self._ticked = now
        return now

    def keep(self, nodes: set[NodeId]) -> None:
        """Forget all other nodes."""
        for node in self._heard.keys() - nodes:
            del self._heard[node]
