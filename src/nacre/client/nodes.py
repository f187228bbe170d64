"""Nodes and their enrolment tokens through the API."""

from collections.abc import Sequence

from nacre.client.collection import Collection, segment
from nacre.client.transport import Transport
from nacre.schema.common import Page
from nacre.schema.moves import CopyOut, NodeDrain, NodeEvacuate
from nacre.schema.nodes import NodeEvacuated, NodeOut, NodeTokenCreate, NodeTokenCreated, NodeTokenOut, NodeUpdate

NODE_TOKENS = "/v1/nodes/tokens"


class NodeTokens(Collection[NodeTokenOut]):
    """`/v1/nodes/tokens`: what lets a new node join, once."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, NODE_TOKENS, NodeTokenOut, Page[NodeTokenOut])

    async def create(self, body: NodeTokenCreate) -> NodeTokenCreated:
        """Make a token. Its secret is in the answer and nowhere else."""
        return await self._transport.change("POST", self._path, NodeTokenCreated, body=body)

    async def revoke(self, ref: str) -> None:
        """Make a token useless."""
        await self._transport.change("DELETE", f"{self._path}/{segment(ref)}", type(None))


class Nodes(Collection[NodeOut]):
    """`/v1/nodes`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/nodes", NodeOut, Page[NodeOut])
        self.tokens = NodeTokens(transport)

    async def update(self, ref: str, changes: NodeUpdate, *, if_match: str | None = None) -> NodeOut:
        """Change a node's labels, taints or place; `if_match` makes it fail if the node changed meanwhile."""
        return await self._transport.change("PATCH", self.at(ref), NodeOut, body=changes, if_match=if_match)

    async def cordon(self, ref: str) -> NodeOut:
        """Give the node nothing new; it keeps what it runs."""
        return await self._transport.change("POST", self.at(ref, "cordon"), NodeOut)

    async def uncordon(self, ref: str) -> NodeOut:
        """Let the node take new machines again."""
        return await self._transport.change("POST", self.at(ref, "uncordon"), NodeOut)

    async def allow_teardown(self, ref: str) -> NodeOut:
        """Let the node's next sync tear down more machines than the guard allows, once."""
        return await self._transport.change("POST", self.at(ref, "allow-teardown"), NodeOut)

    async def drain(self, ref: str, body: NodeDrain) -> NodeOut:
        """Move every machine of the node to others; a drain that runs goes on. The node's `drain` says how."""
        return await self._transport.change("POST", self.at(ref, "drain"), NodeOut, body=body)

    async def abort_drain(self, ref: str) -> NodeOut:
        """End a drain half way. Raises ConflictError if none runs."""
        return await self._transport.change("POST", self.at(ref, "abort-drain"), NodeOut)

    async def maintenance(self, ref: str, body: NodeDrain) -> NodeOut:
        """Drain the node; once it is empty it may be silent."""
        return await self._transport.change("POST", self.at(ref, "maintenance"), NodeOut, body=body)

    async def evacuate(self, ref: str, body: NodeEvacuate) -> NodeEvacuated:
        """Empty the node without asking guests; off one out of reach, take what surely does not run there."""
        return await self._transport.change("POST", self.at(ref, "evacuate"), NodeEvacuated, body=body)

    async def copies(self, ref: str) -> list[CopyOut]:
        """Return what machines left behind on the node when they moved away."""
        return (await self._transport.read(self.at(ref, "copies"), Page[CopyOut])).items

    async def discard(self, ref: str, vms: Sequence[str] = ()) -> list[CopyOut]:
        """Have the node delete what these machines (none: all) left behind."""
        params = [("vm", vm) for vm in vms]
        return (await self._transport.change("DELETE", self.at(ref, "copies"), Page[CopyOut], params=params)).items

    async def delete(self, ref: str, *, force: bool = False, confirm_dead: bool = False) -> None:
        """Forget a node that has no machines; its certificates are worth nothing then. `force` frees a dead one."""
        given = {"force": force, "confirm_dead": confirm_dead}
        params = [(name, "true") for name, wanted in given.items() if wanted]
        await self._transport.change("DELETE", self.at(ref), type(None), params=params)
