"""A small web server with good and bad manners, for everything that fetches."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult


@dataclass
class Site:
    """What the server serves, how, and what it was asked."""

    content: bytes = b""
    etag: str = '"one"'
    ranges: bool = True
    break_after: int | None = None
    """Cut the connection after so many bytes of an answer."""
    break_times: int = 1
    stall_after: int | None = None
    """Send no more after so many bytes, and keep the connection open."""
    status: int | None = None
    hide_length: bool = False
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range of every request."""
    port: int = 0
    scheme: str = "http"
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/disk.img", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked_range = request.headers.get("Range", "")
        self.asked.append((request.path, asked_range))
        if request.path in self.redirects:
            return web.Response(status=302, headers={"Location": self.redirects[request.path]})
        if self.status is not None:
            return web.Response(status=self.status)
        return await self._send(request, self._start(request, asked_range))

    def _start(self, request: web.Request, asked_range: str) -> int:
        if not self.ranges or not asked_range.startswith("bytes=") or request.headers.get("If-Range") != self.etag:
            return 0
        return int(asked_range.removeprefix("bytes=").split("-")[0])

    async def _send(self, request: web.Request, start: int) -> web.StreamResponse:
        total = len(self.content)
        headers = {"ETag": self.etag} if self.etag else {}
        if start >= total > 0:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{total}"})
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        if not self.hide_length:
            response.content_length = total - start
        await response.prepare(request)
        rest = self.content[start:]
        if self.stall_after is not None:
            await response.write(rest[: self.stall_after])
            await self.released.wait()
        elif self.break_after is not None and self.break_times > 0:
            self.break_times -= 1
            await response.write(rest[: self.break_after])
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write(rest)
            await response.write_eof()
        return response


@asynccontextmanager
async def serving(content: bytes = b"", *, tls: ssl.SSLContext | None = None, **manners: Any) -> AsyncGenerator[Site]:
    """Serve on a free port of 127.0.0.1."""
    site = Site(content=content, scheme="https" if tls else "http", **manners)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.answer)
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await server.start()
    site.port = runner.addresses[0][1]
    try:
        yield site
    finally:
        site.released.set()
        await runner.cleanup()


class Names(AbstractResolver):
    """A resolver that says what a test wants, each time the next answer."""

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:  # type: ignore[override]
        self.asked.append(host)
        turns = self.answers.get(host)
        if not turns:
            raise OSError(None, "no such name")
        addresses = turns.pop(0) if len(turns) > 1 else turns[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=10 if ":" in address else 2, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        return None
