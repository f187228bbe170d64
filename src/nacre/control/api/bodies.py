"""Request bodies: JSON decoded strictly into the type that the handler declares, errors in our words.

Litestar would convert leniently (`"4"` as 4); this decodes with msgspec's strict rules before it gets the chance.
"""

import re
from difflib import get_close_matches
from typing import Any, get_args, get_origin

import msgspec
from litestar import Request
from litestar.datastructures import State

from nacre.control.api import wrong_values
from nacre.control.api.queries import without_none
from nacre.errors import InvalidInputError

MAX_BODY_BYTES = 1 << 20

_AT = re.compile(r" - at `(?P<path>.+)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`", re.DOTALL)


async def require_body(request: Request[Any, Any, Any]) -> None:
    """Raise InvalidInputError if the handler needs a body and there is none."""
    definition = request.route_handler.parsed_fn_signature.parameters.get("data")
    if definition is not None and not definition.has_default and not await request.body():
        raise InvalidInputError(
            "missing_body", "this needs a JSON body", hint="see the body of this route in /openapi.yaml"
        )


async def refuse_body(request: Request[Any, Any, Any]) -> None:
    """Raise InvalidInputError if there is a body that the handler would ignore. An empty object or null is none."""
    if request.route_handler.opt.get("streamed") or "data" in request.route_handler.parsed_fn_signature.parameters:
        return
    # Without either of these headers HTTP/1.1 has no body, and what most requests lack is not waited for.
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return
    if "".join((await request.body()).decode(errors="replace").split()) not in {"", "{}", "null"}:
        raise InvalidInputError(
            "unexpected_body",
            "this takes no body, and there is one",
            hint="leave the body out; what this route takes is in /openapi.yaml",
        )


class StrictRequest(Request[Any, Any, State]):
    """A request whose JSON is decoded once, strictly, into the type of the handler's `data`."""

    __slots__ = ()

    async def json(self) -> Any:
        """Return the body as what the handler wants. Raises InvalidInputError."""
        definition = self.route_handler.parsed_fn_signature.parameters["data"]
        self._need_json()
        return decode(await self.body(), definition.annotation)

    def _need_json(self) -> None:
        media_type, _ = self.content_type
        if media_type not in {"application/json", ""}:
            raise InvalidInputError(
                "not_json",
                f"the body is {media_type[:80]}, not JSON",
                hint="send it with Content-Type: application/json",
            )


def decode(body: bytes, kind: Any) -> Any:
    """Return a body as a `kind`. Raises InvalidInputError that names the field."""
    if rb"\u0000" in body:
        raise InvalidInputError("nul_character", "the body has a NUL character", hint="remove \\u0000 from its texts")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(
            "malformed_json", f"the body is not JSON: {error}", hint="check quotes, commas and the encoding (UTF-8)"
        ) from error


def _explain(message: str, kind: Any) -> InvalidInputError:
    at = _AT.search(message)
    path = _path(at["path"]) if at else ""
    said = _AT.sub("", message)
    if unknown := _UNKNOWN.match(said):
        name = unknown["name"][:80]
        known = _fields(kind, path)
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known fields: {', '.join(known)}"
        return InvalidInputError(
            "unknown_field", f"there is no field {name!r} here", hint=hint, field=_join(path, name)
        )
    if missing := _MISSING.match(said):
        name = missing["name"]
        return InvalidInputError("missing_field", f"{name} is missing", hint=f"give {name}", field=_join(path, name))
    wrong, right = wrong_values.said(said, _at_path(kind, path))
    return InvalidInputError(
        "invalid_field",
        f"{path or 'the body'}: {wrong}",
        hint=right or "see the field in /openapi.yaml",
        field=path or None,
    )


def _path(path: str) -> str:
    """Turn `$.publish[...].host_port` into `publish[].host_port`."""
    return path.removeprefix("key in ").removeprefix("$").removeprefix(".").replace("[...]", "[]")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fields(kind: Any, path: str) -> list[str]:
    """Names of the fields of the struct at `path` below `kind`, as far as that can be told."""
    kind = without_none(_at_path(kind, path))
    return list(kind.__struct_fields__) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else []


def _at_path(kind: Any, path: str) -> Any:
    """Return the type of what is at `path` below `kind`, None if that cannot be told."""
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        kind = _below(kind, part)
    return kind


def _below(kind: Any, part: str) -> Any:
    kind = without_none(kind)
    while get_origin(kind) is not None and not isinstance(kind, type) and hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    if part.startswith("["):
        of = get_args(kind)
        return next(iter(of[1:] if get_origin(kind) is dict else of), None)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return next((f.type for f in msgspec.structs.fields(kind) if f.name == part), None)
    return None
