"""Streams between a viewer and a node: consoles and logs. Agents bring each on a connection of its own.

The API opens them; the node's link tells the agent to dial in. Viewer and link may be on different replicas: then
the request goes through the database, and the agent dials the viewer's replica. Knows nothing of what is in a stream.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from nacre.control.auth.ca import Peer
from nacre.control.gateway import wire
from nacre.control.store import stream_requests
from nacre.control.store.db import Database
from nacre.control.wake import STREAMS
from nacre.errors import NotFoundError, UnavailableError
from nacre.model.ids import NodeId, StreamId, VmId, make_id
from nacre.protocol.messages import OpenStream, StreamHeader, StreamKind

OPEN_TIMEOUT_S = 10.0
_GOOD_ENDS = frozenset({1000, 1001})

Tell = Callable[[NodeId, OpenStream], Awaitable[bool]]
"""Send a message over the node's link; False if this replica does not have it."""


class Stream:
    """Bytes both ways. Iterating yields what the node sends and ends when the node has nothing more."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    async def send(self, data: bytes) -> None:
        """Send to the node; waits while it is behind. Raises UnavailableError when the stream is gone."""
        try:
            await self._connection.send(data)
        except ConnectionClosed as error:
            raise _broken() from error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises UnavailableError if the stream breaks instead of ending."""
        try:
            async for frame in self._connection:
                yield frame.encode() if isinstance(frame, str) else frame
        except ConnectionClosed as error:
            raise _broken() from error
        if self._connection.close_code not in _GOOD_ENDS:
            raise _broken()


@dataclass
class _Waiting:
    """A viewer that waits for its stream, then uses it until `done`."""

    node: NodeId
    arrived: asyncio.Future[ServerConnection]
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Streams:
    """The streams of one replica."""

    def __init__(self, db: Database, tell: Tell, address: str) -> None:
        self._db = db
        self._tell = tell
        self._address = address
        self._waiting: dict[StreamId, _Waiting] = {}

    @asynccontextmanager
    async def open(
        self, vm: VmId, node: NodeId, kind: StreamKind, tail_bytes: int = 65536, timeout: float = OPEN_TIMEOUT_S
    ) -> AsyncGenerator[Stream]:
        """Have the node bring a stream, and use it. Raises UnavailableError, with the node's own reason if any."""
        stream = StreamId(make_id("stream", self._db.clock.now(), os.urandom(10)))
        waiting = _Waiting(node, asyncio.get_running_loop().create_future())
        self._waiting[stream] = waiting
        request = OpenStream(stream=stream, kind=kind, vm=vm, address="", tail_bytes=tail_bytes)
        try:
            yield Stream(await self._arrival(request, waiting, timeout))
        finally:
            del self._waiting[stream]
            waiting.done.set()
            if not waiting.arrived.cancel() and not waiting.arrived.cancelled():
                waiting.arrived.exception()  # looked at, so that nobody reports it as forgotten

    async def serve(self, connection: ServerConnection, peer: Peer, stream: StreamId) -> None:
        """Give a connection that an agent brought to who waits for it; returns when that one is done with it."""
        waiting = self._waiting.get(stream)
        # Another node's stream is answered like one that nobody waits for.
        if waiting is None or waiting.node != peer.node or waiting.arrived.done():
            raise NotFoundError(
                "stream_not_found", "nobody waits for this stream", hint="the viewer has left; open the console again"
            )
        header = await wire.first(connection, StreamHeader)
        if waiting.arrived.done():
            return
        if header.ok:
            waiting.arrived.set_result(connection)
            await waiting.done.wait()
        else:
            waiting.arrived.set_exception(UnavailableError(header.code, header.message, hint=header.hint))

    async def forward(self, nodes: list[NodeId]) -> None:
        """Tell agents linked here of viewers that wait at other replicas. Called when the bell rings, and at times."""
        async with self._db.write() as tx:
            rows = await stream_requests.take(tx, nodes)
            await stream_requests.remove_expired(tx)
        for row in rows:
            await self._tell(
                row.node,
                OpenStream(stream=row.id, kind=row.kind, vm=row.vm, address=row.address, tail_bytes=row.tail_bytes),
            )

    def close(self) -> None:
        """Let go of every connection: this replica is leaving. Viewers see their streams end."""
        for waiting in self._waiting.values():
            waiting.done.set()

    async def _arrival(self, request: OpenStream, waiting: _Waiting, timeout: float) -> ServerConnection:
        elsewhere = not await self._tell(waiting.node, request)
        if elsewhere:
            await self._ask_elsewhere(request, waiting.node, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await waiting.arrived
        except TimeoutError as error:
            raise UnavailableError(
                "node_not_answering",
                "the node of the machine did not answer",
                hint="see `nacre node list`; the console works again once the node is connected",
            ) from error
        finally:
            if elsewhere:
                async with self._db.write() as tx:
                    await stream_requests.remove(tx, request.stream)

    async def _ask_elsewhere(self, request: OpenStream, node: NodeId, timeout: float) -> None:
        async with self._db.write() as tx:
            row = stream_requests.StreamRequestRow(
                id=request.stream,
                node=node,
                vm=request.vm,
                kind=request.kind,
                tail_bytes=request.tail_bytes,
                address=self._address,
                expires_at=tx.now() + timedelta(seconds=timeout),
            )
            await stream_requests.add(tx, row)
            tx.wake(STREAMS)


def _broken() -> UnavailableError:
    return UnavailableError("stream_broken", "the connection to the node broke", hint="open the console again")
