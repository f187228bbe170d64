"""Nodes: what operators ask of them. Called by `api` for a caller. What agents say is in `node_signs`."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import drains, moves, node_loss, node_views, volume_attachments
from nacre.control.services.listing import ListQuery
from nacre.control.services.move_steps import HEARD
from nacre.control.services.node_changes import settled_labels
from nacre.control.services.node_events import tell
from nacre.control.services.node_find import find
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import ca as certificates
from nacre.control.store import copies, vms
from nacre.control.store import drains as drain_store
from nacre.control.store import nodes as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.nodes import NodeRow
from nacre.control.wake import MOVES, NODES, node_topic
from nacre.errors import ConflictError, InvalidInputError
from nacre.model.metadata import check_labels
from nacre.model.moves import DrainState, LeaveReason, MoveReason
from nacre.model.nodes import STATE_OF_WISH, NodeState, NodeWish, move
from nacre.model.placement import Taint
from nacre.schema.common import Page
from nacre.schema.moves import NodeDrain, NodeEvacuate
from nacre.schema.nodes import NodeEvacuated, NodeOut, NodeUpdate

TEARDOWN_ALLOWED_FOR = timedelta(minutes=10)
"""How long an operator's word holds if the node does not sync meanwhile."""
HEARD_WITHIN = timedelta(minutes=1)
"""A node in maintenance that was heard so long ago is taken for being there when it goes back to work."""


async def show(rd: Read, caller: Caller, ref: str) -> NodeOut:
    """Return a node, by name or id, with what its host is made of. Raises NotFoundError."""
    return await node_views.shown(rd, await find(rd, caller, ref))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[NodeOut]:
    """Return the nodes. Needs a role on the platform."""
    policy.require(caller, PLATFORM)
    rows, following = await store.page(rd, query)
    return Page(items=await node_views.many(rd, rows), next=following)


async def update(tx: Tx, caller: Caller, ref: str, body: NodeUpdate, *, if_match: str | None = None) -> NodeOut:
    """Change labels, taints and place. The agent's labels stay where no label of the operator's covers them."""
    row = await find(tx, caller, ref, lock=True)
    require_match(if_match, etag_of(row.version))
    changed = row
    if body.labels is not None:
        changed = settled_labels(replace(changed, own_labels=check_labels(body.labels)))
    if body.taints is not None:
        changed = replace(changed, taints=check_taints(body.taints))
    if body.region is not None:
        changed = replace(changed, region=body.region)
    if body.zone is not None:
        changed = replace(changed, zone=body.zone)
    fields = [name for name in ("labels", "taints", "region", "zone") if getattr(row, name) != getattr(changed, name)]
    if not fields and row.own_labels == changed.own_labels:
        return await node_views.shown(tx, row)
    sides = {"before": row, "after": changed}
    details = {side: {name: msgspec.to_builtins(getattr(of, name)) for name in fields} for side, of in sides.items()}
    what = ", ".join(fields) or "labels"
    return await _change(tx, caller, row, changed, "node.updated", f"{what} of node {row.name} changed", details)


def check_taints(taints: tuple[Taint, ...]) -> tuple[Taint, ...]:
    """Return taints, each key and effect once, in order. Raises InvalidInputError for a key that is no label's."""
    for index, taint in enumerate(taints):
        try:
            check_labels({taint.key: taint.value})
        except InvalidInputError as error:
            raise InvalidInputError(
                "invalid_taint",
                f"{taint} is no taint: {error.message}",
                hint="write key=value:no-schedule or key:prefer-no-schedule",
                field=f"taints[{index}]",
            ) from error
    newest = {(taint.key, taint.effect): taint for taint in taints}
    return tuple(newest[name] for name in sorted(newest))


async def cordon(tx: Tx, caller: Caller, ref: str) -> NodeOut:
    """Give the node nothing new. It keeps what it runs."""
    row = await find(tx, caller, ref, lock=True)
    if row.wish is not NodeWish.ACTIVE:
        return await node_views.shown(tx, row)
    changed = _wished(row, NodeWish.CORDONED)
    return await _change(tx, caller, row, changed, "node.cordoned", f"node {row.name} takes nothing new", {})


async def uncordon(tx: Tx, caller: Caller, ref: str) -> NodeOut:
    """Let the node take new machines again: ends a cordon, a drain, or maintenance."""
    row = await find(tx, caller, ref, lock=True)
    if row.wish is NodeWish.ACTIVE:
        return await node_views.shown(tx, row)
    running = await drain_store.of_node(tx, row.id, lock=True)
    if running is not None:
        row = await _stopped(tx, caller, row, NodeWish.ACTIVE)
        return await node_views.shown(tx, row)
    changed = _wished(row, NodeWish.ACTIVE)
    if row.state is NodeState.MAINTENANCE and _unheard(tx, row):
        changed = replace(changed, state=move(changed.state, NodeState.OFFLINE))
    return await _change(tx, caller, row, changed, "node.uncordoned", f"node {row.name} takes machines again", {})


async def drain(tx: Tx, caller: Caller, ref: str, body: NodeDrain) -> NodeOut:
    """Move everything away and keep the node cordoned; guests are asked to shut down. A drain that runs goes on."""
    return await _emptied(tx, caller, ref, body, NodeWish.CORDONED)


async def maintenance(tx: Tx, caller: Caller, ref: str, body: NodeDrain) -> NodeOut:
    """Drain it; once it is empty it may be silent without that being news."""
    return await _emptied(tx, caller, ref, body, NodeWish.MAINTENANCE)


async def abort_drain(tx: Tx, caller: Caller, ref: str) -> NodeOut:
    """End a drain half way: what has not left stays, and the node is again what it was before."""
    row = await find(tx, caller, ref, lock=True)
    running = await drain_store.of_node(tx, row.id, lock=True)
    if running is None:
        raise ConflictError(
            "node_not_draining",
            f"node {row.name} is not being drained",
            hint=f"see how the last drain ended with `nacre node show {row.name}`",
        )
    return await node_views.shown(tx, await _stopped(tx, caller, row, None))


async def evacuate(tx: Tx, caller: Caller, ref: str, body: NodeEvacuate) -> NodeEvacuated:
    """Empty a node in a hurry. One that is heard is drained without asking guests; off one that is not, everything is
    taken at once that surely does not run there any more.
    """
    row = await find(tx, caller, ref, lock=True)
    if row.state in HEARD:
        await drains.start(
            tx,
            row,
            after=NodeWish.CORDONED,
            parallel=body.parallel,
            reason=MoveReason.EVACUATION,
            actor=caller.actor,
            request_id=caller.request_id,
        )
        return NodeEvacuated(node=await node_views.shown(tx, await _again(tx, row)))
    if row.wish is NodeWish.ACTIVE:
        message = f"node {row.name} takes nothing new when it is back"
        await _change(tx, caller, row, _wished(row, NodeWish.CORDONED), "node.cordoned", message, {})
        row = await _again(tx, row)
    taken, left = await node_loss.take_off(
        tx,
        row,
        confirm_dead=body.confirm_dead,
        reason=LeaveReason.EVACUATION,
        actor=caller.actor,
        request_id=caller.request_id,
    )
    _tell_taken(tx, caller, row, "node.evacuated", taken, body.confirm_dead)
    return NodeEvacuated(node=await node_views.shown(tx, await _again(tx, row)), taken=tuple(taken), left=tuple(left))


async def allow_teardown(tx: Tx, caller: Caller, ref: str) -> NodeOut:
    """Let the node's next sync tear down more machines than its guard allows. Holds for ten minutes at most."""
    row = await find(tx, caller, ref, lock=True)
    changed = replace(row, teardown_allowed_at=tx.now())
    message = f"the next sync of node {row.name} may tear down any number of machines"
    return await _change(tx, caller, row, changed, "node.teardown_allowed", message, {})


async def remove(
    tx: Tx,
    caller: Caller,
    ref: str,
    *,
    force: bool = False,
    confirm_dead: bool = False,
    if_match: str | None = None,
) -> None:
    """Forget a node, and make its certificates worthless. Raises ConflictError while it has machines or copies.

    With `force` that of a node out of reach is freed: its machines are placed anew, as `evacuate` would.
    """
    row = await find(tx, caller, ref, lock=True)
    require_match(if_match, etag_of(row.version))
    await _free(tx, caller, row, force=force, confirm_dead=confirm_dead)
    running = await drain_store.of_node(tx, row.id, lock=True)
    if running is not None:
        await drains.stop(tx, row, running, DrainState.ABORTED, message="the node was removed", actor=caller.actor)
    await moves.node_removed(tx, row.id)
    await copies.forget_node(tx, row.id)
    await volume_attachments.node_removed(tx, row.id, row.name, force=force)
    await certificates.revoke(tx, row.id)
    await store.remove(tx, row.id)
    tell(tx, row, "node.deleted", f"node {row.name} was removed", actor=caller.actor, request_id=caller.request_id)
    tx.wake(NODES, MOVES, node_topic(row.id))


async def _free(tx: Tx, caller: Caller, row: NodeRow, *, force: bool, confirm_dead: bool) -> None:
    """Take off what a node still has, if that may be. Raises ConflictError."""
    here = await vms.on_node(tx, row.id)
    if here and not force:
        raise ConflictError(
            "node_has_vms",
            f"node {row.name} has {len(here)} machines",
            hint=f"move them away with `nacre node drain {row.name}`; if its host is gone for good, free them "
            f"with `nacre node delete {row.name} --force --confirm-dead`",
        )
    if here and row.state in HEARD:
        raise ConflictError(
            "node_alive",
            f"node {row.name} is {row.state} and runs {len(here)} machines",
            hint=f"move them away with `nacre node drain {row.name}` or, in a hurry, `nacre node evacuate {row.name}`",
        )
    left = node_loss.stays(row, here, tx.now(), confirm_dead=confirm_dead)
    if left:
        raise ConflictError(
            "node_maybe_alive",
            f"{len(left)} machines of node {row.name} may still run there: {left[0].vm}: {left[0].reason}",
            hint="make sure that the host is off, then repeat with --force --confirm-dead",
        )
    if here:
        taken, _ = await node_loss.take_off(
            tx,
            row,
            confirm_dead=confirm_dead,
            reason=LeaveReason.NODE_REMOVED,
            actor=caller.actor,
            request_id=caller.request_id,
        )
        _tell_taken(tx, caller, row, "node.evacuated", taken, confirm_dead)
    kept = (await copies.counts(tx, [row.id])).get(row.id, 0)
    if kept and not force:
        raise ConflictError(
            "node_has_copies",
            f"node {row.name} keeps {kept} copies of disks that machines left behind when they moved away",
            hint=f"see them with `nacre node copies {row.name}`; delete them with `nacre node discard {row.name}`, "
            f"or forget them with `nacre node delete {row.name} --force`",
        )


async def _emptied(tx: Tx, caller: Caller, ref: str, body: NodeDrain, after: NodeWish) -> NodeOut:
    row = await find(tx, caller, ref, lock=True)
    if row.state not in HEARD and not await _may_rest(tx, row, after):
        raise ConflictError(
            "node_not_reachable",
            f"node {row.name} is {row.state}, so nobody can switch its machines off there",
            hint=f"free what it held with `nacre node evacuate {row.name}`, or wait until it is back",
        )
    if row.state not in HEARD:
        message = f"node {row.name} is in maintenance"
        changed = replace(row, wish=after, state=move(row.state, STATE_OF_WISH[after]))
        return await _change(tx, caller, row, changed, "node.maintenance", message, {})
    await drains.start(
        tx,
        row,
        after=after,
        parallel=body.parallel,
        timeout_s=body.timeout_s,
        method=body.method,
        actor=caller.actor,
        request_id=caller.request_id,
    )
    return await node_views.shown(tx, await _again(tx, row))


async def _may_rest(tx: Tx, row: NodeRow, after: NodeWish) -> bool:
    """Whether a node that is not heard may go into maintenance as it is: it has nothing that could be lost."""
    may = row.state in {NodeState.OFFLINE, NodeState.ENROLLING} and after is NodeWish.MAINTENANCE
    return may and not await vms.on_node(tx, row.id)


async def _stopped(tx: Tx, caller: Caller, row: NodeRow, wish: NodeWish | None) -> NodeRow:
    running = await drain_store.of_node(tx, row.id, lock=True)
    if running is not None:
        message = f"aborted by {caller.actor.name}"
        await drains.stop(
            tx,
            row,
            running,
            DrainState.ABORTED,
            message=message,
            wish=wish,
            actor=caller.actor,
            request_id=caller.request_id,
        )
    return await _again(tx, row)


def _wished(row: NodeRow, wish: NodeWish) -> NodeRow:
    """Return the row of a node that is for something else. Its state follows at once, or when it is back."""
    return replace(row, wish=wish, state=move(row.state, STATE_OF_WISH[wish]) if row.state in HEARD else row.state)


def _unheard(tx: Tx, row: NodeRow) -> bool:
    return row.last_seen_at is None or tx.now() - row.last_seen_at > HEARD_WITHIN


async def _again(tx: Tx, row: NodeRow) -> NodeRow:
    """Return a locked row as this transaction has left it."""
    return await store.get(tx, row.id) or row


def _tell_taken(tx: Tx, caller: Caller, row: NodeRow, event: str, taken: list[str], confirm_dead: bool) -> None:
    if not taken:
        return
    word = f"; {caller.actor.name} says that its host is off" if confirm_dead else ""
    tell(
        tx,
        row,
        event,
        f"{len(taken)} machines were taken off node {row.name}, which is {row.state}{word}",
        actor=caller.actor,
        request_id=caller.request_id,
        details={"vms": taken, "confirm_dead": confirm_dead},
    )


async def _change(
    tx: Tx, caller: Caller, before: NodeRow, after: NodeRow, event: str, message: str, details: Mapping[str, Any]
) -> NodeOut:
    """Store an operator's change and tell of it."""
    row = replace(after, version=before.version + 1, updated_at=tx.now())
    await store.save(tx, before, row)
    tell(tx, row, event, message, actor=caller.actor, request_id=caller.request_id, details=details)
    tx.wake(NODES, node_topic(row.id))
    return await node_views.shown(tx, row)
