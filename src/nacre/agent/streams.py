"""Bulk connections of the agent: streams that the control plane asked for, and artifacts of images.

Each has a connection of its own, so that a slow terminal or a large download holds up nothing else. Knows nothing of
what is in a stream.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from nacre.agent import dialer
from nacre.agent.dialer import Dialer
from nacre.errors import NacreError, NotFoundError, UnavailableError
from nacre.model.ids import ImageId
from nacre.model.images import Role
from nacre.protocol import paths
from nacre.protocol.codec import CHUNK_BYTES
from nacre.protocol.messages import ArtifactHeader, GetArtifact, OpenStream, StreamHeader

log = structlog.get_logger()


class Duplex(Protocol):
    """Something with bytes in both directions, such as a console."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield what it says, until it has no more to say."""
        ...

    async def send(self, data: bytes) -> None:
        """Say something to it."""
        ...


async def carry(
    dialer_: Dialer, address: str, request: OpenStream, source: AbstractAsyncContextManager[Duplex]
) -> None:
    """Bring one stream to where its viewer waits and pump until either side ends it. Logs failures, never raises."""
    try:
        async with dialer_.dial(request.address or address, paths.stream_path(request.stream)) as connection:
            await _serve(connection, source)
    except NacreError as error:
        log.info("stream.failed", stream=request.stream, vm=request.vm, code=error.code, message=error.message)
    except Exception:
        log.exception("stream.broke", stream=request.stream, vm=request.vm, next="the viewer may open it again")


async def fetch_artifact(
    dialer_: Dialer, address: str, image: ImageId, role: Role, offset: int
) -> AsyncIterator[bytes]:
    """Yield the bytes of an artifact from `offset` to its end. Raises NacreError, also if it is cut short."""
    async with dialer_.dial(address, paths.ARTIFACT) as connection:
        await dialer.send(connection, GetArtifact(image=image, role=role, offset=offset))
        header = await dialer.expect(connection, ArtifactHeader)
        if not header.ok:
            raise NotFoundError(header.code, header.message, hint=header.hint)
        missing = header.size_bytes - offset
        while missing > 0:
            chunk = await _chunk(connection)
            missing -= len(chunk)
            yield chunk


async def _chunk(connection: ClientConnection) -> bytes:
    try:
        async with asyncio.timeout(dialer.RECEIVE_TIMEOUT_S):
            return await connection.recv(decode=False)
    except ConnectionClosed as error:
        raise UnavailableError(
            "artifact_cut_short", "the image ended before its end", hint="it is fetched on from there by itself"
        ) from error
    except TimeoutError as error:
        raise dialer.silent() from error


async def _serve(connection: ClientConnection, source: AbstractAsyncContextManager[Duplex]) -> None:
    async with AsyncExitStack() as stack:
        try:
            duplex = await stack.enter_async_context(source)
        except NacreError as error:
            refusal = StreamHeader(ok=False, code=error.code, message=error.message, hint=error.hint)
            await dialer.send(connection, refusal)
            return
        await dialer.send(connection, StreamHeader(ok=True))
        try:
            await _pump(connection, duplex)
        except Exception:
            await connection.close(1011)  # so that the viewer can tell a break from an end
            raise


async def _pump(connection: ClientConnection, duplex: Duplex) -> None:
    """Move bytes both ways until one side ends. Nothing is read faster than the other side takes it."""
    outward = asyncio.create_task(_outward(connection, duplex))
    inward = asyncio.create_task(_inward(connection, duplex))
    tasks = {outward, inward}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _outward(connection: ClientConnection, duplex: Duplex) -> None:
    try:
        async for data in duplex:
            for start in range(0, len(data), CHUNK_BYTES):
                await connection.send(data[start : start + CHUNK_BYTES])
    except ConnectionClosed:
        return  # the viewer has left


async def _inward(connection: ClientConnection, duplex: Duplex) -> None:
    try:
        async for frame in connection:
            await duplex.send(frame.encode() if isinstance(frame, str) else frame)
    except ConnectionClosed:
        return
