"""A command in a guest over a WebSocket: its input, its outputs as they come, how it ended. Used by `nacre vm exec`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from nacre.client import problems
from nacre.client.console import Console, open_console
from nacre.client.transport import Transport
from nacre.errors import NacreError
from nacre.model.commands import Channel, ExecRequest, ExecResult, decode_result, frame, unframe

_FRAME_BYTES = 64 << 10


class Command:
    """One command that runs."""

    def __init__(self, socket: Console, url: str) -> None:
        self._socket = socket
        self._url = url
        self.result: ExecResult | None = None
        """How it ended, once `outputs` has."""

    async def outputs(self) -> AsyncIterator[tuple[Channel, bytes]]:
        """Yield what it prints, until it has ended. Raises UnavailableError when nobody says how."""
        async for data in self._socket.output():
            channel, content = unframe(data)
            if channel is Channel.CONTROL:
                self.result = decode_result(content)
                return
            yield channel, content
        raise problems.unreachable(self._url, "the stream ended before the command")


@asynccontextmanager
async def open_command(
    transport: Transport,
    vm: str,
    request: ExecRequest,
    stdin: AsyncIterator[bytes] | None = None,
    *,
    project: str | None = None,
) -> AsyncGenerator[Command]:
    """Run a command in a guest. `stdin` is sent to its end, if `request.stdin` says that there is one."""
    async with open_console(transport, vm, project=project, what="exec") as socket:
        await socket.write(frame(Channel.CONTROL, msgspec.json.encode(request)))
        sending = asyncio.create_task(_send(socket, stdin)) if stdin is not None else None
        try:
            yield Command(socket, transport.url)
        finally:
            if sending is not None:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError, NacreError):
                    await sending


async def _send(socket: Console, stdin: AsyncIterator[bytes]) -> None:
    async for data in stdin:
        for start in range(0, len(data), _FRAME_BYTES):
            await socket.write(frame(Channel.STDIN, data[start : start + _FRAME_BYTES]))
    await socket.write(frame(Channel.STDIN, b""))
