"""/v1/operations."""

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import Paged, ProjectName, Waiting, list_query
from nacre.control.services import operations
from nacre.model.operations import OperationState
from nacre.schema.common import OperationOut, Page


class OperationFilters(Paged, frozen=True, kw_only=True):
    """How a list of operations may be narrowed."""

    project: ProjectName | None = None
    """Name or id of a project; all that the caller may see if not given."""
    state: OperationState | None = None
    """Only operations in this state."""
    type: str | None = None
    """Only this type, such as `vm.create`."""
    noun: str | None = None
    """Only on this kind of object."""
    object: str | None = None
    """Only on the object with this id, or on those that had this name then."""


@get("/v1/operations", opt={"action": "operation:list"})
async def list_operations(call: TheCall, params: NamedDependency[OperationFilters]) -> Response[Page[OperationOut]]:
    """List operations on what the caller may see."""
    return await call.read(lambda rd, caller: operations.list_(rd, caller, list_query(params)))


@get("/v1/operations/{operation:str}", opt={"action": "operation:view"})
async def show_operation(
    call: TheCall, operation: FromPath[str], params: NamedDependency[Waiting]
) -> Response[OperationOut]:
    """Show an operation. With `wait`, once it has ended or the time is over."""
    shown = await call.context.read(lambda rd, caller: operations.show(rd, caller, operation))
    if params.wait > 0:
        shown = await call.context.settled(shown, params.wait)
    return Response(shown)


@post("/v1/operations/{operation:str}/cancel", opt={"action": "operation:cancel"}, status_code=200)
async def cancel_operation(call: TheCall, operation: FromPath[str]) -> Response[OperationOut]:
    """Take back what an operation began, where that is still possible."""
    cancellers = call.parts.cancellers
    return await call.change(lambda tx, caller: operations.cancel(tx, caller, operation, cancellers), OperationOut)


ROUTES = (list_operations, show_operation, cancel_operation)
