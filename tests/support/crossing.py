"""The agent's side of moves of running machines, in one process: lines that lead nowhere, and gates nobody comes to."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from nacre.agent.vms.migrate import Line
from nacre.errors import UnavailableError
from nacre.model.ids import NodeId, StreamId
from nacre.model.migrations import Offer, Outgoing


class Nobody:
    """No other node is there."""

    @asynccontextmanager
    async def open(self, order: Outgoing, offer: Offer, socket: Path) -> AsyncGenerator[Line]:
        """Nobody answers."""
        raise UnavailableError("migration_target_unreachable", "nobody is there", hint="there is one node")
        yield  # it is a generator all the same

    async def expect(
        self,
        stream: StreamId,
        source: NodeId,
        *,
        offered: Callable[[Offer], Awaitable[Path]],
        lost: Callable[[], None],
    ) -> tuple[str, ...]:
        """Nobody will come."""
        return ("127.0.0.1:1",)

    async def forget(self, stream: StreamId) -> None:
        """Nobody was expected."""
