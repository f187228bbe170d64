"""Lost nodes, and what of theirs is started elsewhere, through the API."""

from nacre.client.transport import Transport
from nacre.schema.failover import FailoverConfirm, FailoverOut
from nacre.schema.nodes import NodeOut


class Failover:
    """`/v1/failover`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def status(self) -> FailoverOut:
        """Return which nodes are waited for, and what is still to be started elsewhere."""
        return await self._transport.read("/v1/failover", FailoverOut)

    async def confirm(self, body: FailoverConfirm) -> NodeOut:
        """Give up a node that is out of reach, on an operator's word."""
        return await self._transport.change("POST", "/v1/failover/confirm", NodeOut, body=body)
