"""One HTTP conversation with a control plane: addresses, credentials, retries, problems.

Used by every collection of the client. Retries only what cannot happen twice: reads, and changes that carry an
Idempotency-Key. Never follows redirects, so a credential goes to no other host.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import msgspec

from nacre.client import problems
from nacre.errors import InvalidInputError, NacreError

T = TypeVar("T")

Params = list[tuple[str, str]]

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
ATTEMPTS = 4
FIRST_PAUSE_S = 0.15

_RETRIED = frozenset({502, 503})
"""Answers that mean: not now. A resource that ran out (429) or a wait that ended (504) is for the caller to judge."""


def check_url(url: str) -> str:
    """Return `url` without a trailing slash if it can be the address of a control plane. Raises InvalidInputError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise InvalidInputError(
            "invalid_url", f"{url!r} is not the address of a control plane", hint="write http://127.0.0.1:7480"
        )
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether `url` leads to this very host."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(token: str) -> str:
    """Return `token` if it can be sent in a header. Raises InvalidInputError, which does not repeat it."""
    if not all("!" <= char <= "~" for char in token):
        raise InvalidInputError(
            "invalid_token",
            "the token has characters that no token has",
            hint="was it copied with quotes or spaces around it? take what stands between them",
            field="token",
        )
    return token


class Transport:
    """Requests to one control plane as one user. Close it, or use it as a context manager."""

    def __init__(self, url: str, token: str | None, *, ca: Path | None = None, attempts: int = ATTEMPTS) -> None:
        self.url = check_url(url)
        self.token = check_token(token) if token else token
        self.tls = ssl.create_default_context(cafile=str(ca) if ca else None) if url.startswith("https") else None
        self.through_proxy = not is_loopback(url)
        self._attempts = attempts
        headers = {"User-Agent": f"nacre/{version('nacre')}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.AsyncClient(
            headers=headers,
            verify=self.tls if self.tls is not None else False,
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=self.through_proxy,
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def read(self, path: str, answer: type[T], *, params: Params | None = None, timeout_s: float = 0) -> T:
        """GET `path` as an `answer`."""
        response = await self._send("GET", path, params=params, headers={}, content=None, timeout_s=timeout_s)
        return self._decode(response, answer)

    async def read_text(self, path: str, *, params: Params | None = None) -> bytes:
        """GET `path` as bytes."""
        response = await self._send("GET", path, params=params, headers={"Accept": "*/*"}, content=None, timeout_s=0)
        return response.content

    async def change(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: msgspec.Struct | None = None,
        params: Params | None = None,
        if_match: str | None = None,
        wait_s: float = 0,
        key: str | None = None,
        answer_s: float = 0,
    ) -> T:
        """Send a change, at most once in effect: every try carries the same Idempotency-Key.

        `wait_s` lets the server hold its answer until the change is true. `if_match` is the etag that it must meet.
        `answer_s` is how long the change itself may take before there is an answer.
        """
        headers = {"Idempotency-Key": key or str(uuid4())}
        if if_match is not None:
            headers["If-Match"] = if_match if if_match.startswith('"') else f'"{if_match}"'
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(body)
        params = list(params or [])
        if wait_s > 0:
            params.append(("wait", f"{wait_s:g}"))
        response = await self._send(
            method, path, params=params, headers=headers, content=content, timeout_s=wait_s + answer_s
        )
        return self._decode(response, answer)

    async def send_stream(
        self, path: str, answer: type[T], chunks: AsyncIterator[bytes], *, headers: Mapping[str, str], stall_s: float
    ) -> T:
        """PATCH a body of unknown length. One try: whoever calls knows from where to go on. Raises NacreError."""
        try:
            response = await self._http.request(
                "PATCH",
                self.url + path,
                content=chunks,
                headers=dict(headers),
                timeout=httpx2.Timeout(stall_s, connect=CONNECT_TIMEOUT_S),
            )
        except httpx2.TransportError as error:
            raise problems.unreachable(self.url, error) from error
        if response.status_code >= 300:
            raise problems.from_answer(response.status_code, response.content, url=self.url)
        return self._decode(response, answer)

    @asynccontextmanager
    async def open_stream(
        self, path: str, *, params: Params, headers: Mapping[str, str], silence_s: float
    ) -> AsyncGenerator[httpx2.Response, None]:
        """GET `path` as a stream that may stay silent for `silence_s`. One try. Raises NacreError."""
        timeout = httpx2.Timeout(silence_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._http.stream(
                "GET", self.url + path, params=tuple(params), headers=dict(headers), timeout=timeout
            ) as response:
                if response.status_code >= 300:
                    body = await response.aread()
                    raise problems.from_answer(response.status_code, body, url=self.url)
                yield response
        except httpx2.TransportError as error:
            raise problems.unreachable(self.url, error) from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None,
        headers: dict[str, str],
        content: bytes | None,
        timeout_s: float,
    ) -> httpx2.Response:
        """Send until there is an answer worth having. `timeout_s` is added to the usual time for an answer."""
        timeout = httpx2.Timeout(READ_TIMEOUT_S + timeout_s, connect=CONNECT_TIMEOUT_S)
        for attempt in range(1, self._attempts + 1):
            failure: NacreError
            try:
                response = await self._http.request(
                    method,
                    self.url + path,
                    params=tuple(params or ()),
                    headers=headers,
                    content=content,
                    timeout=timeout,
                )
            except httpx2.TransportError as error:
                failure = problems.unreachable(self.url, error)
                failure.__cause__ = error
                pause = 0.0
            else:
                if response.status_code < 300:
                    return response
                failure = problems.from_answer(response.status_code, response.content, url=self.url)
                if response.status_code not in _RETRIED:
                    raise failure
                pause = _retry_after(response)
            if attempt == self._attempts:
                raise failure
            await asyncio.sleep(max(pause, FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.7, 1.3)))  # noqa: S311
        raise AssertionError("unreachable: the loop returns or raises")

    def _decode(self, response: httpx2.Response, answer: type[T]) -> T:
        if answer is type(None):
            return answer()
        try:
            return msgspec.json.decode(response.content, type=answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise problems.undecodable(self.url, error) from error


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks us to stay away, at most five."""
    try:
        return min(5.0, max(0.0, float(response.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0
