"""One request as micro_http reads it, and one answer as it writes it. Used by `wire`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_METHODS = {b"GET", b"PUT", b"PATCH", b"DELETE"}
_VERSIONS = {b"HTTP/1.0", b"HTTP/1.1"}

Answer = tuple[int, object, Mapping[str, str]]
"""Status, body (None, bytes as they are, or anything for JSON), and headers besides the usual ones."""


class ParseError(Exception):
    """A request that is none. Its words are those of micro_http."""


@dataclass
class Request:
    """What has been read of a request."""

    method: str
    path: str
    version: str
    length: int = 0
    expect: bool = False
    body: bytes | None = None
    descriptors: list[int] = field(default_factory=list[int])

    def header(self, line: bytes) -> None:
        """Read one header line. Raises ParseError for what makes the whole request bad; the rest is ignored."""
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ParseError(
                "Invalid header. Reason: Header contains invalid characters. "
                f"Key: invalid utf-8 sequence of 1 bytes from index {error.start}"
            ) from error
        name, colon, value = text.partition(":")
        if not colon:
            raise ParseError(f"Invalid header. Reason: Header is incorrectly formatted. Key: {name}")
        match name.strip().lower():
            case "content-length":
                if not re.fullmatch(r"\+?[0-9]+", value.strip()) or int(value) >= 1 << 32:
                    raise ParseError(f"Invalid header. Reason: Invalid value. Key:{name}; Value:{value}")
                self.length = int(value)
            case "expect":
                self.expect = self.expect or value.strip() == "100-continue"
            case "accept-encoding":
                _check_encoding(value.strip())
            case _:
                pass


def _check_encoding(value: str) -> None:
    if not value:
        raise ParseError("Invalid request.")
    for each in value.split(","):
        if each.strip() == "identity;q=0" or (each.strip() == "*;q=0" and "identity" not in value):
            raise ParseError(f"Invalid header. Reason: Invalid value. Key:Accept-Encoding; Value:{each}")


def request_line(line: bytes) -> Request:
    method, space, rest = line.partition(b" ")
    uri, second, version = rest.partition(b" ")
    if not space or not second:
        raise ParseError("Invalid request.")
    if method not in _METHODS:
        raise ParseError("Invalid HTTP Method: Unsupported HTTP method.")
    if not uri:
        raise ParseError("Invalid URI: Empty URI not allowed.")
    try:
        text = uri.decode()
    except UnicodeDecodeError as error:
        raise ParseError("Invalid URI: Cannot parse URI as UTF-8.") from error
    if version not in _VERSIONS:
        raise ParseError("Invalid HTTP Version: Unsupported HTTP version.")
    return Request(method.decode(), _absolute(text), version.decode())


def _absolute(uri: str) -> str:
    if uri.startswith("http://"):
        _, slash, path = uri.removeprefix("http://").partition("/")
        return slash + path
    return uri if uri.startswith("/") else ""


def encode(server: str, answer: Answer, version: str = "HTTP/1.1") -> bytes:
    """Return an answer as it goes over the wire."""
    status, body, headers = answer
    content = body if isinstance(body, bytes) else b"" if body is None else to_json(body)
    lines = [f"{version} {status} ", f"Server: {server}", "Connection: keep-alive"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if status not in {100, 204}:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


def to_json(value: object) -> bytes:
    """Return JSON as both programs write it: no spaces, UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
