"""Streams whose other end is in this process: what an agent would open, without node, link and sockets between."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from nacre.agent.streams import Duplex
from nacre.errors import NacreError, UnavailableError
from nacre.model.ids import NodeId, VmId
from nacre.protocol.messages import StreamKind

Opener = Callable[[], AbstractAsyncContextManager[Duplex]]


class LocalStream:
    """One of them, as the API sees it."""

    def __init__(self, duplex: Duplex) -> None:
        self._duplex = duplex

    async def send(self, data: bytes) -> None:
        """Pass on."""
        await self._duplex.send(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """What the other end says; a failure of it is a stream that broke."""
        try:
            async for data in self._duplex:
                yield data
        except NacreError as error:
            raise UnavailableError("stream_broken", "the connection to the node broke", hint="again") from error


@dataclass
class LocalStreams:
    """Opens them by kind. Fulfils `parts.Streams`."""

    openers: dict[StreamKind, Opener] = field(default_factory=dict[StreamKind, Opener])
    open_now: int = 0

    @contextlib.asynccontextmanager
    async def open(
        self, vm: VmId, node: NodeId, kind: StreamKind, tail_bytes: int = 65536
    ) -> AsyncGenerator[LocalStream]:
        """Open one; a refusal is the node's, as it comes through the gateway."""
        del vm, node, tail_bytes
        async with contextlib.AsyncExitStack() as stack:
            try:
                duplex = await stack.enter_async_context(self.openers[kind]())
            except NacreError as error:
                raise UnavailableError(error.code, error.message, hint=error.hint) from error
            self.open_now += 1
            try:
                yield LocalStream(duplex)
            finally:
                self.open_now -= 1


class Echo:
    """Sends back what it gets, until it gets an end of transmission."""

    def __init__(self, first: bytes = b"") -> None:
        self._said: asyncio.Queue[bytes] = asyncio.Queue()
        if first:
            self._said.put_nowait(first)

    async def send(self, data: bytes) -> None:
        """Take it."""
        await self._said.put(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give it back."""
        while (data := await self._said.get()) != b"\x04":
            yield data
