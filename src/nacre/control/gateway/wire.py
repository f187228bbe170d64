"""One connection of an agent: whole messages in and out, with a limit of time on each, and how to say no.

Used by everything in the gateway.
"""

import asyncio
import fcntl
import struct
import termios
from typing import TypeVar

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from nacre.errors import InvalidInputError, NacreError, UnavailableError
from nacre.protocol import codec
from nacre.protocol.messages import FromAgent, FromControl, Refused

M = TypeVar("M")

SEND_TIMEOUT_S = 30.0
"""An agent that does not take what it is sent for this long is given up."""
FIRST_MESSAGE_TIMEOUT_S = 10.0


class PeerGoneError(UnavailableError):
    """The connection ended, in good order or not."""

    def __init__(self) -> None:
        super().__init__("connection_closed", "the connection is closed", hint="connect again")


async def send(connection: ServerConnection, message: FromControl, timeout: float = SEND_TIMEOUT_S) -> None:
    """Send one message. Raises PeerGoneError, also when the agent is too slow and was cut off for it."""
    await send_bytes(connection, codec.encode(message), timeout)


async def send_bytes(connection: ServerConnection, data: bytes, timeout: float = SEND_TIMEOUT_S) -> None:
    """Send one binary frame, as `send` does."""
    try:
        async with asyncio.timeout(timeout):
            await connection.send(data)
    except ConnectionClosed as error:
        raise PeerGoneError from error
    except TimeoutError as error:
        connection.transport.abort()
        raise PeerGoneError from error


async def receive(connection: ServerConnection, timeout: float | None = None) -> FromAgent:
    """Return the next message. Raises PeerGoneError, also after `timeout`; InvalidInputError if it is unreadable."""
    try:
        async with asyncio.timeout(timeout):
            frame = await connection.recv()
    except (ConnectionClosed, TimeoutError) as error:
        raise PeerGoneError from error
    if isinstance(frame, str):
        raise InvalidInputError(
            "unreadable_message", "a message came as text", hint="messages are binary frames of msgpack"
        )
    return codec.decode_from_agent(frame)


async def first(connection: ServerConnection, kind: type[M]) -> M:
    """Return the message that opens a conversation. Raises InvalidInputError if it is of another kind."""
    message = await receive(connection, FIRST_MESSAGE_TIMEOUT_S)
    if not isinstance(message, kind):
        raise unexpected(message)
    return message


def has_unread(connection: ServerConnection) -> bool:
    """Whether something has arrived that nobody has received: in the queue of messages, or still in the socket."""
    if len(connection.recv_messages.frames) > 0:
        return True
    socket = connection.transport.get_extra_info("socket")
    if socket is None or connection.transport.is_closing():
        return False
    waiting: bytes = fcntl.ioctl(socket.fileno(), termios.FIONREAD, struct.pack("i", 0))
    return struct.unpack("i", waiting)[0] > 0


def unexpected(message: FromAgent) -> InvalidInputError:
    """Return what to say about a message that has no place here."""
    return InvalidInputError(
        "unexpected_message",
        f"a message of kind {message.__class__.__name__} has no place here",
        hint="both sides must speak the same protocol version",
    )


def refusal(error: NacreError) -> Refused:
    """Return `error` as a message."""
    return Refused(code=error.code, message=error.message, hint=error.hint, retryable=error.retryable)
