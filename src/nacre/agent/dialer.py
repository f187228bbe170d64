"""Connections from this node to its control plane: TLS 1.3 with the node's certificate, or pinned to a fingerprint.

Used by enrolment, the link and streams. Foreign errors end here; what comes out is ours, with a hint.
"""

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from nacre.agent.identity import Identity
from nacre.errors import InvalidInputError, NacreError, UnauthenticatedError, UnavailableError
from nacre.protocol import codec
from nacre.protocol.messages import FromAgent, FromControl, Refused

M = TypeVar("M")

OPEN_TIMEOUT_S = 10.0
RECEIVE_TIMEOUT_S = 30.0
_PING_S = 30.0
_PONG_S = 30.0
SILENT = "control_plane_silent"
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})", re.ASCII)


class RefusedError(NacreError):
    """The control plane said no."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(refusal.code, refusal.message, hint=refusal.hint)
        self.retryable = refusal.retryable


class Dialer:
    """Dials with the node's certificate, the newest one at any time."""

    reach_s: float | None = None
    """After so many seconds, an address that cannot be reached is given up. What follows may take longer."""

    def __init__(self, identity: Identity, connection: type[ClientConnection] = ClientConnection) -> None:
        """`connection` is what connections are made of."""
        self._connection = connection
        self.use(identity)

    def use(self, identity: Identity) -> None:
        """Dial with this identity from now on. Open connections are not touched."""
        try:
            context = trusting(identity.roots_pem)
            context.load_cert_chain(identity.pair)
        except (OSError, ssl.SSLError) as error:
            raise UnavailableError(
                "identity_damaged",
                "the node's key and certificate cannot be used",
                hint="remove the identity folder of the agent's data directory and enrol the node again",
            ) from error
        self._context = context
        self.identity = identity

    @asynccontextmanager
    async def dial(self, address: str, path: str) -> AsyncGenerator[ClientConnection]:
        """Open a connection to a path of the gateway at `address`. Raises UnavailableError and UnauthenticatedError."""
        async with opened(address, path, self._context, self._connection, self.reach_s) as connection:
            yield connection


def trusting(roots_pem: str) -> ssl.SSLContext:
    """Return a context that accepts servers with a certificate of these roots, for the name that is dialled."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=roots_pem)
    return context


def unverified() -> ssl.SSLContext:
    """Return a context that accepts anyone: only to fetch what is then compared with a fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def opened(
    address: str,
    path: str,
    context: ssl.SSLContext,
    kind: type[ClientConnection] = ClientConnection,
    reach_s: float | None = None,
) -> AsyncGenerator[ClientConnection]:
    """Open a connection. Raises UnavailableError and UnauthenticatedError for what goes wrong while it opens."""
    connection = await _open(address, path, context, kind, reach_s)
    try:
        yield connection
    except UnavailableError as error:
        if error.code == SILENT:
            connection.transport.abort()  # a farewell would not be answered either
        raise
    finally:
        await connection.close()


async def send(connection: ClientConnection, message: FromAgent) -> None:
    """Send one message; waits while the other side is behind. Raises UnavailableError when the connection is gone."""
    try:
        await connection.send(codec.encode(message))
    except ConnectionClosed as error:
        raise lost() from error


async def receive(connection: ClientConnection, timeout: float | None = RECEIVE_TIMEOUT_S) -> FromControl:
    """Return the next message. Raises RefusedError if it is a refusal, UnavailableError when there is none."""
    try:
        async with asyncio.timeout(timeout):
            frame = await connection.recv()
    except ConnectionClosed as error:
        raise lost() from error
    except TimeoutError as error:
        raise silent() from error
    if isinstance(frame, str):
        raise InvalidInputError("unreadable_message", "a message came as text", hint="is this a gateway of Nacre?")
    return codec.decode_from_control(frame)


async def expect(connection: ClientConnection, kind: type[M]) -> M:
    """Return the answer to what was sent. Raises RefusedError, UnavailableError, or InvalidInputError if it is none."""
    message = await receive(connection)
    if isinstance(message, Refused):
        raise RefusedError(message)
    if not isinstance(message, kind):
        raise InvalidInputError(
            "unexpected_message",
            f"the control plane answered with {message.__class__.__name__}",
            hint="both sides must speak the same protocol version",
        )
    return message


def lost() -> UnavailableError:
    """Return what to say about a connection that ended."""
    return UnavailableError(
        "connection_lost", "the connection to the control plane ended", hint="it is tried again by itself"
    )


def silent() -> UnavailableError:
    """Return what to say about a control plane that does not answer."""
    return UnavailableError(SILENT, "the control plane does not answer", hint="it is tried again by itself")


async def _open(
    address: str, path: str, context: ssl.SSLContext, kind: type[ClientConnection], reach_s: float | None
) -> ClientConnection:
    host, port = _parts(address)
    reached: socket.socket | None = None
    try:
        reached = None if reach_s is None else await _reach(host, port, reach_s)
        return await connect(
            f"wss://{address}{path}",
            ssl=context,
            compression=None,
            proxy=None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=2,
            ping_interval=_PING_S,
            ping_timeout=_PONG_S,
            max_size=codec.MAX_MESSAGE_BYTES,
            write_limit=codec.CHUNK_BYTES,
            create_connection=kind,
            sock=reached,
        )
    except ssl.SSLCertVerificationError as error:
        raise UnauthenticatedError(
            "control_plane_not_trusted",
            f"{address} did not prove to be the control plane: {error.verify_message}",
            hint="check the address, both clocks, and gateway_advertise of the control plane; enrol again if it is new",
        ) from error
    except (OSError, TimeoutError, EOFError, InvalidHandshake) as error:
        raise UnavailableError(
            "control_plane_unreachable",
            f"{address} cannot be reached: {_reason(error)}",
            hint="is the control plane running, and does a firewall let this port through?",
        ) from error


async def _reach(host: str, port: int, timeout: float) -> socket.socket:
    """Return a connected socket. Raises OSError and TimeoutError."""
    loop = asyncio.get_running_loop()
    error: OSError = OSError(errno.EHOSTUNREACH, "no address is known")
    async with asyncio.timeout(timeout):
        for family, kind, protocol, _, place in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, place)
            except OSError as refused:
                connection.close()
                error = refused
            except BaseException:
                connection.close()
                raise
            else:
                return connection
    raise error


def _parts(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InvalidInputError(
            "invalid_address",
            f"{address!r} is not an address",
            hint="write host:port, such as cloud.example:7481 or [::1]:7481",
        )
    return match["host"].strip("[]"), int(match["port"])


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, InvalidMessage):
        # With TLS 1.3 a server that refuses our certificate does so after we think that all is well, by hanging up.
        return "it hung up; it may not be a gateway, or its clock says that the node's certificate is not valid"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
