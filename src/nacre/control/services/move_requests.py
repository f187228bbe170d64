"""Moves as callers ask for them, see them and take them back. The rules are in `moves`."""

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import live_moves, moves, vms
from nacre.control.services.listing import ListQuery
from nacre.control.services.move_steps import HEARD
from nacre.control.store import moves as store
from nacre.control.store import nodes, projects
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Read, Tx
from nacre.control.store.moves import MoveRow, MoveView
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.errors import ConflictError, ExhaustedError, NotFoundError
from nacre.model.ids import NodeId
from nacre.model.moves import MOVE_ENDS, MoveMethod, MoveReason, MoveState, MoveTerms
from nacre.model.nodes import NodeState
from nacre.model.vms import Desired
from nacre.schema.common import Page, ProjectRef, VmRef
from nacre.schema.moves import LiveProgress, MoveOut, VmMove
from nacre.schema.vms import NodeRef

_OTHERWISE = (
    "name another node, or move it with --method restart, which starts it there with a fresh root disk and leaves "
    "what it has written, and its checkpoints, behind as a copy"
)
_KEPT = "copy what is in the volume to one of a pool that other nodes reach, or detach it; a restart does not help"


async def begin(tx: Tx, caller: Caller, ref: str, body: VmMove, *, project: str | None = None) -> MoveOut:
    """Move a machine to the node that is named, which only who may see nodes can name, or to the scheduler's choice."""
    row = await vms.resolve(tx, caller, ref, project)
    source = await _leaves(tx, row)
    target = await _anywhere(tx, row) if body.to is None else await _target(tx, caller, row, body.to)
    locked = await vm_store.get(tx, row.id, lock=True)
    if locked is None or locked.node != source.id:
        raise ConflictError("vm_changed", f"machine {row.name} has just left its node", hint="look where it is now")
    if body.method is MoveMethod.LIVE:
        _check_live(locked, source, target)
    made = await moves.begin(
        tx,
        locked,
        reason=MoveReason.USER,
        source=source.id,
        pinned=target.id if target is not None else None,
        terms=MoveTerms(method=body.method, bandwidth_bytes=body.bandwidth_bytes, downtime_ms=body.downtime_ms),
        created_by=caller.actor.name,
    )
    return await _shown(tx, made)


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[MoveOut]:
    """Return the moves of machines that the caller may see."""
    visible = policy.visible_projects(caller)
    if query.project is not None:
        owner = await projects.get(rd, query.project)
        if owner is None or (visible is not None and owner.id not in visible):
            return Page(items=[])
        visible = frozenset({owner.id})
    rows, following = await store.page(rd, query, visible)
    return Page(items=[out(row) for row in rows], next=following)


async def show(rd: Read, caller: Caller, move: str) -> MoveOut:
    """Return a move. Raises NotFoundError."""
    return out(await _find(rd, caller, move))


async def abort(tx: Tx, caller: Caller, move: str) -> MoveOut:
    """Take a move back while its machine has not left. What an operator or the platform began, only operators may.

    Raises ConflictError when it is too late.
    """
    row = await _find(tx, caller, move)
    if row.reason is not MoveReason.USER:
        policy.require(caller, PLATFORM)
    if row.state in MOVE_ENDS or not await moves.abort(
        tx, row, message=f"aborted by {caller.actor.name}", actor=caller.actor
    ):
        raise ConflictError("move_ended", f"the move has ended: {row.state}", hint="there is nothing left to abort")
    return await _shown(tx, row)


def out(row: MoveView) -> MoveOut:
    """Show a row."""
    return MoveOut(
        id=row.id,
        vm=VmRef(id=row.vm, name=row.vm_name),
        project=ProjectRef(id=row.project, name=row.project_name),
        reason=row.reason,
        state=row.state,
        source=NodeRef(id=row.source, name=row.source_name or row.source),
        target=_node(row.target, row.target_name),
        pinned=_node(row.pinned, row.pinned_name),
        drain=row.drain,
        method=row.method,
        way=_way(row),
        stopped_because=row.stopped_because,
        attempts=row.attempts,
        live=_live(row),
        message=row.message,
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        ended_at=row.ended_at,
    )


def _way(row: MoveView) -> MoveMethod | None:
    match row.state:
        case MoveState.MIGRATING:
            return MoveMethod.LIVE
        case MoveState.STOPPING:
            return MoveMethod.RESTART
        case MoveState.STARTING | MoveState.DONE:
            return MoveMethod.LIVE if row.ordered else MoveMethod.RESTART
        case _:
            return None


def _live(row: MoveView) -> LiveProgress | None:
    if row.sending is None or row.arrival is None:
        return None
    return LiveProgress(
        sending=row.sending,
        arrival=row.arrival,
        transferred_bytes=row.transferred_bytes or 0,
        remaining_bytes=row.remaining_bytes or 0,
        downtime_ms=row.stood_still_ms,
    )


def _node(node: NodeId | None, name: str | None) -> NodeRef | None:
    return None if node is None else NodeRef(id=node, name=name or node)


async def _leaves(rd: Read, row: VmRow) -> NodeRow:
    """Return the node that a machine can leave. Raises ConflictError if it cannot."""
    if row.desired is Desired.ABSENT:
        raise ConflictError("vm_being_deleted", f"machine {row.name} is being deleted", hint="there is nothing to move")
    source = None if row.node is None else await nodes.get(rd, row.node)
    if source is None:
        raise ConflictError(
            "vm_not_placed",
            f"machine {row.name} is on no node yet",
            hint=f"see what it waits for with `nacre vm show {row.name}`",
        )
    if source.state not in HEARD:
        raise ConflictError(
            "node_not_reachable",
            f"the node of {row.name} is {source.state}, so nobody can switch it off there",
            hint="wait until it is back, or have an operator evacuate it with `nacre node evacuate`",
        )
    return source


def _check_live(row: VmRow, source: NodeRow, target: NodeRow | None) -> None:
    """Raise ConflictError if the machine cannot be moved while it runs."""
    why = live_moves.hindrance(row, source)
    if not why and target is not None:
        why = live_moves.obstacle(row, source, target)
    if why:
        raise ConflictError(
            "live_move_impossible",
            f"machine {row.name} cannot be moved while it runs: {why}",
            hint=_KEPT if live_moves.is_kept(row) else _OTHERWISE,
            field="method",
        )


async def _anywhere(rd: Read, row: VmRow) -> None:
    """Raise ExhaustedError if there is no node but the one that a machine would leave."""
    if await nodes.ids(rd, limit=2) == [row.node]:
        raise ExhaustedError(
            "no_other_node",
            f"there is no other node that machine {row.name} could go to",
            hint="add one with `nacre node token create`",
        )


async def _target(rd: Read, caller: Caller, row: VmRow, ref: str) -> NodeRow:
    policy.require(caller, PLATFORM, action="node:view")
    target = await nodes.get(rd, ref)
    if target is None:
        raise NotFoundError("node_not_found", f"there is no node {ref}", hint="list them with `nacre node list`")
    if target.id == row.node:
        raise ConflictError(
            "vm_already_there", f"machine {row.name} is on node {target.name}", hint="name another node, or none"
        )
    if target.state is not NodeState.READY:
        raise ConflictError(
            "node_not_ready",
            f"node {target.name} is {target.state} and takes nothing new",
            hint="name a node that is ready, or none",
        )
    return target


async def _find(rd: Read, caller: Caller, move: str) -> MoveView:
    missing = NotFoundError("move_not_found", f"there is no move {move}", hint="list them with `nacre move list`")
    row = await store.view(rd, move)
    if row is None:
        caller.checked = True
        raise missing
    policy.require(caller, row.project, missing=missing)
    return row


async def _shown(tx: Tx, move: MoveRow) -> MoveOut:
    row = await store.view(tx, move.id)
    assert row is not None, "a move outlives the transaction that made it"
    return out(row)
