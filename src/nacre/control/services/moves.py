"""Moves: a machine is taken off a node that lives, and placed on another. The rules, and every change of a move's row.

Called by `move_requests` for users, `drains` for operators, the scheduler's services to make room, and by the
reconciler of moves. A move is a machine of states (`model.moves`); what is next follows from rows (`move_steps`).

The newest intent of a user wins, in every state of a move:

| asked for         | pending, migrating: runs   | stopping: is told to be off    | starting: is on its new node   |
|                   | where it is                |                                |                                |
|-------------------|----------------------------|--------------------------------|--------------------------------|
| start, resume     | done there, moves then     | moves, and runs on the target  | done there                     |
| stop, with force  | done there, moves as off   | off at once with force; moves  | done there: has arrived as off |
| pause             | done there, moves then     | moves, and is paused there     | done there: has arrived paused |
| reboot, reset     | done there, moves then     | moves, which is a restart      | done there                     |
| update            | room is sought for the     | the target is asked again when | done there                     |
|                   | new size                   | it leaves; if that has no room |                                |
|                   |                            | any more, another is sought    |                                |
| delete            | the move is aborted        | the move is aborted            | the move is aborted            |
| guest powers off  | moves as off               | moves as off                   | has arrived as off             |

A machine that is being copied goes back to pending for all of these but the first, unless all of it is on the target
by then: then it is handed over, and the intent is carried out there.

Locks are taken in this order: groups of machines (`vm_groups`), nodes, drains, machines, moves; of each kind in the
order of their ids.
"""

from dataclasses import replace

from nacre.control.services import events, live_moves, migrations, move_targets, relocation
from nacre.control.services.move_steps import End, HandOver, Leave, Order, Seek, Step, TakeBack, Wait, next_step
from nacre.control.store import drains, move_streams, nodes, vms
from nacre.control.store import moves as store
from nacre.control.store.db import Tx
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import MOVES, VMS, node_topic
from nacre.errors import ConflictError
from nacre.model.events import SYSTEM, Actor
from nacre.model.ids import DrainId, MoveId, NodeId
from nacre.model.moves import BY_RESTART, MOVE_ENDS, LeaveReason, MoveMethod, MoveReason, MoveState, MoveTerms, step
from nacre.model.placement import Decision
from nacre.model.vms import Desired

_FORCED = frozenset({MoveReason.EVACUATION})
"""Guests are not asked."""


def drawn_up(
    tx: Tx,
    row: VmRow,
    *,
    reason: MoveReason,
    source: NodeId,
    pinned: NodeId | None = None,
    drain: DrainId | None = None,
    terms: MoveTerms = BY_RESTART,
    created_by: str,
) -> MoveRow:
    """Return a move that has not begun and is not stored."""
    now = tx.now()
    return MoveRow(
        id=MoveId(tx.new_id("move")),
        vm=row.id,
        vm_name=row.name,
        project=row.project,
        reason=reason,
        state=MoveState.PENDING,
        source=source,
        pinned=pinned,
        drain=drain,
        method=terms.method,
        bandwidth_bytes=terms.bandwidth_bytes,
        downtime_ms=terms.downtime_ms,
        created_by=created_by,
        created_at=now,
        updated_at=now,
    )


async def begin(
    tx: Tx,
    row: VmRow,
    *,
    reason: MoveReason,
    source: NodeId,
    pinned: NodeId | None = None,
    terms: MoveTerms = BY_RESTART,
    created_by: str,
) -> MoveRow:
    """Store a move of a machine that this transaction has locked. Raises ConflictError if it is in another.

    One that makes room stops at once, because where it goes is no condition: it will wait like a new machine.
    """
    move = drawn_up(tx, row, reason=reason, source=source, pinned=pinned, terms=terms, created_by=created_by)
    await store.add(tx, move)
    if reason is MoveReason.PREEMPTION:
        move = await _stop(tx, move, row, message="it makes room for a machine of higher priority")
    tx.wake(MOVES)
    return move


async def advance(tx: Tx, move: MoveId) -> bool:
    """Do what is next for a move, unless that is to find a target. Say whether anything changed. May be repeated."""
    found = await store.get(tx, move)
    if found is None or found.state in MOVE_ENDS:
        return False
    now, vm, source, target = await _locked(tx, found, found.target)
    if now is None or now.target != found.target:
        return False
    stream = await move_streams.get(tx, now.stream)
    todo = next_step(now, vm, source, target, tx.now(), stream)
    match todo:
        case Leave() if vm is not None:
            await _leave(tx, now, vm, target)
            return True
        case HandOver() if vm is not None and target is not None:
            await migrations.hand_over(tx, now, vm, target)
            return True
        case Order() if vm is not None:
            await store.save(tx, now, replace(now, ordered=True))
            await _write_vm(tx, vm)
            return True
        case _:
            pass
    return await _carry_out(tx, todo, now, vm)


async def accept_target(tx: Tx, move: MoveId, decision: Decision) -> bool:
    """Reserve room on the node that was chosen and tell the source to stop the machine, if all that still holds.

    False when it does not: it is to be decided again. Of a drain no more than its number are on their way at once.
    """
    found = await store.get(tx, move)
    if found is None or decision.node is None:
        return False
    await move_targets.hold_group(tx, found)
    now, vm, source, target = await _locked(tx, found, decision.node)
    if now is None or vm is None or target is None:
        return False
    if not isinstance(next_step(now, vm, source, None, tx.now()), Seek) or not await _has_turn(tx, now):
        return False
    if await move_targets.refusal(tx, now, vm, target.id) or await move_targets.breaks_rules(tx, now, vm, target.id):
        return False
    why = live_moves.why_not(now, vm, source, target)
    chosen = replace(now, target=target.id, decision=decision, stopped_because=why)
    if live_moves.wanted(now) and vm.desired is not Desired.STOPPED and not why:
        begun = await migrations.begin(tx, now, chosen, target)
        _tell(tx, begun, "vm.moving", f"machine {begun.vm_name} is moved while it runs: goes to {target.name}")
        return True
    if now.method is MoveMethod.LIVE:
        return False
    await store.save(tx, now, chosen)
    await _stop(tx, chosen, vm, message=f"goes to {target.name}" + (f", stopped and started: {why}" if why else ""))
    return True


async def refuse_target(tx: Tx, move: MoveId, generation: int, message: str) -> bool:
    """End a move that leads nowhere, unless the machine has changed since that was found out."""
    found = await store.get(tx, move)
    if found is None:
        return False
    vm = await vms.get(tx, found.vm, lock=True)
    now = await store.get(tx, found.id, lock=True)
    if now is None or now.state is not MoveState.PENDING or vm is None or vm.generation != generation:
        return False
    earlier = f" ({now.message})" if now.message else ""
    return await _carry_out(tx, End(MoveState.FAILED, message + earlier), now, vm)


async def abort(tx: Tx, move: MoveRow, *, message: str, actor: Actor = SYSTEM) -> bool:
    """Take a move back while the machine has not left its node; False if it has ended.

    Raises ConflictError once the machine belongs to its new node.
    """
    vm = await vms.get(tx, move.vm, lock=True)
    now = await store.get(tx, move.id, lock=True)
    if now is None or now.state in MOVE_ENDS:
        return False
    if now.state is MoveState.STARTING:
        raise ConflictError(
            "move_too_late",
            f"machine {now.vm_name} has left its node already and starts on the new one",
            hint="let it finish, and move it again if it should go back",
        )
    return await _carry_out(tx, End(MoveState.ABORTED, message), now, vm, actor=actor)


async def hurry(tx: Tx, move: MoveRow) -> None:
    """Make an evacuation of a move: the guest is not asked any more."""
    vm = await vms.get(tx, move.vm, lock=True)
    now = await store.get(tx, move.id, lock=True)
    if vm is None or now is None or now.state not in {MoveState.PENDING, MoveState.MIGRATING, MoveState.STOPPING}:
        return
    await store.save(tx, now, replace(now, reason=MoveReason.EVACUATION))
    if now.state is MoveState.STOPPING and vm.moving == now.id:
        await _write_vm(tx, replace(vm, force_stop=True))


async def with_deletion(tx: Tx, row: VmRow) -> VmRow:
    """End the move of a machine that is being deleted; return its row, which the caller stores."""
    move = await store.of_vm(tx, row.id, lock=True)
    if move is None:
        return row
    await _end(tx, move, End(MoveState.ABORTED, "the machine is being deleted"))
    return replace(row, moving=None)


async def node_lost(tx: Tx, node: NodeId) -> None:
    """Look again at the moves to a node that has just been found to be out of reach, whose row must be locked.

    Machines that have not left for it stay where they are and get another target; those that have belong to it. Moves
    from the node wait until it is back, or until their machines are taken off it.
    """
    lost = await nodes.get(tx, node)
    for move in await store.touching(tx, node):
        if move.target != node:
            continue
        vm = await vms.get(tx, move.vm, lock=True)
        now = await store.get(tx, move.id, lock=True)
        if now is None or now.state in MOVE_ENDS or now.target != node:
            continue
        source = await nodes.get(tx, now.source)
        todo = next_step(now, vm, source, lost, tx.now(), await move_streams.get(tx, now.stream))
        if not isinstance(todo, Leave):
            await _carry_out(tx, todo, now, vm)


async def node_removed(tx: Tx, node: NodeId) -> None:
    """End or turn back the moves that have to do with a node which is being removed and has no machines any more."""
    for move in await store.touching(tx, node):
        vm = await vms.get(tx, move.vm, lock=True)
        now = await store.get(tx, move.id, lock=True)
        if now is None or now.state in MOVE_ENDS or (now.state is MoveState.STARTING and now.target != node):
            continue
        source = await nodes.get(tx, now.source) if now.source != node else None
        stream = await move_streams.get(tx, now.stream)
        await _carry_out(tx, next_step(now, vm, source, None, tx.now(), stream), now, vm)


async def _locked(
    tx: Tx, move: MoveRow, target: NodeId | None
) -> tuple[MoveRow | None, VmRow | None, NodeRow | None, NodeRow | None]:
    """Lock both nodes, the drain, the machine and the move, in this order. No move if it has ended."""
    there = {node.id: node for node in await nodes.every(tx, {move.source, target or move.source}, lock=True)}
    if move.drain is not None:
        await drains.get(tx, move.drain, lock=True)
    vm = await vms.get(tx, move.vm, lock=True)
    now = await store.get(tx, move.id, lock=True)
    if now is not None and now.state in MOVE_ENDS:
        now = None
    return now, vm, there.get(move.source), there.get(target) if target is not None else None


async def _has_turn(tx: Tx, move: MoveRow) -> bool:
    """Whether the drain that a move belongs to lets another machine go now. The drain's row is locked."""
    if move.drain is None:
        return True
    drain = await drains.get(tx, move.drain)
    return drain is not None and drain.ended_at is None and await store.on_their_way(tx, drain.id) < drain.parallel


async def _stop(tx: Tx, move: MoveRow, vm: VmRow, *, message: str) -> MoveRow:
    """Have the source switch the machine off."""
    now = replace(move, state=step(move.state, MoveState.STOPPING), message=message, updated_at=tx.now())
    await store.save(tx, move, now)
    force = vm.force_stop if vm.desired is Desired.STOPPED else False
    await _write_vm(tx, replace(vm, moving=now.id, force_stop=force or now.reason in _FORCED))
    _tell(tx, now, "vm.moving", f"machine {now.vm_name} is moved: {message} ({now.reason})")
    return now


async def _leave(tx: Tx, move: MoveRow, vm: VmRow, target: NodeRow | None) -> None:
    """The machine is off. Both nodes' rows are locked."""
    if target is not None:
        why = await move_targets.refusal(tx, move, vm, target.id)
        if why:
            await _carry_out(tx, TakeBack(f"{target.name} cannot take it any more: {why}"), move, vm)
            return
        vm = replace(vm, decision=move.decision)
    await relocation.detach(
        tx,
        replace(vm, force_stop=vm.force_stop and vm.desired is Desired.STOPPED),
        reason=LeaveReason(move.reason.value),
        to=move.target,
        to_name=target.name if target is not None else "",
    )
    if target is None:
        await _end(tx, move, End(MoveState.DONE, "it has left its node and waits for room"))
        return
    state = step(move.state, MoveState.STARTING)
    await store.save(tx, move, replace(move, state=state, message="", updated_at=tx.now()))
    tx.wake(MOVES)


async def _carry_out(tx: Tx, todo: Step, move: MoveRow, vm: VmRow | None, *, actor: Actor = SYSTEM) -> bool:
    """Change the rows of a move and its machine, which are locked; say whether anything changed."""
    match todo:
        case TakeBack(message=message):
            state = step(move.state, MoveState.PENDING)
            changed = replace(
                move, state=state, target=None, decision=None, ordered=False, message=message, updated_at=tx.now()
            )
            await store.save(tx, move, changed)
            await _stay(tx, move, vm)
            _tell(tx, changed, "vm.move_delayed", f"machine {move.vm_name} stays for now: {message}")
            tx.wake(MOVES, VMS)
            return True
        case End():
            await _stay(tx, move, vm)
            await _end(tx, move, todo, actor=actor)
            return True
        case Wait(message=message) if message != move.message and move.state is not MoveState.STOPPING:
            await store.save(tx, move, replace(move, message=message))
            return True
        case _:
            return False


async def _stay(tx: Tx, move: MoveRow, vm: VmRow | None) -> None:
    """Let a machine that has not left its node go on there."""
    if vm is not None and vm.moving == move.id:
        force = vm.force_stop and vm.desired is Desired.STOPPED
        await _write_vm(tx, replace(vm, moving=None, force_stop=force))
    elif vm is not None and move.state is MoveState.MIGRATING and move.ordered and vm.node == move.source:
        await _write_vm(tx, vm)  # withdraws the order: the agent believes that to a newer generation only
    migrations.tell_target(tx, move)


async def _write_vm(tx: Tx, row: VmRow) -> None:
    """Store new intent for the node of a machine."""
    await vms.save(tx, replace(row, generation=row.generation + 1, updated_at=tx.now()))
    if row.node is not None:
        tx.wake(node_topic(row.node))


_PAST = {MoveState.DONE: "vm.move_done", MoveState.ABORTED: "vm.move_aborted", MoveState.FAILED: "vm.move_failed"}


async def _end(tx: Tx, move: MoveRow, end: End, *, actor: Actor = SYSTEM) -> None:
    now = tx.now()
    migrations.tell_target(tx, move)
    state = step(move.state, end.state)
    await store.save(tx, move, replace(move, state=state, message=end.message, updated_at=now, ended_at=now))
    said = {
        MoveState.DONE: f"machine {move.vm_name} has been moved",
        MoveState.ABORTED: f"the move of machine {move.vm_name} was called off",
        MoveState.FAILED: f"machine {move.vm_name} was not moved",
    }[state]
    if move.state is MoveState.STARTING and state is MoveState.FAILED:
        said = f"machine {move.vm_name} was moved and does not run"
    _tell(tx, move, _PAST[state], f"{said}: {end.message}" if end.message else said, actor=actor)
    tx.wake(MOVES, VMS)


def _tell(tx: Tx, move: MoveRow, event: str, message: str, *, actor: Actor = SYSTEM) -> None:
    events.emit(
        tx,
        type=event,
        actor=actor,
        noun="vm",
        object_id=move.vm,
        object_name=move.vm_name,
        project=move.project,
        message=message,
        details={
            "move": move.id,
            "reason": move.reason.value,
            "source": move.source,
            "target": move.target,
            "drain": move.drain,
        },
    )
