"""/v1/nodes and /v1/nodes/tokens."""

from dataclasses import replace
from typing import Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api import installer
from nacre.control.api.calls import TheCall
from nacre.control.api.queries import Labelled, Paged, Params, list_query
from nacre.control.services import copies, enrolments, nodes
from nacre.model.nodes import NodeState, NodeWish
from nacre.schema.common import Page
from nacre.schema.moves import CopyOut, NodeDrain, NodeEvacuate
from nacre.schema.nodes import NodeEvacuated, NodeOut, NodeTokenCreate, NodeTokenCreated, NodeTokenOut, NodeUpdate


class NodeFilters(Labelled, frozen=True, kw_only=True):
    """How a list of nodes may be narrowed."""

    name: str | None = None
    """Exactly this name."""
    state: NodeState | None = None
    """Only nodes in this state."""
    region: str | None = None
    """Only nodes of this region."""
    zone: str | None = None
    """Only nodes of this zone."""
    wish: NodeWish | None = None
    """Only nodes of which an operator wants this, whether they are heard or not."""


class NodeRemoval(Params, frozen=True, kw_only=True):
    """How far a removal goes."""

    force: bool = False
    """Free what a node out of reach held, and forget what machines left behind there."""
    confirm_dead: bool = False
    """Your word that the host is off: its machines may then start elsewhere."""


class CopyChoice(Params, frozen=True, kw_only=True):
    """Which of a node's copies."""

    vm: tuple[str, ...] = ()
    """Name or id of a machine; may be repeated. Without any, all copies of the node."""


@get("/v1/nodes", opt={"action": "node:list"})
async def list_nodes(call: TheCall, params: NamedDependency[NodeFilters]) -> Response[Page[NodeOut]]:
    """List nodes."""
    return await call.read(lambda rd, caller: nodes.list_(rd, caller, list_query(params)))


@get("/v1/nodes/{node:str}", opt={"action": "node:view"})
async def show_node(call: TheCall, node: FromPath[str]) -> Response[NodeOut]:
    """Show a node, by name or id."""
    return await call.show(lambda rd, caller: nodes.show(rd, caller, node))


@patch("/v1/nodes/{node:str}", opt={"action": "node:update", "if_match": True})
async def update_node(call: TheCall, node: FromPath[str], data: JSONBody[NodeUpdate]) -> Response[NodeOut]:
    """Change labels, taints, region or zone of a node."""
    return await call.change(lambda tx, caller: nodes.update(tx, caller, node, data, if_match=call.if_match), NodeOut)


@post("/v1/nodes/{node:str}/cordon", opt={"action": "node:cordon"}, status_code=200)
async def cordon_node(call: TheCall, node: FromPath[str]) -> Response[NodeOut]:
    """Give the node nothing new. It keeps what it runs."""
    return await call.change(lambda tx, caller: nodes.cordon(tx, caller, node), NodeOut)


@post("/v1/nodes/{node:str}/uncordon", opt={"action": "node:cordon"}, status_code=200)
async def uncordon_node(call: TheCall, node: FromPath[str]) -> Response[NodeOut]:
    """Let the node take new machines again."""
    return await call.change(lambda tx, caller: nodes.uncordon(tx, caller, node), NodeOut)


@post("/v1/nodes/{node:str}/allow-teardown", opt={"action": "node:update"}, status_code=200)
async def allow_teardown(call: TheCall, node: FromPath[str]) -> Response[NodeOut]:
    """Let the node's next sync tear down more machines than its guard allows, once."""
    return await call.change(lambda tx, caller: nodes.allow_teardown(tx, caller, node), NodeOut)


@post("/v1/nodes/{node:str}/drain", opt={"action": "node:drain"}, status_code=200)
async def drain_node(call: TheCall, node: FromPath[str], data: JSONBody[NodeDrain | None] = None) -> Response[NodeOut]:
    """Move every machine of the node to others, some at a time. While a drain runs, that one goes on."""
    body = data or NodeDrain()
    return await call.change(lambda tx, caller: nodes.drain(tx, caller, node, body), NodeOut)


@post("/v1/nodes/{node:str}/abort-drain", opt={"action": "node:drain"}, status_code=200)
async def abort_node_drain(call: TheCall, node: FromPath[str]) -> Response[NodeOut]:
    """End a drain half way. What has not left the node stays; the node is again what it was before."""
    return await call.change(lambda tx, caller: nodes.abort_drain(tx, caller, node), NodeOut)


@post("/v1/nodes/{node:str}/maintenance", opt={"action": "node:drain"}, status_code=200)
async def maintain_node(
    call: TheCall, node: FromPath[str], data: JSONBody[NodeDrain | None] = None
) -> Response[NodeOut]:
    """Drain the node; once it is empty it is in maintenance and may be silent. Ended by uncordon."""
    body = data or NodeDrain()
    return await call.change(lambda tx, caller: nodes.maintenance(tx, caller, node, body), NodeOut)


@post("/v1/nodes/{node:str}/evacuate", opt={"action": "node:evacuate"}, status_code=200)
async def evacuate_node(
    call: TheCall, node: FromPath[str], data: JSONBody[NodeEvacuate | None] = None
) -> Response[NodeEvacuated]:
    """Empty the node without asking guests, or free at once what a node out of reach held and surely does not run."""
    body = data or NodeEvacuate()
    return await call.change(lambda tx, caller: nodes.evacuate(tx, caller, node, body), NodeEvacuated)


@get("/v1/nodes/{node:str}/copies", opt={"action": "node:view"})
async def list_node_copies(call: TheCall, node: FromPath[str]) -> Response[Page[CopyOut]]:
    """List what machines left behind on the node when they moved away."""
    return await call.read(lambda rd, caller: copies.list_(rd, caller, node))


@delete("/v1/nodes/{node:str}/copies", opt={"action": "node:discard"}, status_code=200)
async def discard_node_copies(
    call: TheCall, node: FromPath[str], params: NamedDependency[CopyChoice]
) -> Response[Page[CopyOut]]:
    """Have the node delete what machines left behind there, all of it or that of some machines."""
    return await call.change(lambda tx, caller: copies.discard(tx, caller, node, params.vm), Page[CopyOut])


@delete("/v1/nodes/{node:str}", opt={"action": "node:delete", "if_match": True})
async def delete_node(call: TheCall, node: FromPath[str], params: NamedDependency[NodeRemoval]) -> None:
    """Forget a node that has no machines, or free what a dead one held. Its certificates are worth nothing then."""
    await call.remove(
        lambda tx, caller: nodes.remove(
            tx, caller, node, force=params.force, confirm_dead=params.confirm_dead, if_match=call.if_match
        )
    )


@post("/v1/nodes/tokens", opt={"action": "node:enrol"})
async def create_node_token(
    call: TheCall, request: Request[Any, Any, Any], data: JSONBody[NodeTokenCreate]
) -> Response[NodeTokenCreated]:
    """Make a token that lets new nodes join. Its secret is in the answer and nowhere else."""
    joining = replace(call.parts.joining, api=installer.address_of(request))
    return await call.create(
        lambda tx, caller: enrolments.create(tx, caller, data, joining),
        NodeTokenCreated,
        at=lambda made: f"/v1/nodes/tokens/{made.token.id}",
        secret=True,
    )


@get("/v1/nodes/tokens", opt={"action": "node:enrol"})
async def list_node_tokens(call: TheCall, params: NamedDependency[Paged]) -> Response[Page[NodeTokenOut]]:
    """List enrolment tokens, without their secrets."""
    return await call.read(lambda rd, caller: enrolments.list_(rd, caller, list_query(params)))


@get("/v1/nodes/tokens/{token:str}", opt={"action": "node:enrol"})
async def show_node_token(call: TheCall, token: FromPath[str]) -> Response[NodeTokenOut]:
    """Show an enrolment token, by id, without its secret."""
    return await call.read(lambda rd, caller: enrolments.show(rd, caller, token))


@delete("/v1/nodes/tokens/{token:str}", opt={"action": "node:enrol"})
async def revoke_node_token(call: TheCall, token: FromPath[str]) -> None:
    """Make an enrolment token useless. A node that joined with it stays."""
    await call.remove(lambda tx, caller: enrolments.revoke(tx, caller, token))


ROUTES = (
    list_nodes,
    show_node,
    update_node,
    cordon_node,
    uncordon_node,
    allow_teardown,
    drain_node,
    abort_node_drain,
    maintain_node,
    evacuate_node,
    list_node_copies,
    discard_node_copies,
    delete_node,
    create_node_token,
    list_node_tokens,
    show_node_token,
    revoke_node_token,
)
