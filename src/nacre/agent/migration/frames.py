"""Frames on a connection between two agents, and the connection itself. Used by `dial` and `listener`."""

import asyncio
import contextlib
import socket
from typing import TypeVar

from nacre.errors import InvalidInputError, UnavailableError
from nacre.protocol import migration as wire

F = TypeVar("F")

IDLE_S = 5
SILENT_S = 15
"""A connection whose other end is silent for so long is over, even if nobody says so."""
WRITE_LIMIT = 1 << 20


async def send(writer: asyncio.StreamWriter, message: wire.Open | wire.Opened) -> None:
    """Send a frame. Raises OSError."""
    writer.write(wire.encode(message))
    await writer.drain()


async def receive(reader: asyncio.StreamReader, form: type[F], timeout: float) -> F:
    """Return the next frame. Raises UnavailableError when none comes, InvalidInputError for something else."""
    try:
        async with asyncio.timeout(timeout):
            length = int.from_bytes(await reader.readexactly(4), "big")
            if length > wire.MAX_FRAME:
                raise InvalidInputError(
                    "unreadable_message", "the other node's agent sent a frame that is too long", hint="is it an agent?"
                )
            return wire.decode(await reader.readexactly(length), form)
    except (TimeoutError, EOFError, OSError) as error:
        raise lost() from error


def lost() -> UnavailableError:
    """Return what to say about a connection that ended too early."""
    return UnavailableError(
        "migration_line_lost",
        "the connection between both nodes broke",
        hint="it is tried again by itself; look at the network between the nodes",
    )


def watch_over(writer: asyncio.StreamWriter) -> None:
    """Have the kernel find out when the other end is gone without a word."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is None:
        return
    writer.transport.set_write_buffer_limits(high=WRITE_LIMIT)
    options = (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 2),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", SILENT_S * 1000),
    )
    for level, name, value in options:
        if hasattr(socket, name):  # not all of them exist everywhere
            with contextlib.suppress(OSError):
                connection.setsockopt(level, getattr(socket, name), value)


async def close(writer: asyncio.StreamWriter) -> None:
    """Send what waits, and end the connection."""
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(SILENT_S):
            await writer.wait_closed()
