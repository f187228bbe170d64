"""Drains: a node is emptied, a few machines at a time. The rules, and every change of a drain's row.

A drain draws up a move for every machine at once, so that one which fits nowhere is said early; `parallel` of them are
on their way at a time, which `moves` sees to. It ends when none of its moves is left: done, or incomplete if machines
stay, whose moves say why. Called by `nodes` for operators and by the reconciler of drains.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from nacre.control.services import moves
from nacre.control.services.move_steps import HEARD
from nacre.control.services.node_events import tell
from nacre.control.store import drains as store
from nacre.control.store import moves as move_store
from nacre.control.store import nodes, vms
from nacre.control.store.db import Read, Tx
from nacre.control.store.drains import DrainRow
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import MOVES, NODES, node_topic
from nacre.model.events import SYSTEM, Actor
from nacre.model.ids import DrainId, VmId
from nacre.model.moves import MOVE_ENDS, DrainState, MoveMethod, MoveReason, MoveState, MoveTerms
from nacre.model.nodes import STATE_OF_WISH, NodeWish, move
from nacre.model.vms import Desired

DEFAULT_PARALLEL = 4

_ENDS_AS = {
    DrainState.DONE: ("node.drained", "is empty"),
    DrainState.INCOMPLETE: ("node.drain_incomplete", "keeps machines that could not be moved"),
    DrainState.ABORTED: ("node.drain_aborted", "is not drained any more"),
    DrainState.TIMED_OUT: ("node.drain_timed_out", "was not drained in time"),
}


async def start(
    tx: Tx,
    node: NodeRow,
    *,
    after: NodeWish,
    parallel: int = DEFAULT_PARALLEL,
    timeout_s: float | None = None,
    reason: MoveReason = MoveReason.DRAIN,
    method: MoveMethod = MoveMethod.RESTART,
    actor: Actor,
    request_id: str = "",
) -> DrainRow:
    """Begin to empty a node, whose row is locked. While a drain of it runs, that one goes on, and is returned.

    A running one takes over what is asked for besides: maintenance afterwards, and not to ask guests any more.
    """
    running = await store.of_node(tx, node.id, lock=True)
    if running is not None:
        return await _taken_over(tx, running, after=after, reason=reason)
    now = tx.now()
    drain = DrainRow(
        id=DrainId(tx.new_id("drain")),
        node=node.id,
        node_name=node.name,
        state=DrainState.RUNNING,
        reason=reason,
        wish_before=node.wish,
        wish_after=NodeWish.MAINTENANCE if node.wish is NodeWish.MAINTENANCE else after,
        parallel=parallel,
        method=method,
        created_by=actor.name,
        created_at=now,
        deadline=None if timeout_s is None else now + timedelta(seconds=timeout_s),
    )
    await store.add(tx, drain)
    drawn = await _draw_up(tx, drain, [])
    tell(
        tx,
        node,
        "node.drain_started",
        f"node {node.name} is being drained of {drawn} machines",
        actor=actor,
        request_id=request_id,
        details={"drain": drain.id, "parallel": parallel, "reason": reason.value},
    )
    await _wish(tx, node, NodeWish.DRAINING)
    tx.wake(MOVES)
    return drain


async def stop(
    tx: Tx,
    node: NodeRow,
    drain: DrainRow,
    state: DrainState,
    *,
    message: str,
    wish: NodeWish | None = None,
    actor: Actor = SYSTEM,
    request_id: str = "",
) -> None:
    """End a drain half way; both rows are locked. What has not left its node stays there, what has starts elsewhere.

    The node becomes again what it was for before, or what `wish` says.
    """
    for each in await move_store.of_drain(tx, drain.id):
        if each.state in {MoveState.PENDING, MoveState.MIGRATING, MoveState.STOPPING}:
            await moves.abort(tx, each, message=message, actor=actor)
    await _end(tx, node, drain, state, message, wish or drain.wish_before, actor=actor, request_id=request_id)


async def advance(tx: Tx, drain: DrainId) -> bool:
    """Give a drain what it lacks, or end it. Say whether anything changed. May be repeated."""
    found = await store.get(tx, drain)
    if found is None or found.ended_at is not None:
        return False
    node = await nodes.get(tx, found.node, lock=True)
    now = await store.get(tx, drain, lock=True)
    if node is None or now is None or now.ended_at is not None:
        return False
    if now.deadline is not None and now.deadline <= tx.now():
        await stop(tx, node, now, DrainState.TIMED_OUT, message="the drain took too long")
        return True
    known = await move_store.of_drain(tx, drain)
    if await _draw_up(tx, now, known):
        tx.wake(MOVES)
        return True
    if any(each.state not in MOVE_ENDS for each in known):
        return False
    left = await vms.on_node(tx, node.id)
    tried = {each.vm for each in known}
    if any(row.id not in tried or row.desired is Desired.ABSENT for row in left):
        return False  # somebody else moves or deletes it
    if left:
        message = f"{len(left)} machines stay, of {len(known)} that were to be moved"
        await _end(tx, node, now, DrainState.INCOMPLETE, message, NodeWish.CORDONED)
    else:
        await _end(tx, node, now, DrainState.DONE, "", now.wish_after)
    return True


async def due(rd: Read) -> tuple[list[DrainId], float | None]:
    """Return the drains that run, and in how many seconds the next of them takes too long."""
    running = await store.running(rd)
    left = [(drain.deadline - rd.now()).total_seconds() for drain in running if drain.deadline is not None]
    return [drain.id for drain in running], max(0.0, min(left)) if left else None


async def _taken_over(tx: Tx, running: DrainRow, *, after: NodeWish, reason: MoveReason) -> DrainRow:
    changed = running
    if after is NodeWish.MAINTENANCE:
        changed = replace(changed, wish_after=after)
    if reason is MoveReason.EVACUATION and running.reason is not reason:
        changed = replace(changed, reason=reason)
        for each in await move_store.of_drain(tx, running.id):
            await moves.hurry(tx, each)
    await store.save(tx, running, changed)
    return changed


async def _draw_up(tx: Tx, drain: DrainRow, known: Sequence[MoveRow]) -> int:
    """Add a move for every machine on the node that has none, and say how many those are."""
    tried = {each.vm for each in known}
    new = [row.id for row in await vms.on_node(tx, drain.node) if row.id not in tried]
    locked: list[VmRow] = await vms.on_node(tx, drain.node, new, lock=True) if new else []
    other = {each.vm for each in await move_store.touching(tx, drain.node)} if locked else set[VmId]()
    drawn = [
        moves.drawn_up(
            tx,
            row,
            reason=drain.reason,
            source=drain.node,
            drain=drain.id,
            terms=MoveTerms(method=drain.method),
            created_by=drain.created_by,
        )
        for row in locked
        if row.id not in other and row.desired is not Desired.ABSENT
    ]
    await move_store.add_many(tx, drawn)
    return len(drawn)


async def _end(
    tx: Tx,
    node: NodeRow,
    drain: DrainRow,
    state: DrainState,
    message: str,
    wish: NodeWish,
    *,
    actor: Actor = SYSTEM,
    request_id: str = "",
) -> None:
    await store.save(tx, drain, replace(drain, state=state, message=message, ended_at=tx.now()))
    event, said = _ENDS_AS[state]
    counts = (await move_store.counts(tx, [drain.id])).get(drain.id, {})
    tell(
        tx,
        node,
        event,
        f"node {node.name} {said}" + (f": {message}" if message else ""),
        actor=actor,
        request_id=request_id,
        details={"drain": drain.id, "moves": {name.value: count for name, count in counts.items()}},
    )
    await _wish(tx, node, wish)
    tx.wake(MOVES)


async def _wish(tx: Tx, node: NodeRow, wish: NodeWish) -> None:
    """Store what a node is for from now on. Its state follows at once if it is heard, else when it is back."""
    state = move(node.state, STATE_OF_WISH[wish]) if node.state in HEARD else node.state
    changed = replace(node, wish=wish, state=state, version=node.version + 1, updated_at=tx.now())
    await nodes.save(tx, node, changed)
    tx.wake(NODES, node_topic(node.id))
