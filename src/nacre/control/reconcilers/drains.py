"""Drains end when their moves have, or when their time is over. Run in every replica; each change is made once."""

from nacre.control.reconcilers.loop import Loop
from nacre.control.services import drains
from nacre.control.store.db import Database
from nacre.control.wake import MOVES, NODES


class DrainReconciler:
    """Carries drains to their end."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def loop(self) -> Loop:
        """Return the loop to run."""
        return Loop("drains", self._db.wakes, (MOVES, NODES), self.once)

    async def once(self) -> float | None:
        """Look at every drain that runs. Due again when the next deadline passes."""
        async with self._db.read() as rd:
            running, left = await drains.due(rd)
        for drain in running:
            async with self._db.write() as tx:
                await drains.advance(tx, drain)
        return left
