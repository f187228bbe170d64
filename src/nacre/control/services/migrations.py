"""Attempts to move machines while they run: how one begins, and the hand-over. Used by `moves`, under its locks.

Nothing but the hand-over puts a machine on its target, and it happens in one transaction: until it commits the source
is the only node that may run the machine, and from then on only the target may, which has waited for that.
"""

from dataclasses import replace

from nacre.control.services import relocation
from nacre.control.store import move_streams
from nacre.control.store import moves as store
from nacre.control.store.db import Tx
from nacre.control.store.move_streams import StreamRow
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import MOVES, node_topic
from nacre.model.ids import StreamId
from nacre.model.moves import LeaveReason, MoveState, step


async def begin(tx: Tx, before: MoveRow, chosen: MoveRow, target: NodeRow) -> MoveRow:
    """Have the target make ready. The machine's own node is not told of anything yet."""
    now = tx.now()
    stream = StreamRow(
        id=StreamId(tx.new_id("stream")),
        move=chosen.id,
        vm=chosen.vm,
        source=chosen.source,
        target=target.id,
        addresses=[],
        created_at=now,
        changed_at=now,
    )
    await move_streams.add(tx, stream)
    after = replace(
        chosen,
        state=step(before.state, MoveState.MIGRATING),
        stream=stream.id,
        ordered=False,
        attempts=before.attempts + 1,
        message="",
        updated_at=now,
    )
    await store.save(tx, before, after)
    tx.wake(node_topic(target.id))
    return after


async def hand_over(tx: Tx, move: MoveRow, vm: VmRow, target: NodeRow) -> None:
    """Make a machine that stands still on two nodes the target's. Both nodes, the machine and the move are locked."""
    await relocation.detach(
        tx,
        replace(vm, decision=move.decision),
        reason=LeaveReason(move.reason.value),
        to=target.id,
        to_name=target.name,
        arrived_by=move.stream,
    )
    state = step(move.state, MoveState.STARTING)
    await store.save(tx, move, replace(move, state=state, message="", updated_at=tx.now()))
    tx.wake(MOVES)


def tell_target(tx: Tx, move: MoveRow) -> None:
    """Have the target of an attempt look again at what was to come."""
    if move.state is MoveState.MIGRATING and move.target is not None:
        tx.wake(node_topic(move.target))
