"""/v1/projects."""

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import Labelled, list_query
from nacre.control.services import projects
from nacre.schema.access import ProjectCreate, ProjectOut, ProjectUpdate
from nacre.schema.common import Page


class ProjectFilters(Labelled, frozen=True, kw_only=True):
    """How a list of projects may be narrowed."""

    name: str | None = None
    """Exactly this name."""


@post("/v1/projects", opt={"action": "project:create"})
async def create_project(call: TheCall, data: JSONBody[ProjectCreate]) -> Response[ProjectOut]:
    """Create a project. Its creator becomes its admin."""
    return await call.create(
        lambda tx, caller: projects.create(tx, caller, data), ProjectOut, at=lambda made: f"/v1/projects/{made.id}"
    )


@get("/v1/projects", opt={"action": "project:list"})
async def list_projects(call: TheCall, params: NamedDependency[ProjectFilters]) -> Response[Page[ProjectOut]]:
    """List the projects that the caller may see."""
    return await call.read(lambda rd, caller: projects.list_(rd, caller, list_query(params)))


@get("/v1/projects/{project:str}", opt={"action": "project:view"})
async def show_project(call: TheCall, project: FromPath[str]) -> Response[ProjectOut]:
    """Show a project, by name or id."""
    return await call.show(lambda rd, caller: projects.show(rd, caller, project))


@patch("/v1/projects/{project:str}", opt={"action": "project:update", "if_match": True})
async def update_project(call: TheCall, project: FromPath[str], data: JSONBody[ProjectUpdate]) -> Response[ProjectOut]:
    """Change fields of a project."""
    return await call.change(
        lambda tx, caller: projects.update(tx, caller, project, data, if_match=call.if_match), ProjectOut
    )


@delete("/v1/projects/{project:str}", opt={"action": "project:delete", "if_match": True})
async def delete_project(call: TheCall, project: FromPath[str]) -> None:
    """Delete a project that holds nothing."""
    await call.remove(lambda tx, caller: projects.delete(tx, caller, project, if_match=call.if_match))


ROUTES = (create_project, list_projects, show_project, update_project, delete_project)
