"""Which nodes have a pool: changed by operators, with what that means for its volumes and who uses them."""

from dataclasses import replace

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import pools, volume_attachments
from nacre.control.services.node_find import find
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import nodes, volumes
from nacre.control.store import pools as store
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Tx
from nacre.control.store.pools import PoolRow
from nacre.control.wake import VMS
from nacre.errors import ConflictError, InvalidInputError
from nacre.model.ids import NodeId
from nacre.schema.volumes import PoolOut, PoolUpdate


async def update(tx: Tx, caller: Caller, ref: str, body: PoolUpdate, *, if_match: str | None = None) -> PoolOut:
    """Change which nodes have a pool. Raises ConflictError while volumes need a node that would lose it."""
    policy.require(caller, PLATFORM, missing=pools.missing(ref))
    seen = await pools.resolve(tx, ref)
    there = {one.id for one in await nodes.every(tx, lock=True)}  # whose machines nobody places meanwhile
    attached = sorted({one.vm for one in await volumes.attached_in(tx, seen.id)})
    machines = [await vm_store.get(tx, vm, lock=True) for vm in attached]  # before the pool, as everybody does
    row = await pools.resolve(tx, seen.id, lock=True)
    require_match(if_match, etag_of(row.version))
    if row.is_local:
        raise ConflictError("pool_built_in", "every node has the pool local", hint="leave it; it takes nothing")
    chosen = await _chosen(tx, caller, row, body)
    if chosen == row.nodes:
        return await pools.out(tx, row)
    changed = replace(row, nodes=chosen, version=row.version + 1, updated_at=tx.now())
    gone = {node for node in there if row.is_on(node) and not changed.is_on(node)}
    await _leave(tx, changed, gone)
    await store.save(tx, changed)
    for machine in machines:
        if machine is not None:
            await vm_store.save(tx, await volume_attachments.tied(tx, machine))
    details = {"before": {"nodes": row.nodes}, "after": {"nodes": chosen}}
    await pools.tell(tx, caller, changed, "updated", details, nodes_too=there)
    tx.wake(VMS)
    return await pools.out(tx, changed)


async def _chosen(tx: Tx, caller: Caller, row: PoolRow, body: PoolUpdate) -> list[NodeId]:
    """Return the nodes of a pool after a change; none means all."""
    if body.nodes is not None and (body.add or body.remove):
        raise InvalidInputError(
            "nodes_twice",
            "the nodes are given as a whole and as a change",
            hint="give `nodes`, or `add` and `remove`",
            field="nodes",
        )
    if body.nodes is not None:
        return sorted({(await find(tx, caller, one)).id for one in body.nodes})
    add = {(await find(tx, caller, one)).id for one in body.add}
    remove = {(await find(tx, caller, one)).id for one in body.remove}
    if not row.nodes and remove:
        raise InvalidInputError(
            "pool_on_all_nodes",
            f"all nodes have pool {row.name}, also those that are still to come",
            hint="name the nodes that are to keep it, in `nodes`",
            field="remove",
        )
    if not row.nodes:
        return []  # all of them have it already
    left = sorted((set(row.nodes) | add) - remove)
    if not left:
        raise ConflictError(
            "pool_without_nodes",
            f"pool {row.name} would have no node left",
            hint="leave it one, or delete it",
            field="remove",
        )
    return left


async def _leave(tx: Tx, pool: PoolRow, gone: set[NodeId]) -> None:
    """Take a pool from nodes. Another node looks after what they share and nobody uses. Raises ConflictError."""
    here = [one for one in await volumes.of_pool(tx, pool.id) if one.node in gone]
    used = {one.volume for one in await volumes.attached_in(tx, pool.id)} if pool.shared else {one.id for one in here}
    held = [one for one in here if one.id in used]
    if held:
        raise ConflictError(
            "pool_nodes_in_use",
            f"{len(held)} volumes of pool {pool.name} need nodes that would lose it, such as {held[0].name}",
            hint="move the machines that use them, or delete the volumes: `nacre volume list --filter node=…`",
            field="remove",
        )
    for volume in await volumes.many(tx, [one.id for one in here], lock=True):
        await volume_attachments.settle(tx, volume, pool, pool.nodes[0])
