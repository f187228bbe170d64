"""One replica at a time forgets old history. Run by `main` on every replica; the lease decides who works."""

from dataclasses import asdict
from datetime import timedelta

import structlog

from nacre.control.reconcilers.loop import Loop
from nacre.control.services import housekeeping, leases
from nacre.control.services.housekeeping import Keep
from nacre.control.store.db import Database

LEASE = "housekeeping"
INTERVAL_S = 600.0
TTL = timedelta(seconds=2 * INTERVAL_S)
"""Longer than the interval, so that the holder stays the same; a dead one is replaced after this."""

log = structlog.get_logger()


class Housekeeper:
    """Forgets, if this replica holds the lease."""

    def __init__(self, db: Database, holder: str, keep: Keep) -> None:
        """`holder` names this process and no other."""
        self._db = db
        self._holder = holder
        self._keep = keep

    def loop(self) -> Loop:
        """The loop that runs it."""
        return Loop("housekeeping", self._db.wakes, (), self.round, poll_s=INTERVAL_S)

    async def round(self) -> None:
        """Work once, or leave it to the holder of the lease."""
        async with self._db.write() as tx:
            term = await leases.acquire(tx, LEASE, self._holder, TTL)
        if term is None:
            return
        async with self._db.write() as tx:
            await leases.guard(tx, LEASE, term)
            forgotten = await housekeeping.tidy(tx, self._keep)
        if forgotten.any:
            log.info("history.forgotten", term=term, **asdict(forgotten))
