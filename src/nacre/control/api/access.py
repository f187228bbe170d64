"""Who may come in: every route declares its action or that it is public, and every caller shows a token.

`check_declared` runs when the server starts and stops it; `guard` runs for each request before its handler.
What the caller may do with which object is asked by the services.
"""

import hashlib
from typing import Any

from litestar import Litestar, Request
from litestar.handlers import BaseRouteHandler

from nacre.control.api import scopes
from nacre.control.api.bodies import refuse_body, require_body
from nacre.control.api.boundary import request_id_of
from nacre.control.api.calls import Call
from nacre.control.api.parts import Connection, parts_of
from nacre.control.api.queries import Params, parse
from nacre.control.auth.actions import ACTIONS, OWN_ACTIONS
from nacre.control.auth.principals import Caller
from nacre.control.request import Once
from nacre.errors import InvalidInputError, NotFoundError, UnauthenticatedError

MAX_KEY = 255
_SCHEME = "bearer "
_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class UndeclaredRouteError(Exception):
    """A route says neither which action it is nor that it is public. The server does not start."""


def check_declared(app: Litestar) -> None:
    """Raise UndeclaredRouteError unless every route declares a known action, or that it is public."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]:
            if not isinstance(handler, BaseRouteHandler) or _is_options(handler):
                continue
            action = handler.opt.get("action")
            public = handler.opt.get("public") is True
            if public == (action is not None) or (action is not None and action not in ACTIONS.keys() | OWN_ACTIONS):
                raise UndeclaredRouteError(f"{route.path} ({handler.handler_name}): action={action!r} public={public}")


async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Let the request in, with `call` and `params` ready for its handler. Raises NacreError."""
    if not isinstance(connection, Request):
        return  # a WebSocket: its handler calls `enter` itself, to be able to answer in HTTP
    if _is_options(handler):
        return
    if "\0" in connection.scope["path"]:
        raise NotFoundError("no_such_route", "nothing has a NUL in its name", hint="remove it from the path")
    scopes.put(connection.scope, scopes.PARAMS, params_of(connection, handler))
    if not handler.opt.get("public"):
        scopes.put(connection.scope, scopes.CALL, await enter(connection, handler, bearer(connection)))
    await require_body(connection)
    await refuse_body(connection)


async def enter(connection: Connection, handler: BaseRouteHandler, secret: str | None) -> Call:
    """Return the call of an authenticated caller. Raises UnauthenticatedError, InvalidInputError."""
    if secret is None:
        raise UnauthenticatedError(
            "token_missing",
            "this needs a token",
            hint="send Authorization: Bearer <token>; the first one comes from the claim that the first start printed",
        )
    parts = parts_of(connection)
    principal = await parts.requests.authenticate(secret)
    caller = Caller(principal=principal, action=str(handler.opt["action"]), request_id=request_id_of(connection.scope))
    once = await _once(connection, str(principal.token)) if isinstance(connection, Request) else None
    return Call(parts, parts.requests.begin(caller, once), secret, _if_match(connection, handler))


def bearer(connection: Connection) -> str | None:
    """Return the token of the Authorization header, if there is one."""
    header = connection.headers.get("authorization", "")
    return header[len(_SCHEME) :].strip() if header.lower().startswith(_SCHEME) else None


def params_of(connection: Connection, handler: BaseRouteHandler) -> Params:
    """Return the query parameters as the struct that the handler takes. Raises InvalidInputError."""
    definition = handler.parsed_fn_signature.parameters.get("params")
    kind: type[Params] = Params if definition is None else definition.annotation
    return parse(kind, query_of(connection))


def query_of(connection: Connection) -> list[tuple[str, str]]:
    """Return the query parameters as they were sent."""
    return [(name, str(value)) for name, value in connection.query_params.multi_items()]


async def provide_call(request: Request[Any, Any, Any]) -> Call:
    """Hand a handler its `call`."""
    call = scopes.take(request.scope, scopes.CALL)
    assert isinstance(call, Call)
    return call


async def provide_params(request: Request[Any, Any, Any]) -> Params:
    """Hand a handler its `params`."""
    params = scopes.take(request.scope, scopes.PARAMS)
    assert isinstance(params, Params)
    return params


async def _once(connection: Request[Any, Any, Any], token: str) -> Once | None:
    key = connection.headers.get("idempotency-key")
    if key is None or connection.method not in _CHANGES or connection.route_handler.opt.get("streamed"):
        return None
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidInputError(
            "invalid_idempotency_key",
            "the Idempotency-Key is not 1 to 255 printable ASCII characters",
            hint="use a fresh UUID for each change",
            field="Idempotency-Key",
        )
    query = sorted((name, value) for name, value in query_of(connection) if name != "wait")
    used_for = "\n".join([token, connection.method, connection.url.path, repr(query)])
    body = await connection.body()
    return Once(key=key, fingerprint=hashlib.sha256(used_for.encode() + b"\n" + body).hexdigest())


def _if_match(connection: Connection, handler: BaseRouteHandler) -> str | None:
    if_match = connection.headers.get("if-match")
    if if_match is not None and not handler.opt.get("if_match"):
        raise InvalidInputError(
            "if_match_not_supported",
            "this route does not compare entity tags",
            hint="leave If-Match out",
            field="If-Match",
        )
    return if_match


def _is_options(handler: BaseRouteHandler) -> bool:
    return getattr(handler, "http_methods", None) == {"OPTIONS"}
