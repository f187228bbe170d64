"""The outermost layer around the application: request ids, security headers, counting, and the last resort.

An ASGI application that wraps another. Never looks at bodies.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from os import urandom

import structlog
from litestar.enums import HttpMethod
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from litestar.types.asgi_types import HTTPResponseStartEvent
from structlog.contextvars import bind_contextvars, clear_contextvars

from nacre.control.api import problems, scopes
from nacre.control.api.calls import NO_CONTENT
from nacre.control.api.metrics import Metrics

log = structlog.get_logger()

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
UNKNOWN_ROUTE = "none"

_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_DEFAULTS: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Sent unless the answer has its own."""


def request_id_of(scope: Scope) -> str:
    """Return the id of a request that came through the boundary."""
    return str(scopes.take(scope, scopes.REQUEST_ID) or "")


class Boundary:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, methods_of: Callable[[str], Sequence[str]]) -> None:
        """`methods_of` returns what a path takes; OPTIONS is answered with it, here."""
        self._app = app
        self._metrics = metrics
        self._methods_of = methods_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scopes.put(scope, scopes.REQUEST_ID, request_id)
        clear_contextvars()
        bind_contextvars(request_id=request_id)
        if scope["type"] == "http":
            await self._http(scope, receive, send, request_id)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: HTTPScope, receive: Receive, send: Send, request_id: str) -> None:
        began = time.monotonic()
        status = 0
        asked = scope["method"]
        if asked == "HEAD":
            scope = {**scope, "method": HttpMethod.GET}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _complete(message, request_id)
            await send(message)

        self._metrics.open.inc()
        try:
            methods = self._methods_of(scope["path"]) if scope["method"] == "OPTIONS" else ()
            if methods:
                await _answer(send_with_headers, NO_CONTENT, [(b"allow", ", ".join(methods).encode())])
            elif asked == "HEAD":
                await _answer_headers(self._app, scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("http.defect", path=scope["path"], method=scope["method"])
            if status:
                raise  # the answer has begun: all that is left is to break the connection
            await _answer_defect(send_with_headers, request_id)
        finally:
            self._metrics.open.dec()
            self._record(scope, asked, status, time.monotonic() - began)

    def _record(self, scope: HTTPScope, method: str, status: int, seconds: float) -> None:
        route = str(scopes.take(scope, "path_template") or UNKNOWN_ROUTE)
        self._metrics.count(method, route, status, seconds)
        write = log.info if method in _CHANGES or status >= problems.INTERNAL else log.debug
        write("http.answered", method=method, route=route, status=status, ms=round(seconds * 1000, 1))


async def _answer_headers(app: ASGIApp, scope: HTTPScope, receive: Receive, send: Send) -> None:
    """Answer HEAD as GET without a body. Nobody works on once the headers are sent: some answers never end."""
    begun = asyncio.Event()

    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            begun.set()

    answering = asyncio.ensure_future(app(scope, receive, send_headers))
    waiting = asyncio.ensure_future(begun.wait())
    try:
        await asyncio.wait({answering, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
    finally:
        answering.cancel()
        waiting.cancel()
        await asyncio.gather(answering, waiting, return_exceptions=True)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return urandom(12).hex()


def _complete(message: HTTPResponseStartEvent, request_id: str) -> list[tuple[bytes, bytes]]:
    headers = list(message["headers"])
    present = {name.lower() for name, _ in headers}
    headers += [pair for pair in _DEFAULTS if pair[0] not in present]
    return [*headers, *_HEADERS, (b"x-request-id", request_id.encode())]


async def _answer_defect(send: Send, request_id: str) -> None:
    body = problems.encode(problems.of_defect(request_id))
    headers = [(b"content-type", problems.MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await _answer(send, problems.INTERNAL, headers, body)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
