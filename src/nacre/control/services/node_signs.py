"""Nodes as their agents and our own watch see them: connected, alive, silent, and what follows from that.

Called by `gateway` for a node that has proved who it is, and by `reconcilers.nodes`. What operators ask is in `nodes`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from nacre.control.services import moves, node_views
from nacre.control.services.node_changes import changed_conditions, seen, settled_labels
from nacre.control.services.node_events import tell, tell_state
from nacre.control.store import nodes as store
from nacre.control.store import vms
from nacre.control.store.db import Read, Tx
from nacre.control.store.nodes import NodeRow, Pulse
from nacre.control.wake import NODES
from nacre.errors import UnauthenticatedError
from nacre.model.ids import NodeId
from nacre.model.nodes import STATE_OF_WISH, Condition, NodeFacts, NodeState, Usage, move
from nacre.protocol.messages import Heartbeat, HeldVm, Hello

_AT_WORK = frozenset({NodeState.READY, NodeState.CORDONED, NodeState.DRAINING})


async def connected(tx: Tx, node: NodeId, facts: NodeFacts, instance: str) -> None:
    """Note that an agent speaks for the node now. Raises UnauthenticatedError for a node that was removed."""
    row = await require(tx, node)
    await store.save(tx, row, _connected(tx, row, facts, instance))


async def all_connected(tx: Tx, hellos: Sequence[Hello]) -> list[UnauthenticatedError | None]:
    """Note that agents speak for their nodes now, each node at most once. Returns what is wrong with each, if so."""
    rows = {row.id: row for row in await store.every(tx, [hello.node for hello in hellos], lock=True)}
    known_ = [(rows[hello.node], hello) for hello in hellos if hello.node in rows]
    await store.save_many(tx, [(row, _connected(tx, row, hello.facts, hello.instance)) for row, hello in known_])
    return [None if hello.node in rows else _removed() for hello in hellos]


async def disconnected(tx: Tx, node: NodeId, instance: str) -> None:
    """Note that the agent's link is gone. The node is offline only after it has been silent for a while."""
    await all_disconnected(tx, [(node, instance)])


async def all_disconnected(tx: Tx, gone: Iterable[tuple[NodeId, str]]) -> None:
    """Note that links are gone: nodes and the starts of their agents."""
    instances = dict(gone)
    for row in await store.every(tx, list(instances)):
        if row.instance == instances[row.id]:
            details = {"instance": row.instance}
            tell(tx, row, "node.disconnected", f"the agent of node {row.name} has disconnected", details=details)


async def heartbeat(
    tx: Tx,
    node: NodeId,
    usage: Usage,
    conditions: tuple[Condition, ...],
    facts: NodeFacts | None = None,
) -> None:
    """Store a sign of life of one node."""
    await heartbeats(tx, {node: Heartbeat(sent_at=tx.now(), usage=usage, conditions=conditions, facts=facts)})


async def heartbeats(tx: Tx, beats: Mapping[NodeId, Heartbeat]) -> None:
    """Store signs of life. Rows are locked in the order of the nodes' ids, so that no two replicas wait for each other.

    Most are no news: for those no more is written than that they came.
    """
    pulses = await store.pulses(tx, list(beats))
    dull = {pulse.id for pulse in pulses if _is_dull(pulse, beats[pulse.id])}
    await store.beat(tx, {node: beats[node].usage for node in sorted(dull)}, tx.now())
    news = [pulse.id for pulse in pulses if pulse.id not in dull]
    if news:
        rows = await store.every(tx, news)
        await store.save_many(tx, [(row, _heard(tx, row, beats[row.id])) for row in rows])


async def certified(tx: Tx, node: NodeId, expires_at: datetime) -> None:
    """Record until when the node's newest certificate is valid. Raises UnauthenticatedError for a removed node."""
    if not await store.certify(tx, node, expires_at):
        raise _removed()


async def known(rd: Read, among: Collection[NodeId]) -> set[NodeId]:
    """Return those of these nodes that have not been removed."""
    return await store.existing(rd, among)


async def silent(tx: Tx, node: NodeId, last_seen_at: datetime | None) -> bool:
    """Mark a node offline, unless it has been heard since `last_seen_at`. Say whether it was."""
    return bool(await fallen_silent(tx, {node: last_seen_at}))


async def fallen_silent(
    tx: Tx, last_seen: Mapping[NodeId, datetime | None], still: Callable[[NodeId], bool] = lambda _: True
) -> list[NodeId]:
    """Mark nodes offline that have not been heard since, and return which.

    `still` has the last word, at the last moment: a node may be heard while this waits for its row.
    """
    lost = [
        (row, replace(row, state=move(row.state, NodeState.OFFLINE)))
        for row in await store.every(tx, list(last_seen), lock=True)
        if row.state in _AT_WORK and row.last_seen_at == last_seen[row.id] and still(row.id)
    ]
    await store.save_many(tx, lost)
    for before, after in lost:
        await moves.node_lost(tx, after.id)
        tell_state(tx, before, after)
    if lost:
        tx.wake(NODES)
    return [after.id for _, after in lost]


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
        raise _removed()
    return row


def _connected(tx: Tx, row: NodeRow, facts: NodeFacts, instance: str) -> NodeRow:
    """Return the row of a node whose agent has connected, and tell of it."""
    changed = settled_labels(replace(seen(row, tx.now()), facts=facts, instance=instance, observed_sequence=-1))
    changed = replace(changed, region=row.region or facts.region, zone=row.zone or facts.zone)
    tell(tx, row, "node.connected", f"the agent of node {row.name} has connected", details={"instance": instance})
    if row.facts is not None and row.facts.boot_id != facts.boot_id:
        tell(tx, row, "node.rebooted", f"node {row.name} has restarted", details={"boot_id": facts.boot_id})
    _tell_changes(tx, row, changed)
    tx.wake(NODES)
    return changed


def _is_dull(pulse: Pulse, beat: Heartbeat) -> bool:
    same = pulse.state is STATE_OF_WISH[pulse.wish] and pulse.conditions == beat.conditions
    return same and beat.facts is None


def _heard(tx: Tx, row: NodeRow, beat: Heartbeat) -> NodeRow:
    """Return the row of a node that has said something new, and tell of it."""
    changed = replace(seen(row, tx.now()), usage=beat.usage, conditions=beat.conditions)
    if beat.facts is not None:
        changed = settled_labels(replace(changed, facts=beat.facts))
    _tell_changes(tx, row, changed)
    if beat.facts is not None or changed.state is not row.state:
        tx.wake(NODES)
    return changed


def _tell_changes(tx: Tx, before: NodeRow, after: NodeRow) -> None:
    for event, message, details in changed_conditions(before, after):
        tell(tx, before, event, message, details=details)
    tell_state(tx, before, after)


def _removed() -> UnauthenticatedError:
    return UnauthenticatedError(
        "node_removed",
        "this node is not part of the platform any more",
        hint="enrol it again with a new token from `nacre node token create`",
    )
