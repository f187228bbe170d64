"""Pools: where volumes are. Made and deleted by operators; what they are like is what nodes say."""

from collections.abc import Collection, Mapping

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.auth.sealing import Sealer
from nacre.control.services import events, pool_keys
from nacre.control.services.listing import ListQuery
from nacre.control.services.node_find import find
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import nodes, volumes
from nacre.control.store import pools as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.pools import PoolRow
from nacre.control.wake import node_topic
from nacre.errors import ConflictError, ExhaustedError, InvalidInputError, NotFoundError
from nacre.model.ceph import CephAccess, CephCluster, check_access, check_pool
from nacre.model.ids import NodeId, PoolId
from nacre.model.metadata import check_name
from nacre.model.units import format_size
from nacre.model.volumes import PoolKind, PoolObserved, check_path
from nacre.schema.common import Page
from nacre.schema.vms import NodeRef
from nacre.schema.volumes import CephOut, PoolCreate, PoolOnNode, PoolOut


async def create(tx: Tx, caller: Caller, body: PoolCreate, *, sealer: Sealer | None = None) -> PoolOut:
    """Make a pool. Its nodes say whether they can use it. Needs a role on the platform."""
    policy.require(caller, PLATFORM)
    chosen = [(await find(tx, caller, ref)).id for ref in body.nodes]
    if len(set(chosen)) != len(chosen):
        raise InvalidInputError("node_twice", "a node is named twice", hint="name each node once", field="nodes")
    now = tx.now()
    access = _access(body)
    pool = PoolId(tx.new_id("pool"))
    row = PoolRow(
        id=pool,
        name=check_name(body.name),
        kind=body.kind,
        path=check_path(body.path) if access is None else check_pool(body.path),
        shared=body.shared or access is not None,
        ceph=None if access is None else CephCluster(monitors=access.monitors, user=access.user),
        sealed=None if access is None else pool_keys.sealed(pool, access.key, sealer),
        nodes=sorted(chosen),
        version=1,
        created_at=now,
        updated_at=now,
    )
    taken = ConflictError(
        "pool_exists", f"there is a pool {row.name} already", hint="choose another name", field="name"
    )
    await store.add(tx, row, taken=taken)
    await tell(tx, caller, row, "created")
    return await out(tx, row)


async def show(rd: Read, caller: Caller, ref: str) -> PoolOut:
    """Return a pool, by name or id."""
    policy.require(caller, PLATFORM, missing=missing(ref))
    return await out(rd, await resolve(rd, ref))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[PoolOut]:
    """Return the pools."""
    policy.require(caller, PLATFORM)
    rows, following = await store.page(rd, query)
    return Page(items=[await out(rd, row) for row in rows], next=following)


async def delete(tx: Tx, caller: Caller, ref: str, *, if_match: str | None = None) -> None:
    """Forget a pool without volumes; its folder, or what is in its cluster, stays. Raises ConflictError otherwise."""
    policy.require(caller, PLATFORM, missing=missing(ref))
    row = await resolve(tx, ref, lock=True)
    require_match(if_match, etag_of(row.version))
    if row.is_local:
        raise ConflictError("pool_built_in", "every node has the pool local", hint="leave it; it takes nothing")
    held = await volumes.in_pool(tx, row.id)
    if held:
        raise ConflictError(
            "pool_not_empty", f"pool {row.name} has {held} volumes", hint="delete them first: `nacre volume list`"
        )
    await store.remove(tx, row.id)
    await tell(tx, caller, row, "deleted")


async def resolve(rd: Read, ref: str, *, lock: bool = False) -> PoolRow:
    """Return the pool with this name or id. Raises NotFoundError. Asks no policy."""
    row = await store.get(rd, ref, lock=lock)
    if row is None:
        raise missing(ref)
    return row


def missing(ref: str) -> NotFoundError:
    """Return the error for a pool that is not there."""
    return NotFoundError(
        "pool_not_found", f"there is no pool {ref}", hint="list them with `nacre pool list`", field="pool"
    )


async def check_room(tx: Tx, pool: PoolRow, node: NodeId | None, more_bytes: int, *, has_bytes: int = 0) -> None:
    """Raise ExhaustedError if volumes of a pool may not be given so much more on a node, or (None) on any.

    A volume without a node needs one that has room for all of it, the `has_bytes` that it is promised already included,
    and all such volumes together no more than is left on all nodes. Of the local pool, which shares its disk with
    machines, the scheduler's accounts decide once there is a node. The pool is locked, so that nobody else promises.
    """
    said = (await store.reports(tx, [pool.id])).get(pool.id, {})
    if not any(pool.is_on(one) and (node is None or pool.shared or one == node) for one in said):
        return  # nobody has told yet: the node decides
    if not await store.many(tx, [pool.id], lock=True):
        raise missing(pool.name)
    free = await _free(tx, pool, said, node, has_bytes)
    if free < more_bytes:
        left, asked = format_size(max(0, free)), format_size(more_bytes)
        raise ExhaustedError(
            "pool_full",
            f"pool {pool.name} has {left} left to promise, and {asked} are asked for",
            hint="ask for less, delete volumes that are not needed, or use another pool",
            field="size_bytes",
        )


async def _free(tx: Tx, pool: PoolRow, said: Mapping[NodeId, PoolObserved], node: NodeId | None, has_bytes: int) -> int:
    if pool.shared:
        largest = max(seen.capacity_bytes for one, seen in said.items() if pool.is_on(one))
        return largest - await volumes.promised(tx, pool.id)
    promised = (await volumes.promised_on(tx, [pool.id])).get(pool.id, {})
    left = left_on(pool, said, promised)
    if node is not None:
        return left[node]
    free = max(left.values()) - has_bytes
    return free if pool.is_local else min(free, sum(left.values()) - promised.get(None, 0))


def left_on(
    pool: PoolRow, said: Mapping[NodeId, PoolObserved], promised: Mapping[NodeId | None, int]
) -> dict[NodeId, int]:
    """Return what may still be promised of a pool on each of its nodes that has told of it. Pure."""
    return {
        node: max(0, seen.capacity_bytes - promised.get(node, 0)) for node, seen in said.items() if pool.is_on(node)
    }


async def follow(tx: Tx, seen: Mapping[NodeId, tuple[PoolObserved, ...]]) -> None:
    """Store what nodes say of their pools. What they have said before, as most do, costs one question for all."""
    before = await store.said(tx, list(seen)) if seen else {}
    for node, now in sorted(seen.items()):
        if before.get(node, ()) != tuple(sorted(now, key=lambda one: one.id)):
            await store.report(tx, node, now)


def _access(body: PoolCreate) -> CephAccess | None:
    """Return the cluster of a new pool, checked; None for one that is in none. Raises InvalidInputError."""
    if body.kind is not PoolKind.CEPH and body.ceph is not None:
        raise InvalidInputError(
            "pool_not_in_ceph",
            f"a pool of the kind {body.kind} is in no cluster",
            hint="leave `ceph` out, or give the kind ceph",
            field="ceph",
        )
    if body.kind is not PoolKind.CEPH:
        return None
    if body.ceph is None:
        raise InvalidInputError(
            "ceph_needed",
            "a pool of the kind ceph needs the cluster that it is in",
            hint="give its monitors, a user and that one's key",
            field="ceph",
        )
    return check_access(CephAccess(monitors=body.ceph.monitors, user=body.ceph.user, key=body.ceph.key))


async def out(rd: Read, row: PoolRow) -> PoolOut:
    """Show a row."""
    said = (await store.reports(rd, [row.id])).get(row.id, {})
    named = [*said, *row.nodes]
    names = {one.id: one.name for one in await nodes.every(rd, named)} if named else {}
    members = [NodeRef(id=node, name=names.get(node, "")) for node in row.nodes]
    return PoolOut(
        id=row.id,
        name=row.name,
        kind=row.kind,
        path=row.path,
        shared=row.shared,
        ceph=None if row.ceph is None else CephOut(monitors=row.ceph.monitors, user=row.ceph.user),
        nodes=tuple(
            PoolOnNode(
                node=NodeRef(id=node, name=names.get(node, "")),
                available=one.available,
                reason=one.reason,
                hint=one.hint,
                capacity_bytes=one.capacity_bytes,
                used_bytes=one.used_bytes,
                capabilities=one.capabilities,
            )
            for node, one in sorted(said.items(), key=lambda pair: names.get(pair[0], ""))
            if row.is_on(node)
        ),
        members=tuple(sorted(members, key=lambda one: one.name)) or None,
        volumes=await volumes.in_pool(rd, row.id),
        promised_bytes=await volumes.promised(rd, row.id),
        created_at=row.created_at,
        updated_at=row.updated_at,
        etag=etag_of(row.version),
    )


async def tell(
    tx: Tx,
    caller: Caller,
    row: PoolRow,
    verb: str,
    details: Mapping[str, object] | None = None,
    *,
    nodes_too: Collection[NodeId] = (),
) -> None:
    """Emit `pool.<verb>`, and wake the pool's nodes and `nodes_too`."""
    events.emit(
        tx,
        type=f"pool.{verb}",
        actor=caller.actor,
        noun="pool",
        object_id=row.id,
        object_name=row.name,
        project=None,
        message=f"{caller.actor.name} {verb} the pool {row.name}",
        request_id=caller.request_id,
        details={"path": row.path, "shared": row.shared, **(details or {})},
    )
    for node in nodes_too or row.nodes or [one.id for one in await nodes.every(tx)]:
        tx.wake(node_topic(node))
