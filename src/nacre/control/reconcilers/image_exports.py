"""Brings the disk of an image from the node whose machine it was. Called by the reconciler of images under a claim.

The node makes a copy and sends it; nothing of that outlives the stream, so every try begins anew.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from nacre.control.services import image_captures
from nacre.control.services.image_files import too_large
from nacre.control.store.db import Database
from nacre.errors import ConflictError, NacreError, UnavailableError
from nacre.lib.fetch import Begun, Sink
from nacre.model.exports import DiskStatus, DiskWanted
from nacre.model.ids import CheckpointId, NodeId, VmId
from nacre.protocol.messages import StreamKind

SILENCE_S = 60.0
"""The longest wait for the next word of a node. One that makes a copy says so every few seconds."""
_OF_CONSOLES = frozenset({"stream_broken", "node_not_answering"})
"""Codes of the way to the node, whose words are meant for people who watch."""


class Stream(Protocol):
    """One open stream to a node."""

    async def send(self, data: bytes) -> None:
        """Say something. Raises UnavailableError when the stream is gone."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """What the node sends. Raises UnavailableError if the stream breaks instead of ending."""
        ...


class Streams(Protocol):
    """Opens streams to nodes. Raises UnavailableError when one is out of reach."""

    def open(self, vm: VmId, node: NodeId, kind: StreamKind) -> AbstractAsyncContextManager[Stream]:
        """Open a stream of this kind."""
        ...


Gathered = Callable[[int], Awaitable[None]]
"""Told how large the node's copy is while it is made."""


@dataclass(frozen=True, kw_only=True)
class NodeDisks:
    """Disks of machines, as their nodes send them."""

    db: Database
    streams: Streams
    silence_s: float = SILENCE_S

    async def fetch(self, checkpoint: str, sink: Sink, gathered: Gathered, *, max_bytes: int) -> None:
        """Bring a whole disk into `sink`. Raises NacreError; `retryable` says whether another try makes sense."""
        async with self.db.read() as rd:
            there = await image_captures.located(rd, checkpoint)
        try:
            async with self.streams.open(there.vm.id, there.node, StreamKind.EXPORT) as stream:
                await stream.send(msgspec.json.encode(DiskWanted(checkpoint=CheckpointId(checkpoint))))
                frames = aiter(stream)
                size = await self._copied(frames, gathered)
                if size > max_bytes:
                    raise too_large(size, max_bytes)
                await sink.begin(Begun(offset=0, total=size, validator=""))
                await self._take(frames, size, sink)
        except UnavailableError as error:
            if error.code not in _OF_CONSOLES:
                raise
            raise UnavailableError(
                error.code, f"the disk did not come: {error.message}", hint="it is tried again by itself"
            ) from error

    async def _copied(self, frames: AsyncIterator[bytes], gathered: Gathered) -> int:
        """Return how large the node's copy is, once it is whole."""
        while True:
            try:
                status = msgspec.json.decode(await self._next(frames), type=DiskStatus)
            except msgspec.MsgspecError as error:
                raise ConflictError(
                    "invalid_answer",
                    "what the node says of the disk cannot be read",
                    hint="update the control plane or the agent, and make the image again",
                ) from error
            if status.code:
                raise _refusal(status)
            if status.size_bytes is not None:
                return status.size_bytes
            await gathered(status.gathered_bytes)

    async def _take(self, frames: AsyncIterator[bytes], size: int, sink: Sink) -> None:
        while size > 0:
            data = await self._next(frames)
            size -= len(data)
            if size < 0:
                raise _short("more comes than the node has announced")
            await sink.write(data)

    async def _next(self, frames: AsyncIterator[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self.silence_s):
                return await anext(frames)
        except StopAsyncIteration as error:
            raise _short("it ended before its end") from error
        except TimeoutError as error:
            raise _short("the node has fallen silent") from error


def _refusal(status: DiskStatus) -> NacreError:
    kind = UnavailableError if status.retryable else ConflictError
    return kind(status.code, status.message, hint=status.hint)


def _short(why: str) -> UnavailableError:
    return UnavailableError("disk_cut_short", f"the disk did not come: {why}", hint="it is tried again by itself")
