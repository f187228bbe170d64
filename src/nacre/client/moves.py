"""Moves of machines between nodes through the API."""

from nacre.client.collection import Collection
from nacre.client.transport import Transport
from nacre.schema.common import Page
from nacre.schema.moves import MoveOut


class Moves(Collection[MoveOut]):
    """`/v1/moves`. A move is begun with `vms.move`, or by draining a node."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/moves", MoveOut, Page[MoveOut])

    async def abort(self, ref: str) -> MoveOut:
        """Take a move back while its machine has not left its node. Raises ConflictError when it is too late."""
        return await self._transport.change("POST", self.at(ref, "abort"), MoveOut)
