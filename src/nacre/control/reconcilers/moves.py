"""Moves go on: targets are found, machines that are off leave, those that run have arrived. Run in every replica.

Nothing is claimed: each step is checked again under locks, so of two replicas that take it one changes nothing.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nacre.control.reconcilers.loop import Loop
from nacre.control.services import live_moves, move_targets, moves
from nacre.control.services.move_steps import Seek, Step, Wait, next_step
from nacre.control.store import drains, move_streams, nodes, vms
from nacre.control.store import moves as store
from nacre.control.store.db import Database, Read
from nacre.control.store.moves import MoveRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import MOVES, NODES
from nacre.model.ids import DrainId, MoveId
from nacre.model.moves import MoveState
from nacre.model.placement import Decision

MOST = 2000
"""Moves looked at in one round; the rest have their turn when these have ended."""
AGAIN_S = 0.2
"""When another decider took the room that was chosen."""
AGAIN_LIVE_S = 1.0
"""While machines are copied: nobody rings when nothing is heard any more."""


_ON_THEIR_WAY = frozenset({MoveState.MIGRATING, MoveState.STOPPING, MoveState.STARTING})


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one look at the database shows."""

    steps: list[tuple[MoveRow, VmRow | None, Step]]
    slots: dict[DrainId, int]
    """How many more machines of each drain may go now."""
    live: bool = False
    """Whether a machine is copied while it runs, or is about to be again."""

    @property
    def seeking(self) -> list[tuple[MoveRow, VmRow]]:
        """Moves without a target: what must run first, then what is hardest to fit in."""
        found = [(move, vm) for move, vm, todo in self.steps if isinstance(todo, Seek) and vm is not None]
        return sorted(found, key=lambda one: (-one[1].priority, -one[1].reserved_memory_bytes, one[1].id))


class MoveReconciler:
    """Carries out moves."""

    def __init__(self, db: Database, *, chance: Callable[[], float] = random.random) -> None:
        self._db = db
        self._chance = chance
        self._judged: set[MoveId] = set()
        """Moves that wait for their turn and are known to fit somewhere."""

    def loop(self) -> Loop:
        """Return the loop to run."""
        return Loop("moves", self._db.wakes, (MOVES, NODES), self.once)

    async def once(self) -> float | None:
        """Do what can be done now. Due again soon if another decider was faster."""
        async with self._db.read() as rd:
            facts = await load(rd)
        for move, _, todo in facts.steps:
            if _is_news(move, todo):
                async with self._db.write() as tx:
                    await moves.advance(tx, move.id)
        seeking = facts.seeking
        self._judged &= {move.id for move, _ in seeking}
        if not _worth_deciding(seeking, facts.slots, self._judged):
            return AGAIN_LIVE_S if facts.live else None
        async with self._db.read() as rd:
            fleet = await move_targets.everything(rd)
            known = await nodes.every(rd) if any(live_moves.wanted(move) for move, _ in seeking) else []
        lost = False
        for move, vm in seeking:
            decision, message = move_targets.choose(move, vm, fleet, self._chance, known)
            lost |= not await self._decided(move, vm, decision, message, facts.slots)
        return AGAIN_S if lost else AGAIN_LIVE_S if facts.live else None

    async def _decided(
        self, move: MoveRow, vm: VmRow, decision: Decision, message: str, slots: dict[DrainId, int]
    ) -> bool:
        """Write a decision down, or leave a move that fits for its turn. False if it did not hold."""
        if decision.node is None:
            async with self._db.write() as tx:
                await moves.refuse_target(tx, move.id, vm.generation, message)
            return True
        self._judged.add(move.id)
        if move.drain is not None:
            if slots.get(move.drain, 0) <= 0:
                return True
            slots[move.drain] -= 1
        async with self._db.write() as tx:
            return await moves.accept_target(tx, move.id, decision)


async def load(rd: Read) -> Facts:
    """Return every move that has not ended, with what is next for it."""
    found = await store.under_way(rd, limit=MOST)
    if not found:
        return Facts(steps=[], slots={})
    machines = {vm.id: vm for vm in await vms.many(rd, {move.vm for move in found})}
    ends = {move.source for move in found} | {move.target for move in found if move.target is not None}
    there = {node.id: node for node in await nodes.every(rd, ends)}
    of_drains = await drains.many(rd, {move.drain for move in found if move.drain is not None})
    on_their_way = _on_their_way(found)
    slots = {
        drain.id: drain.parallel - on_their_way.get(drain.id, 0)
        for drain in of_drains.values()
        if drain.ended_at is None
    }
    now = rd.now()
    under_way = [move for move in found if move.stream is not None and move.state is MoveState.MIGRATING]
    streams = await move_streams.many(rd, {move.stream for move in under_way if move.stream is not None})
    steps = [
        (
            move,
            vm := machines.get(move.vm),
            next_step(
                move,
                vm,
                there.get(move.source),
                there.get(move.target) if move.target else None,
                now,
                streams.get(move.stream) if move.stream else None,
            ),
        )
        for move in found
    ]
    live = any(move.attempts and move.state in {MoveState.PENDING, MoveState.MIGRATING} for move in found)
    return Facts(steps=steps, slots=slots, live=live)


def _on_their_way(found: Iterable[MoveRow]) -> dict[DrainId, int]:
    counted: dict[DrainId, int] = {}
    for move in found:
        if move.drain is not None and move.state in _ON_THEIR_WAY:
            counted[move.drain] = counted.get(move.drain, 0) + 1
    return counted


def _is_news(move: MoveRow, todo: Step) -> bool:
    match todo:
        case Seek():
            return False
        case Wait(message=message):
            return message != move.message and move.state is not MoveState.STOPPING
        case _:
            return True


def _worth_deciding(seeking: list[tuple[MoveRow, VmRow]], slots: dict[DrainId, int], judged: set[MoveId]) -> bool:
    """Whether one of these can go now, or was never looked at: it is said early if it fits nowhere."""
    return any(move.drain is None or slots.get(move.drain, 0) > 0 or move.id not in judged for move, _ in seeking)
