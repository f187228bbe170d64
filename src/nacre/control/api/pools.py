"""/v1/pools."""

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import Paged, list_query
from nacre.control.services import pool_changes, pools
from nacre.model.volumes import PoolKind
from nacre.schema.common import Page
from nacre.schema.volumes import PoolCreate, PoolOut, PoolUpdate


class PoolFilters(Paged, frozen=True, kw_only=True):
    """How a list of pools may be narrowed."""

    name: str | None = None
    """Exactly this name."""
    kind: PoolKind | None = None
    """Only pools of this kind."""


@post("/v1/pools", opt={"action": "pool:create"})
async def create_pool(call: TheCall, data: JSONBody[PoolCreate]) -> Response[PoolOut]:
    """Create a pool for volumes: a folder that nodes have, or a pool in a Ceph cluster."""
    return await call.create(
        lambda tx, caller: pools.create(tx, caller, data, sealer=call.parts.sealer),
        PoolOut,
        at=lambda made: f"/v1/pools/{made.id}",
    )


@get("/v1/pools", opt={"action": "pool:list"})
async def list_pools(call: TheCall, params: NamedDependency[PoolFilters]) -> Response[Page[PoolOut]]:
    """List the pools with their capacity, usage and capabilities on each node."""
    return await call.read(lambda rd, caller: pools.list_(rd, caller, list_query(params)))


@get("/v1/pools/{pool:str}", opt={"action": "pool:view"})
async def show_pool(call: TheCall, pool: FromPath[str]) -> Response[PoolOut]:
    """Show a pool, by name or id."""
    return await call.show(lambda rd, caller: pools.show(rd, caller, pool))


@patch("/v1/pools/{pool:str}", opt={"action": "pool:update", "if_match": True})
async def update_pool(call: TheCall, pool: FromPath[str], data: JSONBody[PoolUpdate]) -> Response[PoolOut]:
    """Change which nodes have a pool. Nodes that volumes need stay: those of its volumes alone, or of who uses them."""
    return await call.change(
        lambda tx, caller: pool_changes.update(tx, caller, pool, data, if_match=call.if_match), PoolOut
    )


@delete("/v1/pools/{pool:str}", opt={"action": "pool:delete", "if_match": True})
async def delete_pool(call: TheCall, pool: FromPath[str]) -> None:
    """Forget a pool that has no volumes. Its folder stays, and so does what is in its cluster."""
    await call.remove(lambda tx, caller: pools.delete(tx, caller, pool, if_match=call.if_match))


ROUTES = (create_pool, list_pools, show_pool, update_pool, delete_pool)
