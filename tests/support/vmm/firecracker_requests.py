"""From a request to an action of Firecracker's, or to its words for why not. Used by the stand-in."""

import json
import re
from dataclasses import dataclass

from support.vmm.firecracker_rules import BODIES, BODILESS, EMPTY, ROUTES, TOLERANT, Action, Field, Version

Body = dict[str, object]

_SIZES = {"u8": 8, "u16": 16, "u32": 32, "u64": 64, "usize": 64}
_WITH_IDS = {"drives", "pmem", "network-interfaces"}
_IDS = {"drives": "drive_id", "pmem": "id", "network-interfaces": "iface_id"}
_PARSE = "An error occurred when deserializing the json body of a request: "
_DEPRECATED = {"mem_file_path", "enable_diff_snapshots", "vsock_id", "cpu_template"}


class RefusedError(Exception):
    """What Firecracker answers instead of doing it."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


@dataclass(frozen=True)
class Asked:
    """An action, and with what."""

    action: Action
    id: str
    body: Body
    deprecated: bool = False


def read(method: str, path: str, body: bytes | None, version: Version) -> Asked:
    """Understand a request. Raises RefusedError."""
    tokens = path.lstrip("/").split("/")
    if tokens[-1] == "":
        tokens.pop()
    first = tokens[0] if tokens else ""
    _check_presence(method, first, tokens, body)
    identifier = ""
    key = "/".join(tokens)
    if first in _WITH_IDS:
        if method == "GET":
            raise _unknown(method, first)
        identifier = _checked_id(tokens[1] if len(tokens) > 1 else "")
        key = f"{first}/*"
    action = ROUTES.get((method, key))
    if action is None or action.since > version:
        raise _unknown(method, f"/snapshot/{tokens[1]}" if first == "snapshot" and len(tokens) > 1 else first)
    if not action.body or body is None:
        return Asked(action, identifier, {})
    partial = action.name == "patch_machine"
    found = _decode(body, action.body, version, partial=partial)
    if identifier:
        _check_same(first, identifier, str(found[_IDS[first]]))
    if action.name == "load":
        _check_backend(found)
    return Asked(action, identifier, found, deprecated=bool(_DEPRECATED & found.keys()))


def _check_presence(method: str, first: str, tokens: list[str], body: bytes | None) -> None:
    known = any(route[0] == method and route[1].split("/")[0] == first for route in ROUTES)
    if (method in {"GET", "DELETE"}) == (body is None):
        return
    route = ROUTES.get((method, "/".join(tokens)))
    if body is None and route is not None and route.name in BODILESS:
        return
    if known or body is not None or method in {"PUT", "PATCH"}:
        raise RefusedError(EMPTY[method])


def _unknown(method: str, token: str) -> RefusedError:
    return RefusedError(f"Invalid request method and/or path: {method} {token}.")


def _checked_id(text: str) -> str:
    if not text:
        raise RefusedError("The ID cannot be empty.")
    if not re.fullmatch(r"[\w]+", text):
        raise RefusedError("API Resource IDs can only contain alphanumeric characters and underscores.")
    return text


def _check_same(kind: str, path: str, body: str) -> None:
    if path == body:
        return
    if kind == "network-interfaces":
        raise RefusedError(f"The id from the path [{path}] does not match the id from the body [{body}]!")
    raise RefusedError("The id from the path does not match the id from the body!")


def _check_backend(body: Body) -> None:
    both = {"mem_backend", "mem_file_path"} & body.keys()
    if len(both) == 2:
        raise RefusedError(f"{_PARSE}too many fields: either `mem_backend` or `mem_file_path` exclusively is required.")
    if not both:
        raise RefusedError(f"{_PARSE}missing field: either `mem_backend` or `mem_file_path` is required.")


def _decode(body: bytes, name: str, version: Version, *, partial: bool) -> Body:
    try:
        text = body.decode()
        value = json.loads(text)
    except ValueError as error:
        at = f"line {getattr(error, 'lineno', 1)} column {getattr(error, 'colno', 0)}"
        raise RefusedError(f"{_PARSE}expected value at {at}.") from error
    return _Reader(text, version, partial=partial).body(value, name)


class _Reader:
    def __init__(self, text: str, version: Version, *, partial: bool) -> None:
        self._text = text
        self._version = version
        self._partial = partial

    def body(self, value: object, name: str) -> Body:
        if not isinstance(value, dict):
            if name == "Any":
                raise self._no(f"invalid type: {_said(value)}, expected a map", None)
            raise self._no(f"invalid type: {_said(value)}, expected struct {name}", None)
        if name == "Any":
            return value
        fields = {key: field for key, field in BODIES[name].items() if field.since <= self._version}
        found: Body = {}
        for key, each in value.items():
            if key in fields:
                if each is not None:
                    found[key] = self._value(key, each, fields[key])
            elif name not in TOLERANT:
                raise self._no(f"unknown field `{key}`, expected {_listed(list(fields))}", key)
        for key, field in fields.items():
            if field.required and key not in found and not self._partial:
                raise self._no(f"missing field `{key}`", None)
        return found

    def _value(self, key: str, value: object, field: Field) -> object:
        kind = field.kind
        if kind in BODIES:
            return self.body(value, kind)
        if kind.startswith("["):
            if not isinstance(value, list):
                raise self._no(f"invalid type: {_said(value)}, expected a sequence", key)
            return [self._value(key, each, Field(kind[1:-1])) for each in value]
        if "|" in kind:
            if value not in kind.split("|"):
                raise self._no(f"unknown variant `{value}`, expected {_listed(kind.split('|'))}", key)
            return value
        if not _fits(value, kind):
            word = {"bool": "a boolean", "string": "a string", "mac": "a MAC address"}.get(kind, kind)
            what = "value" if kind in _SIZES and isinstance(value, int) and not isinstance(value, bool) else "type"
            raise self._no(f"invalid {what}: {_said(value)}, expected {word}", key)
        return value

    def _no(self, text: str, key: str | None) -> RefusedError:
        at = len(self._text) if key is None else self._text.find(f'"{key}"') + len(key) + 2
        return RefusedError(f"{_PARSE}{text} at line 1 column {at}.")


def _fits(value: object, kind: str) -> bool:
    if kind == "any":
        return True
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str)
    if kind == "mac":
        return isinstance(value, str) and bool(re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", value))
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << _SIZES[kind]


def _said(value: object) -> str:
    match value:
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value}"'
        case None:
            return "null"
        case list():
            return "sequence"
        case _:
            return "map"


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    if len(quoted) == 1:
        return quoted[0]
    return " or ".join(quoted) if len(quoted) == 2 else "one of " + ", ".join(quoted)
