"""HTTP/1.1 over a unix stream socket, for servers that do what they are asked and nothing else.

Called by drivers of hypervisors that are told what to do by REST. One connection and one request at a time, because
such servers take few connections and answer one after the other. Never sends a request twice.
"""

import array
import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h11

from nacre.lib import processes

MAX_BODY = 16 << 20

_CHUNK = 64 << 10
_FULL_S = 0.02


class AnswerLostError(ConnectionError):
    """The request was sent, and what came back is no answer. It may have been obeyed, or not."""


class _Unsent(Exception):  # noqa: N818  # never leaves this module
    """The server hung up before any byte of the request had reached it."""


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    body: object = None
    """Decoded JSON; the text if it is none; None if there was nothing."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """By lower-case name."""

    @property
    def ok(self) -> bool:
        """Whether the request was obeyed."""
        return 200 <= self.status < 300


class UnixHttp:
    """A client of the server at one socket. Connects when it is needed."""

    def __init__(self, path: Path, *, max_body: int = MAX_BODY) -> None:
        """`max_body`: an answer with more bytes is none."""
        self._path = path
        self._max_body = max_body
        self._lock = asyncio.Lock()
        self._socket: socket.socket | None = None
        self._wire = h11.Connection(h11.CLIENT)

    async def connect(self, timeout: float) -> processes.Peer | None:
        """Connect and return who listens, as the kernel says; None if that process has just ended.

        Raises OSError if nobody listens, TimeoutError if the server's queue stays full.
        """
        async with asyncio.timeout(timeout), self._lock:
            return processes.peer(await self._connected())

    async def request(
        self, method: str, target: str, body: object = None, *, timeout: float, descriptors: Sequence[int] = ()
    ) -> Answer:
        """Send a request and return the answer. `body` is sent as JSON; None is no body. `descriptors` ride along.

        Raises AnswerLostError or TimeoutError when the request may have been obeyed, any other OSError when it was
        certainly not: nobody listens. Waiting for earlier requests counts towards `timeout` (seconds). After a time-out
        the connection is given up, so that a late answer is not taken for that of another request.
        """
        head, content = _head(method, target, body)
        async with asyncio.timeout(timeout), self._lock:
            try:
                return await self._exchange(head, content, descriptors)
            except BaseException as error:
                self._drop()
                if isinstance(error, _Unsent):
                    raise ConnectionResetError("the server hangs up on whoever connects") from error
                raise

    async def close(self) -> None:
        """Hang up. The next request connects again."""
        async with self._lock:
            self._drop()

    async def _exchange(self, head: h11.Request, content: bytes, descriptors: Sequence[int]) -> Answer:
        kept = self._socket
        connection = await self._connected()
        try:
            return await self._once(connection, head, content, descriptors)
        except _Unsent:
            if connection is not kept:  # it was new: another one would fare no better
                raise
            # The server hung up after we had looked.
            self._drop()
        return await self._once(await self._connected(), head, content, descriptors)

    async def _once(
        self, connection: socket.socket, head: h11.Request, content: bytes, descriptors: Sequence[int]
    ) -> Answer:
        words = [self._wire.send(head), self._wire.send(h11.Data(content)) if content else b""]
        words.append(self._wire.send(h11.EndOfMessage()))
        unsent = not await _send(connection, b"".join(filter(None, words)), descriptors)
        try:
            answer = await self._receive(connection)
        except AnswerLostError as error:
            if unsent:
                raise _Unsent from error
            raise
        if self._wire.our_state is h11.DONE and self._wire.their_state is h11.DONE and not unsent:
            self._wire.start_next_cycle()
        else:
            self._drop()
        return answer

    async def _receive(self, connection: socket.socket) -> Answer:
        loop = asyncio.get_running_loop()
        found: h11.Response | None = None
        content = bytearray()
        try:
            while True:
                event = self._wire.next_event()
                match event:
                    case h11.NEED_DATA:
                        self._wire.receive_data(await loop.sock_recv(connection, _CHUNK))
                    case h11.Response():
                        found = event
                    case h11.Data():
                        content += event.data
                        if len(content) > self._max_body:
                            raise AnswerLostError(f"the answer is longer than {self._max_body} bytes")
                    case h11.EndOfMessage() if found is not None:
                        return _answer(found, bytes(content))
                    case h11.ConnectionClosed() | h11.PAUSED:
                        raise AnswerLostError("the server hung up instead of answering")
                    case _:
                        pass  # an informational response, such as 100
        except h11.RemoteProtocolError as error:
            raise AnswerLostError(f"the server does not answer in HTTP: {error}") from error
        except AnswerLostError:
            raise
        except OSError as error:
            raise AnswerLostError(f"the connection broke off: {error.strerror}") from error

    async def _connected(self) -> socket.socket:
        """Return a connection that the server has not closed. Raises OSError."""
        if self._socket is not None and _is_quiet(self._socket):
            return self._socket
        self._drop()
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fresh.setblocking(False)
        try:
            while True:
                try:
                    fresh.connect(str(self._path))
                except BlockingIOError:  # its queue is full, and unix sockets do not wait by themselves
                    await asyncio.sleep(_FULL_S)
                else:
                    break
        except BaseException:
            fresh.close()
            raise
        self._socket = fresh
        self._wire = h11.Connection(h11.CLIENT)
        return fresh

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def decode(content: bytes) -> object:
    """Read JSON as these servers write it, with raw newlines in strings; what is none comes back as text."""
    text = content.decode(errors="replace")
    if not text.strip():
        return None
    try:
        found: object = json.loads(text, strict=False)
    except ValueError:
        return text
    return found


def _head(method: str, target: str, body: object) -> tuple[h11.Request, bytes]:
    headers = [("Host", "localhost"), ("Accept", "application/json")]
    content = b""
    if body is not None:
        content = json.dumps(body).encode()
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    return h11.Request(method=method, target=target, headers=headers), content


def _answer(head: h11.Response, content: bytes) -> Answer:
    headers = {name.decode().lower(): value.decode(errors="replace") for name, value in head.headers}
    return Answer(head.status_code, decode(content), headers)


async def _send(connection: socket.socket, data: bytes, descriptors: Sequence[int]) -> bool:
    """Send everything; the descriptors go with the first byte. Returns False if the server took nothing at all."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    rest = memoryview(data)
    while rest:
        try:
            sent = connection.sendmsg([rest], rights)
        except BlockingIOError:
            await _writable(connection)
        except (BrokenPipeError, ConnectionResetError):
            # What it has said before it hung up can still be read, and says why.
            return len(rest) < len(data)
        else:
            rest, rights = rest[sent:], []
    return True


async def _writable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(connection)


def _is_quiet(connection: socket.socket) -> bool:
    """Whether a connection is open and nothing unasked has come over it."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
