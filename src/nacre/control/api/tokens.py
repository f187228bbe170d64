"""/v1/tokens, /v1/me, and /v1/claim, where the first token comes from."""

import asyncio
from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.boundary import request_id_of
from nacre.control.api.calls import CREATED, TheCall
from nacre.control.api.parts import parts_of
from nacre.control.api.queries import Paged, list_query
from nacre.control.services import tokens
from nacre.schema.access import ClaimBody, MeOut, TokenCreate, TokenCreated, TokenOut
from nacre.schema.common import Page


class TokenFilters(Paged, frozen=True, kw_only=True):
    """How a list of tokens may be narrowed."""

    name: str | None = None
    """Exactly this name."""
    user: str | None = None
    """Name or id of the owner; needs the platform's administrator for another's."""


@post("/v1/claim", opt={"public": True, "errors": (400, 401, 413, 500, 503)})
async def claim(request: Request[Any, Any, Any], data: JSONBody[ClaimBody]) -> Response[TokenCreated]:
    """Turn the one-time claim of the first start into the first administrator and a token. Works once."""
    parts = parts_of(request)
    made = await parts.requests.redeem_claim(data, request_id_of(request.scope))
    await asyncio.to_thread(parts.settings.claim_path.unlink, missing_ok=True)
    return Response(made, status_code=CREATED)


@get("/v1/me", opt={"action": "me:view"})
async def show_me(call: TheCall) -> Response[MeOut]:
    """Show who the caller is and what the caller holds."""
    return await call.read(tokens.me)


@post("/v1/tokens", opt={"action": "token:create"})
async def create_token(call: TheCall, data: JSONBody[TokenCreate]) -> Response[TokenCreated]:
    """Make an API token. Its secret is in the answer and nowhere else."""
    return await call.create(
        lambda tx, caller: tokens.create(tx, caller, data),
        TokenCreated,
        at=lambda made: f"/v1/tokens/{made.token.id}",
        secret=True,
    )


@get("/v1/tokens", opt={"action": "token:list"})
async def list_tokens(call: TheCall, params: NamedDependency[TokenFilters]) -> Response[Page[TokenOut]]:
    """List one's own tokens; an administrator sees those of all."""
    return await call.read(lambda rd, caller: tokens.list_(rd, caller, list_query(params)))


@get("/v1/tokens/{token:str}", opt={"action": "token:view"})
async def show_token(call: TheCall, token: FromPath[str]) -> Response[TokenOut]:
    """Show a token without its secret, by name (one's own) or id."""
    return await call.read(lambda rd, caller: tokens.show(rd, caller, token))


@delete("/v1/tokens/{token:str}", opt={"action": "token:delete"})
async def revoke_token(call: TheCall, token: FromPath[str]) -> None:
    """Make a token useless, at once."""
    await call.remove(lambda tx, caller: tokens.revoke(tx, caller, token))


ROUTES = (claim, show_me, create_token, list_tokens, show_token, revoke_token)
