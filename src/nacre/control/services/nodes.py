"""Nodes: what operators ask of them, and what their agents say about them.

The upper half is called by `api` for a caller, the lower half by `gateway` for a node that has proved who it is.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import events, node_views
from nacre.control.services.listing import ListQuery
from nacre.control.services.node_changes import changed_conditions, seen, settled_labels
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import nodes as store
from nacre.control.store import vms
from nacre.control.store.db import Read, Tx
from nacre.control.store.nodes import NodeRow
from nacre.control.wake import NODES, node_topic
from nacre.errors import ConflictError, NotFoundError, UnauthenticatedError
from nacre.model.events import SYSTEM, Actor, ActorKind
from nacre.model.ids import NodeId
from nacre.model.metadata import check_labels
from nacre.model.nodes import Condition, NodeFacts, NodeState, Usage, move
from nacre.protocol.messages import HeldVm
from nacre.schema.common import Page
from nacre.schema.nodes import NodeOut, NodeUpdate

TEARDOWN_ALLOWED_FOR = timedelta(minutes=10)
"""How long an operator's word holds if the node does not sync meanwhile."""
_AT_WORK = frozenset({NodeState.READY, NodeState.CORDONED})


async def show(rd: Read, caller: Caller, ref: str) -> NodeOut:
    """Return a node, by name or id. Raises NotFoundError."""
    return await node_views.shown(rd, await _find(rd, caller, ref))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[NodeOut]:
    """Return the nodes. Needs a role on the platform."""
    policy.require(caller, PLATFORM)
    rows, following = await store.page(rd, query)
    return Page(items=await node_views.many(rd, rows), next=following)


async def update(tx: Tx, caller: Caller, ref: str, body: NodeUpdate, *, if_match: str | None = None) -> NodeOut:
    """Change the operator's labels. Those that the agent brings stay, unless a label of the same name covers them."""
    row = await _find(tx, caller, ref, lock=True)
    require_match(if_match, etag_of(row.version))
    if body.labels is None:
        return await node_views.shown(tx, row)
    changed = settled_labels(replace(row, own_labels=check_labels(body.labels)))
    details = {"before": {"labels": row.labels}, "after": {"labels": changed.labels}}
    return await _change(tx, caller, row, changed, "node.updated", f"labels of node {row.name} were changed", details)


async def cordon(tx: Tx, caller: Caller, ref: str) -> NodeOut:
    """Give the node nothing new. It keeps what it runs."""
    row = await _find(tx, caller, ref, lock=True)
    if row.cordoned:
        return await node_views.shown(tx, row)
    state = move(row.state, NodeState.CORDONED) if row.state is NodeState.READY else row.state
    changed = replace(row, cordoned=True, state=state)
    return await _change(tx, caller, row, changed, "node.cordoned", f"node {row.name} takes nothing new", {})


async def uncordon(tx: Tx, caller: Caller, ref: str) -> NodeOut:
    """Let the node take new machines again."""
    row = await _find(tx, caller, ref, lock=True)
    if not row.cordoned:
        return await node_views.shown(tx, row)
    state = move(row.state, NodeState.READY) if row.state is NodeState.CORDONED else row.state
    changed = replace(row, cordoned=False, state=state)
    return await _change(tx, caller, row, changed, "node.uncordoned", f"node {row.name} takes machines again", {})


async def allow_teardown(tx: Tx, caller: Caller, ref: str) -> NodeOut:
    """Let the node's next sync tear down more machines than its guard allows. Holds for ten minutes at most."""
    row = await _find(tx, caller, ref, lock=True)
    changed = replace(row, teardown_allowed_at=tx.now())
    message = f"the next sync of node {row.name} may tear down any number of machines"
    return await _change(tx, caller, row, changed, "node.teardown_allowed", message, {})


async def remove(tx: Tx, caller: Caller, ref: str, *, if_match: str | None = None) -> None:
    """Forget a node that has no machines. Raises ConflictError while it has some."""
    row = await _find(tx, caller, ref, lock=True)
    require_match(if_match, etag_of(row.version))
    reserved = (await vms.reserved(tx, [row.id])).get(row.id)
    if reserved is not None:
        raise ConflictError(
            "node_has_vms",
            f"node {row.name} has {reserved.vms} machines",
            hint=f"see them with `nacre vm list --filter node={row.name}` and delete them first",
        )
    await store.remove(tx, row.id)
    _tell(tx, row, "node.deleted", f"node {row.name} was removed", actor=caller.actor, request_id=caller.request_id)
    tx.wake(NODES, node_topic(row.id))


async def connected(tx: Tx, node: NodeId, facts: NodeFacts, instance: str) -> None:
    """Note that an agent speaks for the node now. Raises UnauthenticatedError for a node that was removed."""
    row = await _require(tx, node)
    rebooted = row.facts is not None and row.facts.boot_id != facts.boot_id
    changed = settled_labels(replace(seen(row, tx.now()), facts=facts, instance=instance, observed_sequence=-1))
    changed = replace(changed, region=row.region or facts.region, zone=row.zone or facts.zone)
    await store.save(tx, row, changed)
    _tell(tx, row, "node.connected", f"the agent of node {row.name} has connected", details={"instance": instance})
    if rebooted:
        _tell(tx, row, "node.rebooted", f"node {row.name} has restarted", details={"boot_id": facts.boot_id})
    _tell_state(tx, row, changed)
    tx.wake(NODES)


async def disconnected(tx: Tx, node: NodeId, instance: str) -> None:
    """Note that the agent's link is gone. The node is offline only after it has been silent for a while."""
    row = await store.get(tx, node, lock=True)
    if row is None or row.instance != instance:
        return
    _tell(
        tx, row, "node.disconnected", f"the agent of node {row.name} has disconnected", details={"instance": instance}
    )


async def heartbeat(
    tx: Tx,
    node: NodeId,
    usage: Usage,
    conditions: tuple[Condition, ...],
    facts: NodeFacts | None = None,
) -> None:
    """Store a sign of life. Heartbeats of many nodes go into one transaction, in the order of the nodes' ids."""
    row = await store.get(tx, node, lock=True)
    if row is None:
        return
    changed = replace(seen(row, tx.now()), usage=usage, conditions=conditions)
    if facts is not None:
        changed = settled_labels(replace(changed, facts=facts))
    await store.save(tx, row, changed)
    for event, message, details in changed_conditions(row, changed):
        _tell(tx, row, event, message, details=details)
    _tell_state(tx, row, changed)
    if facts is not None or changed.state is not row.state:
        tx.wake(NODES)


async def certified(tx: Tx, node: NodeId, expires_at: datetime) -> None:
    """Record until when the node's newest certificate is valid."""
    row = await _require(tx, node)
    await store.save(tx, row, replace(row, certificate_expires_at=expires_at))


async def known(rd: Read, among: set[NodeId]) -> set[NodeId]:
    """Return those of these nodes that have not been removed."""
    return {row.id for row in await store.every(rd, among)}


async def silent(tx: Tx, node: NodeId, last_seen_at: datetime | None) -> bool:
    """Mark a node offline, unless it has been heard since `last_seen_at`. Say whether it was."""
    row = await store.get(tx, node, lock=True)
    if row is None or row.last_seen_at != last_seen_at or row.state not in _AT_WORK:
        return False
    changed = replace(row, state=move(row.state, NodeState.OFFLINE))
    await store.save(tx, row, changed)
    _tell_state(tx, row, changed)
    tx.wake(NODES)
    return True


async def last_seen(rd: Read) -> Mapping[NodeId, datetime | None]:
    """Return when each node that should be heard was last heard."""
    return await store.last_seen(rd, _AT_WORK)


async def synced(tx: Tx, node: NodeId, held: tuple[HeldVm, ...]) -> None:
    """Note what follows from a full report: machines that the node was not told of, and that its teardown is done.

    What is held is left alone and reported once. An operator's word to tear down was for one sync.
    """
    row = await _require(tx, node)
    if row.teardown_allowed_at is not None and not await vms.any_absent(tx, node):
        await store.save(tx, row, replace(row, teardown_allowed_at=None))
        row = replace(row, teardown_allowed_at=None)
    placed = {vm.id for vm in await vms.on_node(tx, node, [vm.id for vm in held])} if held else set[str]()
    strange = sorted((vm for vm in held if vm.id not in placed), key=lambda vm: vm.id)
    condition = node_views.held_condition(strange, since=row.held.since if row.held is not None else tx.now())
    if condition == row.held:
        return
    changed = replace(row, held=condition)
    await store.save(tx, row, changed)
    details: dict[str, Any] = {"vms": [{"id": vm.id, "name": vm.name, "running": vm.running} for vm in strange]}
    for event, message, more in changed_conditions(row, changed):
        _tell(tx, row, event, message, details={**more, **details})
    if row.held is not None and condition is not None:
        _tell(tx, row, "node.condition_changed", condition.message, details=details)


async def _find(rd: Read, caller: Caller, ref: str, *, lock: bool = False) -> NodeRow:
    policy.require(caller, PLATFORM)
    row = await store.get(rd, ref, lock=lock)
    if row is None:
        raise NotFoundError("node_not_found", f"there is no node {ref}", hint="list them with `nacre node list`")
    return row


async def _require(tx: Tx, node: NodeId) -> NodeRow:
    row = await store.get(tx, node, lock=True)
    if row is None:
        raise UnauthenticatedError(
            "node_removed",
            "this node is not part of the platform any more",
            hint="enrol it again with a new token from `nacre node token`",
        )
    return row


async def _change(
    tx: Tx, caller: Caller, before: NodeRow, after: NodeRow, event: str, message: str, details: Mapping[str, Any]
) -> NodeOut:
    """Store an operator's change and tell of it."""
    row = replace(after, version=before.version + 1, updated_at=tx.now())
    await store.save(tx, before, row)
    _tell(tx, row, event, message, actor=caller.actor, request_id=caller.request_id, details=details)
    tx.wake(NODES, node_topic(row.id))
    return await node_views.shown(tx, row)


def _tell_state(tx: Tx, before: NodeRow, after: NodeRow) -> None:
    if before.state is after.state:
        return
    details = {"before": {"state": before.state.value}, "after": {"state": after.state.value}}
    message = f"node {after.name} is {after.state}"
    if after.state is NodeState.OFFLINE:
        message = f"node {after.name} is offline: nothing has been heard of it"
    actor = SYSTEM if after.state is NodeState.OFFLINE else None
    _tell(tx, after, f"node.{after.state}", message, actor=actor, details=details)


def _tell(
    tx: Tx,
    row: NodeRow,
    event: str,
    message: str,
    *,
    actor: Actor | None = None,
    request_id: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    events.emit(
        tx,
        type=event,
        actor=actor or Actor(kind=ActorKind.NODE, id=row.id, name=row.name),
        noun="node",
        object_id=row.id,
        object_name=row.name,
        project=None,
        message=message,
        request_id=request_id,
        details=details,
    )
