"""/v1/users."""

from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import Paged, list_query
from nacre.control.services import users
from nacre.schema.access import UserCreate, UserOut
from nacre.schema.common import Page


class UserFilters(Paged, frozen=True, kw_only=True):
    """How a list of users may be narrowed."""

    name: str | None = None
    """Exactly this name."""


@post("/v1/users", opt={"action": "user:create"})
async def create_user(call: TheCall, data: JSONBody[UserCreate]) -> Response[UserOut]:
    """Create a user, who can do nothing before a grant and a token."""
    return await call.create(
        lambda tx, caller: users.create(tx, caller, data), UserOut, at=lambda made: f"/v1/users/{made.id}"
    )


@get("/v1/users", opt={"action": "user:list"})
async def list_users(call: TheCall, params: NamedDependency[UserFilters]) -> Response[Page[UserOut]]:
    """List users."""
    return await call.read(lambda rd, caller: users.list_(rd, caller, list_query(params)))


@get("/v1/users/{user:str}", opt={"action": "user:view"})
async def show_user(call: TheCall, user: FromPath[str]) -> Response[UserOut]:
    """Show a user, by name or id."""
    return await call.show(lambda rd, caller: users.show(rd, caller, user))


@delete("/v1/users/{user:str}", opt={"action": "user:delete", "if_match": True})
async def delete_user(call: TheCall, user: FromPath[str]) -> None:
    """Delete a user with all tokens and grants."""
    await call.remove(lambda tx, caller: users.delete(tx, caller, user, if_match=call.if_match))


ROUTES = (create_user, list_users, show_user, delete_user)
