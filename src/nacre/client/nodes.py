"""Nodes and their enrolment tokens through the API."""

from nacre.client.collection import Collection, segment
from nacre.client.transport import Transport
from nacre.schema.common import Page
from nacre.schema.nodes import NodeOut, NodeTokenCreate, NodeTokenCreated, NodeTokenOut, NodeUpdate

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
        """Change a node's labels; `if_match` makes it fail if the node changed meanwhile."""
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

    async def delete(self, ref: str) -> None:
        """Forget a node that has no machines; its certificate is worth nothing from then on."""
        await self._transport.change("DELETE", self.at(ref), type(None))
