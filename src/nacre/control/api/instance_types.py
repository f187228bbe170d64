"""/v1/instance-types."""

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import InProject, LabelledInProject, list_query
from nacre.control.services import instance_types
from nacre.schema.common import Page
from nacre.schema.instance_types import InstanceTypeCreate, InstanceTypeOut, InstanceTypeUpdate


class InstanceTypeFilters(LabelledInProject, frozen=True, kw_only=True):
    """How a list of instance types may be narrowed."""

    name: str | None = None
    """Exactly this name."""


@post("/v1/instance-types", opt={"action": "instance-type:create"})
async def create_instance_type(call: TheCall, data: JSONBody[InstanceTypeCreate]) -> Response[InstanceTypeOut]:
    """Create an instance type of a project, or with a null `project` of the platform."""
    return await call.create(
        lambda tx, caller: instance_types.create(tx, caller, data),
        InstanceTypeOut,
        at=lambda made: f"/v1/instance-types/{made.id}",
    )


@get("/v1/instance-types", opt={"action": "instance-type:list"})
async def list_instance_types(
    call: TheCall, params: NamedDependency[InstanceTypeFilters]
) -> Response[Page[InstanceTypeOut]]:
    """List the instance types of a project, and those of the platform."""
    return await call.read(lambda rd, caller: instance_types.list_(rd, caller, list_query(params)))


@get("/v1/instance-types/{instance_type:str}", opt={"action": "instance-type:view"})
async def show_instance_type(
    call: TheCall, instance_type: FromPath[str], params: NamedDependency[InProject]
) -> Response[InstanceTypeOut]:
    """Show an instance type, by name or id. A name means the project's own before the platform's."""
    return await call.show(lambda rd, caller: instance_types.show(rd, caller, instance_type, project=params.project))


@patch("/v1/instance-types/{instance_type:str}", opt={"action": "instance-type:update", "if_match": True})
async def update_instance_type(
    call: TheCall, instance_type: FromPath[str], data: JSONBody[InstanceTypeUpdate], params: NamedDependency[InProject]
) -> Response[InstanceTypeOut]:
    """Change fields of an instance type, as a new revision. Machines that exist stay as they are."""
    return await call.change(
        lambda tx, caller: instance_types.update(
            tx, caller, instance_type, data, project=params.project, if_match=call.if_match
        ),
        InstanceTypeOut,
    )


@delete("/v1/instance-types/{instance_type:str}", opt={"action": "instance-type:delete", "if_match": True})
async def delete_instance_type(call: TheCall, instance_type: FromPath[str], params: NamedDependency[InProject]) -> None:
    """Delete an instance type. Machines that were made from it stay as they are."""
    await call.remove(
        lambda tx, caller: instance_types.delete(
            tx, caller, instance_type, project=params.project, if_match=call.if_match
        )
    )


ROUTES = (
    create_instance_type,
    list_instance_types,
    show_instance_type,
    update_instance_type,
    delete_instance_type,
)
