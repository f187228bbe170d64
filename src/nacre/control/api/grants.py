"""/v1/grants."""

from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import Paged, list_query
from nacre.control.services import grants
from nacre.model.access import Role
from nacre.schema.access import GrantCreate, GrantOut
from nacre.schema.common import Page


class GrantFilters(Paged, frozen=True, kw_only=True):
    """How a list of grants may be narrowed."""

    user: str | None = None
    """Name or id of the user who holds them."""
    role: Role | None = None
    """Only this role."""


@post("/v1/grants", opt={"action": "grant:create"})
async def create_grant(call: TheCall, data: JSONBody[GrantCreate]) -> Response[GrantOut]:
    """Give a user a role, on one project or on the whole platform."""
    return await call.create(
        lambda tx, caller: grants.create(tx, caller, data), GrantOut, at=lambda made: f"/v1/grants/{made.id}"
    )


@get("/v1/grants", opt={"action": "grant:list"})
async def list_grants(call: TheCall, params: NamedDependency[GrantFilters]) -> Response[Page[GrantOut]]:
    """List the grants that the caller may see."""
    return await call.read(lambda rd, caller: grants.list_(rd, caller, list_query(params)))


@get("/v1/grants/{grant:str}", opt={"action": "grant:view"})
async def show_grant(call: TheCall, grant: FromPath[str]) -> Response[GrantOut]:
    """Show a grant, by id."""
    return await call.read(lambda rd, caller: grants.show(rd, caller, grant))


@delete("/v1/grants/{grant:str}", opt={"action": "grant:delete"})
async def delete_grant(call: TheCall, grant: FromPath[str]) -> None:
    """Take a role away."""
    await call.remove(lambda tx, caller: grants.delete(tx, caller, grant))


ROUTES = (create_grant, list_grants, show_grant, delete_grant)
