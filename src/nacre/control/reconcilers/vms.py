"""Machines that wait for a node get one. Run by `main` in every replica; of two that choose, one transaction wins.

There is no claim to take: a placement is written only if the machine still waits with the same generation and the node
still has room, both checked under locks. A second decider loses its time and nothing else.
"""

from nacre.control.reconcilers.loop import Loop
from nacre.control.scheduler.former import NoPlacement, place
from nacre.control.scheduler.snapshot import Snapshot
from nacre.control.services import vm_placement
from nacre.control.services.vm_placement import Placed, Refused, Waiting
from nacre.control.store.db import Database
from nacre.control.wake import NODES, VMS

BATCH = 50
"""Placements in one transaction, so that none is long."""


class Placer:
    """Gives nodes to machines."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def loop(self) -> Loop:
        """Return the loop to run."""
        return Loop("vms", self._db.wakes, (VMS, NODES), self.once)

    async def once(self) -> float | None:
        """Place what can be placed. Due again at once if another took the room meanwhile."""
        async with self._db.read() as rd:
            waiting = await vm_placement.waiting(rd)
            if not waiting:
                return None
            room = await vm_placement.room(rd)
        placed, refused = decide(waiting, room)
        lost = 0
        for start in range(0, len(placed), BATCH):
            async with self._db.write() as tx:
                lost += await vm_placement.place(tx, placed[start : start + BATCH])
        news = [one for one in refused if vm_placement.is_news(one)]
        for start in range(0, len(news), BATCH):
            async with self._db.write() as tx:
                await vm_placement.refuse(tx, news[start : start + BATCH])
        return 0.0 if lost else None


def decide(waiting: list[Waiting], room: Snapshot) -> tuple[list[Placed], list[Refused]]:
    """Choose for each machine in turn, counting in those placed before it. Pure."""
    placed: list[Placed] = []
    refused: list[Refused] = []
    for one in waiting:
        choice = place(one.request, room)
        if isinstance(choice, NoPlacement):
            refused.append(Refused(waiting=one, why=choice))
        else:
            placed.append(Placed(waiting=one, node=choice.node))
            room = room.with_machine(choice.node, one.request)
    return placed, refused
