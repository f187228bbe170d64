"""Nodes: what operators ask of them. Called by `api` for a caller. What agents say is in `node_signs`."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import node_views
from nacre.control.services.listing import ListQuery
from nacre.control.services.node_changes import settled_labels
from nacre.control.services.node_events import tell
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import nodes as store
from nacre.control.store import vms
from nacre.control.store.db import Read, Tx
from nacre.control.store.nodes import NodeRow
from nacre.control.wake import NODES, node_topic
from nacre.errors import ConflictError, NotFoundError
from nacre.model.metadata import check_labels
from nacre.model.nodes import NodeState, NodeWish, move
from nacre.schema.common import Page
from nacre.schema.nodes import NodeOut, NodeUpdate

TEARDOWN_ALLOWED_FOR = timedelta(minutes=10)
"""How long an operator's word holds if the node does not sync meanwhile."""


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
    if row.wish is not NodeWish.ACTIVE:
        return await node_views.shown(tx, row)
    state = move(row.state, NodeState.CORDONED) if row.state is NodeState.READY else row.state
    changed = replace(row, wish=NodeWish.CORDONED, state=state)
    return await _change(tx, caller, row, changed, "node.cordoned", f"node {row.name} takes nothing new", {})


async def uncordon(tx: Tx, caller: Caller, ref: str) -> NodeOut:
    """Let the node take new machines again."""
    row = await _find(tx, caller, ref, lock=True)
    if row.wish is NodeWish.ACTIVE:
        return await node_views.shown(tx, row)
    state = move(row.state, NodeState.READY) if row.state is NodeState.CORDONED else row.state
    changed = replace(row, wish=NodeWish.ACTIVE, state=state)
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
    tell(tx, row, "node.deleted", f"node {row.name} was removed", actor=caller.actor, request_id=caller.request_id)
    tx.wake(NODES, node_topic(row.id))


async def _find(rd: Read, caller: Caller, ref: str, *, lock: bool = False) -> NodeRow:
    policy.require(caller, PLATFORM)
    row = await store.get(rd, ref, lock=lock)
    if row is None:
        raise NotFoundError("node_not_found", f"there is no node {ref}", hint="list them with `nacre node list`")
    return row


async def _change(
    tx: Tx, caller: Caller, before: NodeRow, after: NodeRow, event: str, message: str, details: Mapping[str, Any]
) -> NodeOut:
    """Store an operator's change and tell of it."""
    row = replace(after, version=before.version + 1, updated_at=tx.now())
    await store.save(tx, before, row)
    tell(tx, row, event, message, actor=caller.actor, request_id=caller.request_id, details=details)
    tx.wake(NODES, node_topic(row.id))
    return await node_views.shown(tx, row)
