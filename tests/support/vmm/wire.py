"""The HTTP layer that Firecracker and Cloud Hypervisor share, as they speak it on their unix sockets. For stand-ins.

Both are built on the same small server (micro_http): at most ten connections, four methods, no chunks, no reason
phrases, one request at a time, and what is wrong with a request is answered in JSON that is none. A stand-in gives
`Server` a handler; everything that a client may stumble over is here, `Faults` included.
"""

import array
import contextlib
import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from support.vmm.faults import Faults
from support.vmm.requests import Answer, ParseError, Request, encode, request_line

MAX_CONNECTIONS = 10
BUFFER = 1024
"""Bytes that are looked at together: no line may be longer."""
FIRECRACKER_BODY = 51200
CLOUD_HYPERVISOR_BODY = 4 << 20
FULL = (
    b"HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n"
    b'{ "error": "Too many open connections" }'
)
"""What the eleventh connection is told, whoever the server is."""
TRACE = "NACRE_STAND_IN_TRACE"
"""Environment variable: a file to which each request is appended as a line of JSON."""

_MOST_DESCRIPTORS = 253
_HUNG_UP = select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP

Handler = Callable[[str, str, bytes | None, list[int]], Answer]
"""Gets method, path, body and descriptors. Those that it leaves in the list are closed after it."""


class Connection:
    """One client: what it has sent so far, and what is still to be sent to it."""

    def __init__(self, stream: socket.socket, server: str, body_limit: int) -> None:
        self.stream = stream
        self.outgoing: deque[bytes] = deque()
        self.closed = False
        self._server = server
        self._limit = body_limit
        self._kept = b""
        self._descriptors: list[int] = []
        self._state = "line"
        self._request: Request | None = None
        self._body = bytearray()

    def read(self) -> list[Request]:
        """Take what has come, at most a bufferful, and return the requests that it completes."""
        if len(self._kept) >= BUFFER:
            return self._refuse(ParseError("Overflow occurred when parsing a request."))
        try:
            data, ancillary, _, _ = self.stream.recvmsg(
                BUFFER - len(self._kept), socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
            )
        except BlockingIOError:
            return []
        except OSError as error:
            self.outgoing.append(encode("Firecracker API", (500, str(error).encode(), {})))
            return []
        self._descriptors += _received(ancillary)
        if not data:
            self.closed = True
            return []
        try:
            return self._parse(self._kept + data)
        except ParseError as error:  # what was kept stays as it was, and so does what is waited for
            return self._refuse(error)

    def write(self) -> None:
        """Send one answer, or as much of it as goes through."""
        data = self.outgoing.popleft()
        try:
            sent = self.stream.send(data)
        except OSError:
            self.drop()
            return
        if sent < len(data):
            self.outgoing.appendleft(data[sent:])

    def drop(self) -> None:
        """Forget this client."""
        self.outgoing.clear()
        self.closed = True

    def close(self) -> None:
        """Close everything that it left."""
        close(self._descriptors)
        self.stream.close()

    def _refuse(self, error: ParseError) -> list[Request]:
        text = f'{{ "error": "{error}\nAll previous unanswered requests will be dropped." }}'
        self.outgoing.append(encode("Firecracker API", (400, text.encode(), {})))
        return []

    def _parse(self, data: bytes) -> list[Request]:
        done: list[Request] = []
        begin: int | None = 0
        while begin is not None:
            at = begin
            begin = self._take_body(data, at) if self._state == "body" else self._take_line(data, at)
            if self._state == "ready" and self._request is not None:
                self._request.descriptors = self._descriptors
                self._descriptors = []
                done.append(self._request)
                self._request = None
                self._state = "line"
        return done

    def _take_line(self, data: bytes, begin: int) -> int | None:
        end = data.find(b"\r\n", begin)
        if end < 0:
            if begin == 0 and len(data) == BUFFER:
                if self._state == "line":
                    raise ParseError("Invalid request.")
                shown = data.decode(errors="replace")
                raise ParseError(f"Invalid header. Reason: Invalid content length. Header: {shown}")
            self._kept = data[begin:]
            return None
        line = data[begin:end]
        if self._state == "line" or self._request is None:
            self._request = request_line(line)
            self._state = "headers"
        elif line:
            self._request.header(line)
        else:
            self._end_of_headers(self._request)
        return end + 2

    def _end_of_headers(self, request: Request) -> None:
        if request.length == 0:
            self._state = "ready"
            return
        if request.length > self._limit:
            raise ParseError(
                f"Request payload with size {request.length} is larger than the limit of {self._limit} "
                "allowed by server."
            )
        if request.expect:
            self.outgoing.append(encode("Firecracker API", (100, None, {}), request.version))
        self._body = bytearray()
        self._state = "body"

    def _take_body(self, data: bytes, begin: int) -> int | None:
        assert self._request is not None
        missing = self._request.length - len(self._body)
        self._body += data[begin : begin + missing]
        if len(data) - begin < missing:
            self._kept = b""
            return None
        self._request.body = bytes(self._body)
        self._state = "ready"
        return begin + missing


class Server:
    """One API socket. Answers one request at a time, whoever asks, in the thread that calls `serve`."""

    def __init__(
        self,
        path: Path | str | socket.socket,
        handler: Handler,
        *,
        name: str = "Firecracker API",
        body_limit: int = FIRECRACKER_BODY,
        faults: Faults | None = None,
        trace: Path | None = None,
    ) -> None:
        """Bind as the real ones do, where a path that is there already is an OSError; or take a socket that listens."""
        self._handler = handler
        self._name = name
        self._limit = body_limit
        self._faults = faults or Faults()
        self._trace = trace or (Path(os.environ[TRACE]) if os.environ.get(TRACE) else None)
        self._listener = path if isinstance(path, socket.socket) else _bound(path)
        self._connections: dict[int, Connection] = {}
        self._hung = False
        self._waking, self._woken = socket.socketpair()
        self._stopped = False
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN | select.EPOLLRDHUP)
        self._epoll.register(self._woken, select.EPOLLIN)

    def serve(self) -> None:
        """Answer until `stop`, then send what is still to be sent."""
        while not self._stopped:
            self._round()
        for connection in self._connections.values():
            connection.stream.setblocking(True)
            while connection.outgoing:
                connection.write()

    def stop(self) -> None:
        """End `serve`, from a handler or from another thread."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._waking.send(b".")

    def close(self) -> None:
        """Close everything. The path of the socket stays, as after the real ones."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._epoll.close()
        for each in (self._listener, self._waking, self._woken):
            each.close()

    def _round(self) -> None:
        requests: list[tuple[Connection, Request]] = []
        for descriptor, events in self._epoll.poll():
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._connections:
                requests += self._progress(self._connections[descriptor], events)
        for descriptor, connection in list(self._connections.items()):
            if connection.closed and not any(each is connection for each, _ in requests):
                self._forget(descriptor, connection)
        for connection, request in requests:
            self._handle(connection, request)

    def _progress(self, connection: Connection, events: int) -> list[tuple[Connection, Request]]:
        found: list[Request] = []
        if events & _HUNG_UP:
            connection.drop()  # whoever closes only one direction hears nothing either
        elif events & select.EPOLLIN:
            found = connection.read()
        elif events & select.EPOLLOUT:
            connection.write()
        self._listen_to(connection)
        return [(connection, request) for request in found]

    def _listen_to(self, connection: Connection) -> None:
        """Nothing is read from a client that has not taken its answers yet."""
        if not connection.closed:
            wanted = select.EPOLLOUT if connection.outgoing else select.EPOLLIN
            self._epoll.modify(connection.stream, wanted | select.EPOLLRDHUP)

    def _accept(self) -> None:
        stream, _ = self._listener.accept()
        if len(self._connections) >= MAX_CONNECTIONS:
            with stream, contextlib.suppress(OSError):
                stream.send(FULL)
            return
        stream.setblocking(False)
        self._connections[stream.fileno()] = Connection(stream, self._name, self._limit)
        self._epoll.register(stream, select.EPOLLIN | select.EPOLLRDHUP)

    def _forget(self, descriptor: int, connection: Connection) -> None:
        del self._connections[descriptor]
        self._epoll.unregister(descriptor)
        connection.close()

    def _handle(self, connection: Connection, request: Request) -> None:
        self._note(request)
        fault = self._faults.find(request.method, request.path)
        kind = fault.kind if fault else ""
        if fault and kind == "crash":
            os._exit(fault.exit_code)
        if fault and kind in {"slow", "hang"}:  # everybody waits: there is one thread
            deadline = time.monotonic() + (fault.seconds if kind == "slow" else float("inf"))
            while time.monotonic() < deadline and not self._stopped:
                time.sleep(0.01)
        if fault and kind == "503":
            encoded = FULL
        elif fault and kind == "refuse":
            encoded = encode(self._name, (fault.status, fault.body, {}))
        else:
            encoded = encode(self._name, self._answer(request))
        close(request.descriptors)
        if fault and kind == "crash-after":
            os._exit(fault.exit_code)
        if kind in {"drop", "silent", "503"}:
            with contextlib.suppress(OSError):
                connection.stream.send({"drop": encoded[: len(encoded) // 2], "silent": b""}.get(kind, encoded))
                connection.stream.shutdown(socket.SHUT_RDWR)
            connection.drop()
        elif not connection.closed:
            connection.outgoing.append(encoded)
            self._listen_to(connection)

    def _answer(self, request: Request) -> Answer:
        return self._handler(request.method, request.path, request.body, request.descriptors)

    def _note(self, request: Request) -> None:
        if self._trace is None:
            return
        body = None if request.body is None else request.body.decode(errors="replace")
        line = {"server": self._name, "method": request.method, "path": request.path, "body": body}
        with self._trace.open("a") as file:
            file.write(json.dumps(line) + "\n")


def close(descriptors: list[int]) -> None:
    """Close descriptors that a client has sent."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    descriptors.clear()


def _bound(path: Path | str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    listener.listen(128)
    return listener


def _received(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
