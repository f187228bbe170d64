"""One replica at a time judges how far nodes can be relied on. Run by `main` on every replica; a lease decides.

Every minute all nodes are read, and those of which something noticeable has changed are written, many at once. What
machines came to is counted from the events since the round before; a new holder of the lease begins with the next.
"""

from dataclasses import dataclass
from datetime import timedelta

from nacre.control.reconcilers.loop import Loop
from nacre.control.services import leases, reliability
from nacre.control.services.reliability import Judged, Terms
from nacre.control.store.db import Database

LEASE = "reliability"
INTERVAL_S = 60.0
TTL = timedelta(seconds=2.5 * INTERVAL_S)


@dataclass
class Summary:
    """The fleet after the last round that this replica made. For the metrics."""

    nodes: int = 0
    written: int = 0
    mean: float = 0.0
    lowest: float = 0.0
    flapping: int = 0


class Reliabilities:
    """Judges, if this replica holds the lease."""

    def __init__(self, db: Database, holder: str, terms: Terms) -> None:
        """`holder` names this process and no other."""
        self._db = db
        self._holder = holder
        self._terms = terms
        self._seen_until: int | None = None
        self.summary = Summary()

    def loop(self) -> Loop:
        """The loop that runs it."""
        return Loop("reliability", self._db.wakes, (), self.round, poll_s=INTERVAL_S)

    async def round(self) -> None:
        """Judge every node once, or leave it to the holder of the lease."""
        async with self._db.write() as tx:
            term = await leases.acquire(tx, LEASE, self._holder, TTL)
        if term is None:
            self._seen_until, self.summary = None, Summary()
            return
        async with self._db.read() as rd:
            told = await reliability.outcomes(rd, after=self._seen_until)
        self._seen_until = told.until  # a round that breaks off loses some outcomes rather than counting them twice
        summary = Summary()
        async for page in reliability.judgements(self._db, self._terms, told):
            _count(summary, page)
            if any(each.news for each in page):
                async with self._db.write() as tx:
                    await leases.guard(tx, LEASE, term)
                    await reliability.save(tx, page)
        summary.mean = round(summary.mean / summary.nodes, 4) if summary.nodes else 0.0
        self.summary = summary


def _count(summary: Summary, page: list[Judged]) -> None:
    scores = [each.now.score for each in page]
    summary.lowest = min(scores) if summary.nodes == 0 else min(summary.lowest, *scores)
    summary.nodes += len(page)
    summary.written += sum(each.news for each in page)
    summary.mean += sum(scores)  # divided by their number in the end
    summary.flapping += sum(each.now.flapping_since is not None for each in page)
