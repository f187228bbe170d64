"""A machine's serial console over a WebSocket: bytes both ways, scrollback first. Its screen and commands come alike.

Used by `nacre vm console`, `nacre vm display` and `commands`. Knows nothing of terminals.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from nacre.client import problems
from nacre.client.collection import in_project, segment
from nacre.client.transport import CONNECT_TIMEOUT_S, Transport
from nacre.errors import UnavailableError

MAX_FRAME_BYTES = 4 << 20
NORMAL_CLOSE = frozenset({1000})
"""The server has nothing more to say; anything else is a connection that broke."""


class Console:
    """One open console."""

    def __init__(self, connection: ClientConnection, url: str, what: str = "console") -> None:
        self._connection = connection
        self._url = url
        self._what = what

    async def write(self, data: bytes) -> None:
        """Type `data`. Raises UnavailableError when the console is gone."""
        try:
            await self._connection.send(data)
        except ConnectionClosed as error:
            raise self._gone(error) from error

    async def output(self) -> AsyncIterator[bytes]:
        """Yield what the guest prints, scrollback first. Ends when the server closes the console in good order.

        Raises UnavailableError when the connection breaks: connect again.
        """
        try:
            async for message in self._connection:
                yield message.encode() if isinstance(message, str) else message
        except ConnectionClosed as error:
            raise self._gone(error) from error
        if self._connection.close_code not in NORMAL_CLOSE:
            raise problems.unreachable(self._url, f"the {self._what} closed ({self._connection.close_code})")

    @property
    def reason(self) -> str:
        """Why the server closed the console, in its words; empty if it said nothing."""
        return self._connection.close_reason or ""

    def _gone(self, error: ConnectionClosed) -> UnavailableError:
        said = error.rcvd.reason if error.rcvd is not None else ""
        return problems.unreachable(self._url, said or "the connection broke")


@asynccontextmanager
async def open_console(
    transport: Transport, ref: str, *, project: str | None = None, what: str = "console"
) -> AsyncGenerator[Console, None]:
    """Connect to the console of a machine, or to `what` else it has. Raises NacreError."""
    address = transport.url.replace("http", "ws", 1) + f"/v1/vms/{segment(ref)}/{what}"
    if project:
        address += "?" + urlencode(in_project(project))
    headers = {"Authorization": f"Bearer {transport.token}"} if transport.token else {}
    opening = connect(
        address,
        additional_headers=headers,
        ssl=transport.tls,
        proxy=True if transport.through_proxy else None,
        open_timeout=CONNECT_TIMEOUT_S + 10,
        ping_interval=20,
        ping_timeout=20,
        close_timeout=2,
        max_size=MAX_FRAME_BYTES,
        compression=None,
    )
    try:
        connection = await opening
    except InvalidStatus as error:
        raise problems.from_answer(
            error.response.status_code, bytes(error.response.body or b""), url=transport.url
        ) from error
    except (InvalidHandshake, OSError, TimeoutError) as error:
        raise problems.unreachable(transport.url, error) from error
    try:
        yield Console(connection, transport.url, what)
    finally:
        await connection.close()
