"""For how long each node has surely not renewed its lease, and how many machines may be moved now. Pure.

Both are measured on our own monotonic clock, which is passed in. Time is counted from when a value was first read, not
from when it was written: whatever a node was granted that this value stands for, it had asked for before that.
"""

from collections.abc import Iterable

from nacre.control.store.node_leases import LeaseRow
from nacre.model.ids import NodeId


class Counts:
    """How long the renewals of each node have stood still.

    All counts start anew when we have stood still ourselves, or may have: then it may be due to us that nothing was
    renewed. `stall_s` is how far apart two readings may be.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._since: dict[NodeId, tuple[tuple[int, int], float]] = {}
        self._noted_at: float | None = None

    def restart(self) -> None:
        """Forget everything: every node gets the full time."""
        self._since = {}

    def note(self, rows: Iterable[LeaseRow], now: float) -> None:
        """Take in what was read. `now` is a time after the reading."""
        if self._stood_still(now):
            self.restart()
        self._noted_at = now
        self._since = {row.id: self._kept(row) or (_value(row), now) for row in rows}

    def silence(self, row: LeaseRow, now: float) -> float:
        """Return for how many seconds a node's renewals have been what they are in `row`; 0 if nobody has watched."""
        kept = self._kept(row)
        return 0.0 if kept is None or self._stood_still(now) else now - kept[1]

    def _kept(self, row: LeaseRow) -> tuple[tuple[int, int], float] | None:
        known = self._since.get(row.id)
        return known if known is not None and known[0] == _value(row) else None

    def _stood_still(self, now: float) -> bool:
        return self._noted_at is not None and now - self._noted_at > self._stall_s


def _value(row: LeaseRow) -> tuple[int, int]:
    return row.tenure, row.renewals


class Bucket:
    """How many machines may be taken off lost nodes now: `per_s` in every second, a second's worth at once at most."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s)
        self._tokens = 0.0
        self._at: float | None = None

    def fill(self, now: float) -> None:
        """Count the time since the last filling. The first finds one token, so that nothing waits without reason."""
        gained = 1.0 if self._at is None else (now - self._at) * self._per_s
        self._tokens = min(self._most, self._tokens + gained)
        self._at = now

    def take(self) -> bool:
        """Take one, if there is one."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def next_s(self) -> float:
        """In how many seconds there is one."""
        return max(0.0, (1.0 - self._tokens) / self._per_s)
