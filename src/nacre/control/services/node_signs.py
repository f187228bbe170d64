"""Nodes as their agents and our own watch see them: connected, alive, silent, and what follows from that.

Called by `gateway` for a node that has proved who it is, and by `reconcilers.nodes`. What operators ask is in `nodes`.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from nacre.control.services import moves, node_views
from nacre.control.services.node_changes import changed_conditions, seen, settled_labels
from nacre.control.services.node_events import tell, tell_state
from nacre.control.store import nodes as store
from nacre.control.store import vms
from nacre.control.store.db import Read, Tx
from nacre.control.store.nodes import NodeRow
from nacre.control.wake import NODES
from nacre.errors import UnauthenticatedError
from nacre.model.ids import NodeId
from nacre.model.nodes import Condition, NodeFacts, NodeState, Usage, move
from nacre.protocol.messages import HeldVm

_AT_WORK = frozenset({NodeState.READY, NodeState.CORDONED, NodeState.DRAINING})


async def connected(tx: Tx, node: NodeId, facts: NodeFacts, instance: str) -> None:
    """Note that an agent speaks for the node now. Raises UnauthenticatedError for a node that was removed."""
    row = await require(tx, node)
    rebooted = row.facts is not None and row.facts.boot_id != facts.boot_id
    changed = settled_labels(replace(seen(row, tx.now()), facts=facts, instance=instance, observed_sequence=-1))
    changed = replace(changed, region=row.region or facts.region, zone=row.zone or facts.zone)
    await store.save(tx, row, changed)
    tell(tx, row, "node.connected", f"the agent of node {row.name} has connected", details={"instance": instance})
    if rebooted:
        tell(tx, row, "node.rebooted", f"node {row.name} has restarted", details={"boot_id": facts.boot_id})
    tell_state(tx, row, changed)
    for event, message, details in changed_conditions(row, changed):
        tell(tx, row, event, message, details=details)
    tx.wake(NODES)


async def disconnected(tx: Tx, node: NodeId, instance: str) -> None:
    """Note that the agent's link is gone. The node is offline only after it has been silent for a while."""
    row = await store.get(tx, node, lock=True)
    if row is None or row.instance != instance:
        return
    tell(tx, row, "node.disconnected", f"the agent of node {row.name} has disconnected", details={"instance": instance})


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
        tell(tx, row, event, message, details=details)
    tell_state(tx, row, changed)
    if facts is not None or changed.state is not row.state:
        tx.wake(NODES)


async def certified(tx: Tx, node: NodeId, expires_at: datetime) -> None:
    """Record until when the node's newest certificate is valid."""
    row = await require(tx, node)
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
    await moves.node_lost(tx, node)
    tell_state(tx, row, changed)
    tx.wake(NODES)
    return True


async def last_seen(rd: Read) -> Mapping[NodeId, datetime | None]:
    """Return when each node that should be heard was last heard."""
    return await store.last_seen(rd, _AT_WORK)


async def synced(tx: Tx, node: NodeId, held: tuple[HeldVm, ...]) -> None:
    """Note what follows from a full report: machines that the node was not told of, and that its teardown is done.

    What is held is left alone and reported once. An operator's word to tear down was for one sync.
    """
    row = await require(tx, node)
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
        tell(tx, row, event, message, details={**more, **details})
    if row.held is not None and condition is not None:
        tell(tx, row, "node.condition_changed", condition.message, details=details)


async def require(tx: Tx, node: NodeId) -> NodeRow:
    """Return a node and lock it. Raises UnauthenticatedError for one that was removed."""
    row = await store.get(tx, node, lock=True)
    if row is None:
        raise UnauthenticatedError(
            "node_removed",
            "this node is not part of the platform any more",
            hint="enrol it again with a new token from `nacre node token create`",
        )
    return row
