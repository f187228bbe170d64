"""Fetch a file by URL on behalf of a user, without becoming that user's hand inside our own network.

Called by `control/reconcilers/image_fetches.py`. Every address is checked at the moment of connecting to it, so that a
name which changes its mind between a check and the connection gains nothing; every redirect is a new URL and is
checked like the first. Never uses a proxy of the environment, never sends credentials, never decompresses.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from nacre.errors import InvalidInputError, NacreError, TooLargeError, UnavailableError
from nacre.lib.addresses import AddressGuard

_CHUNK = 1 << 18  # what a broken connection may cost: aiohttp drops what it has buffered
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRY_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_PORTS_REFUSED = frozenset({22, 23, 25, 110, 143, 465, 587, 993, 995, 6379, 11211})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of everything."""

    max_bytes: int = 1 << 40
    redirects: int = 5
    connect_s: float = 15.0
    silence_s: float = 60.0
    """The longest wait for the next bytes."""
    total_s: float = 6 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Where an earlier try broke off. `validator` is a strong ETag or a Last-Modified: the same file as then."""

    offset: int = 0
    validator: str = ""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a server announces before the bytes: given to `Sink.begin`, which then gets them from `offset` on."""

    offset: int
    total: int | None
    validator: str


class Sink(Protocol):
    """Where the bytes go."""

    async def begin(self, begun: Begun) -> None:
        """Make ready for bytes from `begun.offset` on, forgetting everything behind it."""
        ...

    async def write(self, data: bytes) -> None:
        """Take the next bytes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches under one set of rules. `resolver` and `tls` are for tests and for private authorities."""

    guard: AddressGuard = field(default_factory=AddressGuard)
    limits: Limits = field(default_factory=Limits)
    resolver: AbstractResolver | None = None
    tls: ssl.SSLContext | None = None

    async def fetch(self, url: str, sink: Sink, resume: Resume | None = None) -> int:
        """Bring the whole file into `sink` and return its size.

        Raises NacreError; `retryable` says whether another try makes sense. What has arrived by then stays in the sink.
        """
        where = check_url(url, self.guard)
        denied: list[str] = []
        try:
            async with asyncio.timeout(self.limits.total_s), self._session(denied) as session:
                return await self._follow(session, where, sink, resume or Resume())
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise _unreachable(where, "it did not answer in time") from error
        except aiohttp.InvalidURL as error:
            raise _no(where, "fetch_url", "the redirect leads to no valid URL", hint="give the final URL") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise _no(
                where, "fetch_certificate", "its certificate is not valid", hint="use a server with one"
            ) from error
        except aiohttp.ClientError as error:
            raise (_forbidden(where) if denied else _unreachable(where, _reason(error))) from error

    async def _follow(self, session: aiohttp.ClientSession, url: URL, sink: Sink, resume: Resume) -> int:
        for _ in range(self.limits.redirects + 1):
            async with session.get(url, allow_redirects=False, headers=_headers(resume)) as response:
                if response.status not in _REDIRECTS:
                    return await self._receive(url, response, sink, resume)
                url = self._next(url, response.headers.get("Location", ""))
        raise _no(url, "fetch_redirects", f"more than {self.limits.redirects} redirects", hint="give the final URL")

    def _session(self, denied: list[str]) -> aiohttp.ClientSession:
        """Make a session whose sockets come from `guarded`: for exactly the address that is connected to next."""

        def guarded(info: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
            family, kind, protocol, _, address = info
            if not self.guard.permits(str(address[0])):
                denied.append(str(address[0]))
                raise PermissionError("this address is not allowed")
            return socket.socket(family, kind, protocol)

        connector = aiohttp.TCPConnector(
            resolver=self.resolver or ThreadedResolver(),
            socket_factory=guarded,
            use_dns_cache=False,
            force_close=True,
            limit=1,
            ssl=self.tls or True,
        )
        silence = aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_s, sock_read=self.limits.silence_s)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=silence,
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_CHUNK,
            requote_redirect_url=False,
        )

    def _next(self, url: URL, location: str) -> URL:
        if not location:
            raise _no(url, "fetch_redirects", "a redirect that leads nowhere", hint="give the final URL")
        try:
            target = url.join(URL(location))
        except ValueError as error:
            raise _no(url, "fetch_url", "the redirect leads to no valid URL", hint="give the final URL") from error
        checked = check_url(str(target), self.guard)
        if url.scheme == "https" and checked.scheme == "http":
            raise _no(url, "fetch_downgrade", "it redirects from https to http", hint="give the http URL itself")
        return checked

    async def _receive(self, url: URL, response: aiohttp.ClientResponse, sink: Sink, resume: Resume) -> int:
        begun = _begun(url, response, resume)
        if begun is None:  # nothing is behind what we have
            return resume.offset
        largest = self.limits.max_bytes
        if begun.total is not None and begun.total > largest:
            raise _too_large(begun.total, largest)
        await sink.begin(begun)
        received = begun.offset
        async for chunk in response.content.iter_chunked(_CHUNK):
            received += len(chunk)
            if received > largest:
                raise _too_large(received, largest)
            await sink.write(chunk)
        if begun.total is not None and received != begun.total:
            raise _unreachable(url, f"it ended after {received} of {begun.total} bytes")
        return received


def check_url(text: str, guard: AddressGuard) -> URL:
    """Return the URL if it may be tried at all. Raises InvalidInputError."""
    hint = "give an http or https URL, such as https://example.org/images/disk.qcow2"
    try:
        url = URL(text)
        port = url.port
    except ValueError as error:
        raise InvalidInputError("fetch_url", "this is not a URL", hint=hint) from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidInputError("fetch_url", "only http and https URLs with a host can be fetched", hint=hint)
    if url.user is not None or url.password is not None:
        raise InvalidInputError(
            "fetch_url", "the URL holds a user name or password", hint="make it public or signed, or upload the image"
        )
    if port in _PORTS_REFUSED or port == 0:
        raise InvalidInputError("fetch_url", f"port {port} is not one of a web server", hint=hint)
    if _is_literal(url.host) and not guard.permits(url.host):
        raise _forbidden(url)
    return url


def _is_literal(host: str) -> bool:
    """Whether the host is an address, also in the old short spellings (`127.1`, `0x7f000001`)."""
    if ":" in host:
        return True
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True


def _headers(resume: Resume) -> dict[str, str]:
    headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "nacre"}
    if resume.offset and resume.validator:
        headers |= {"Range": f"bytes={resume.offset}-", "If-Range": resume.validator}
    return headers


def _begun(url: URL, response: aiohttp.ClientResponse, resume: Resume) -> Begun | None:
    """Return what follows, None if we have it all. Raises NacreError for every answer that is not the file."""
    status = response.status
    if status == 200:
        return Begun(offset=0, total=response.content_length, validator=_validator(response))
    if status in {206, 416} and resume.offset and resume.validator:
        start, total = _content_range(response.headers.get("Content-Range", ""))
        if status == 416 and total == resume.offset:
            return None
        if status == 206 and start == resume.offset:
            return Begun(offset=resume.offset, total=total, validator=_validator(response) or resume.validator)
        raise _unreachable(url, "it sent another part of the file than was asked for")
    if status in _TRY_LATER:
        raise _unreachable(url, f"it answered {status} {response.reason or ''}".strip())
    hint = "check the link in a browser" if status in {404, 410} else "make it readable without a login, or upload it"
    raise _no(url, "fetch_answer", f"it answered {status} {response.reason or ''}".strip(), hint=hint)


def _validator(response: aiohttp.ClientResponse) -> str:
    etag = response.headers.get("ETag", "")
    if etag.startswith('"') and len(etag) <= 256:
        return etag
    return "" if etag else response.headers.get("Last-Modified", "")[:64]


def _content_range(text: str) -> tuple[int | None, int | None]:
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes":
        return None, None
    return (int(first) if first.isdecimal() else None), (int(total) if total.isdecimal() else None)


def _no(url: URL, code: str, message: str, *, hint: str) -> InvalidInputError:
    return InvalidInputError(code, f"{url.host}: {message}", hint=hint)


def _forbidden(url: URL) -> InvalidInputError:
    return _no(
        url,
        "fetch_address",
        "this address is private, local or reserved, images are not fetched from there",
        hint="use a public server, upload the image, or let an operator add its network to fetch_allow",
    )


def _too_large(size: int, largest: int) -> TooLargeError:
    return TooLargeError(
        "image_too_large",
        f"{size} bytes, at most {largest} are taken",
        hint="make the image smaller: qcow2, compressed",
    )


def _unreachable(url: URL, reason: str) -> NacreError:
    return UnavailableError(
        "fetch_failed", f"{url.host}: {reason}", hint="it is tried again; check the server and link"
    )


def _reason(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection broke off"
    return "the connection failed"
