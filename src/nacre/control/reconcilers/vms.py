"""Machines that wait for a node get one. Run by `main` in every replica; of two that choose, one transaction wins.

There is no claim to take: a placement is written only if the machine still waits with the same generation and the node
still has room, both checked under locks (see `services.vm_placement`). A second decider loses nothing but its time.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace

from nacre.control.reconcilers.loop import Loop
from nacre.control.scheduler.placement import place
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.services import preemptions, vm_placement, volume_room
from nacre.control.services.fleet import LiveFleet
from nacre.control.services.vm_placement import Decided, Waiting, without_own
from nacre.control.services.volume_room import PoolRoom
from nacre.control.store.db import Database
from nacre.control.wake import NODES, VMS
from nacre.model.placement import Decision, Placement

BATCH = 250
"""Machines that are decided upon and written in one transaction, so that none is long."""
FRESH_S = 2.0
"""How long the view of a round is good enough to decide upon: what is written is checked again anyway."""
AGAIN_S = 0.2
"""When a round has placed nothing because others were quicker."""

Shape = tuple[object, ...]


class Placer:
    """Gives nodes to machines."""

    def __init__(
        self, db: Database, live: LiveFleet | None = None, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._db = db
        self._live = live or LiveFleet()
        self._chance = chance
        self._clock = time.monotonic

    def loop(self) -> Loop:
        """Return the loop to run."""
        return Loop("vms", self._db.wakes, (VMS, NODES), self.once)

    async def once(self) -> float | None:
        """Place what can be placed, page by page. Due again soon if another took the room meanwhile."""
        placed, lost, seen = 0, 0, self._clock()
        last: Waiting | None = None
        hopeless: dict[Shape, Decision] = {}
        while True:
            async with self._live.lock:
                async with self._db.read() as rd:
                    page = await vm_placement.waiting(rd, last, limit=BATCH)
                    if page and (not self._live.known or lost or last is None or self._clock() - seen > FRESH_S):
                        await self._live.refresh(rd)
                        seen = self._clock()
                    pools = await volume_room.measure(rd, (one.row for one in page))
                if not page:
                    break
                outcome = await self._page(page, pools, hopeless)
            placed, lost = placed + outcome.placed, lost + outcome.lost
            if len(page) < BATCH:
                break
            last = page[-1]
        if not lost:
            return None
        return 0.0 if placed else AGAIN_S

    async def _page(
        self, page: list[Waiting], pools: PoolRoom, hopeless: dict[Shape, Decision]
    ) -> vm_placement.Outcome:
        """Decide and write one page. Whatever interrupts it, nothing is believed that was not written."""
        outcome = vm_placement.Outcome(placed=0, lost=0)
        try:
            chosen, refused = await decide(page, self._live.fleet, pools, hopeless, self._chance)
            if chosen:
                async with self._db.write() as tx:
                    outcome = await vm_placement.place(tx, chosen, self._live, random=self._chance)
            settled = await preemptions.make_room(self._db, refused, self._live)
            news = [one for one in refused if one.waiting.row.id not in settled and vm_placement.is_news(one)]
            if news:
                async with self._db.write() as tx:
                    await vm_placement.refuse(tx, news)
        except BaseException:
            self._live.forget()
            raise
        return outcome


async def decide(
    page: list[Waiting],
    fleet: Fleet,
    pools: PoolRoom,
    hopeless: dict[Shape, Decision],
    chance: Callable[[], float],
) -> tuple[list[Decided], list[Decided]]:
    """Choose for each machine in turn, counting in those placed before it, and let others work in between.

    What fits nowhere is remembered in `hopeless`: during a round room only gets less, so that a second machine that
    asks for the same need not be tried.
    """
    chosen: list[Decided] = []
    refused: list[Decided] = []
    for waiting in page:
        one = replace(waiting, request=pools.told(waiting.request))
        shape = _shape(one)
        known = hopeless.get(shape) if shape is not None else None
        decision = known or _decide(one, fleet, chance)
        if decision.node is not None:
            pools.take(one.row.id, decision.node)
            chosen.append(Decided(waiting=one, decision=decision))
        else:
            refused.append(Decided(waiting=one, decision=decision))
            if shape is not None:
                hopeless[shape] = decision
        await asyncio.sleep(0)
    return chosen, refused


def _decide(one: Waiting, fleet: Fleet, chance: Callable[[], float]) -> Decision:
    """A machine for which room is being made sees that room as free; it is kept from all others."""
    row, kept = one.row, None
    if row.nominated is not None:
        kept = fleet.room(row.nominated) if fleet.row(row.nominated) is not None else None
    if kept is not None:
        fleet.put(without_own(kept, row))
    decision = place(one.request, fleet, random=chance)
    if kept is not None and decision.node != kept.id:
        fleet.put(kept)
    if decision.node is not None:
        fleet.take(decision.node, one.request)
    return decision


def _shape(one: Waiting) -> Shape | None:
    """What decides whether a machine fits somewhere; None for one that depends on where others are."""
    asked, request = one.request.placement, one.request
    if one.row.nominated is not None or asked.affinity or asked.spread or request.publish:
        return None
    needs = (
        request.cpus,
        request.memory_bytes,
        request.disk_bytes,
        request.hypervisor,
        request.machine,
        request.ha,
        request.needs,
        request.within,
        request.volume,
        request.full,
        request.pools,
    )
    if asked == Placement() and not request.labels:
        return needs
    return (request.project, frozenset(request.labels.items()), repr(asked), *needs)
