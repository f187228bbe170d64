"""/v1/moves, and the request to move a machine."""

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import ALL_PROJECTS, InProject, Paged, ProjectName, list_query
from nacre.control.services import move_requests
from nacre.model.moves import MoveReason, MoveState
from nacre.schema.common import Page
from nacre.schema.moves import MoveOut, VmMove


class MoveFilters(Paged, frozen=True, kw_only=True):
    """How a list of moves may be narrowed."""

    project: ProjectName = ALL_PROJECTS
    """Name or id of a project, or `*` for all that the caller may see."""
    state: MoveState | None = None
    """Only moves in this state."""
    reason: MoveReason | None = None
    """Only moves that were begun for this."""
    node: str | None = None
    """Name or id of a node: only moves from or to it."""
    vm: str | None = None
    """Name or id of a machine: only its moves."""
    drain: str | None = None
    """Id of a drain: only what it moves."""


@post("/v1/vms/{vm:str}/move", opt={"action": "vm:move"})
async def move_vm(
    call: TheCall, vm: FromPath[str], params: NamedDependency[InProject], data: JSONBody[VmMove | None] = None
) -> Response[MoveOut]:
    """Move a machine to another node: while it runs if that is possible, else it is stopped and started there."""
    body = data or VmMove()
    return await call.create(
        lambda tx, caller: move_requests.begin(tx, caller, vm, body, project=params.project),
        MoveOut,
        at=lambda made: f"/v1/moves/{made.id}",
    )


@get("/v1/moves", opt={"action": "move:list"})
async def list_moves(call: TheCall, params: NamedDependency[MoveFilters]) -> Response[Page[MoveOut]]:
    """List moves of machines between nodes."""
    return await call.read(lambda rd, caller: move_requests.list_(rd, caller, list_query(params)))


@get("/v1/moves/{move:str}", opt={"action": "move:view"})
async def show_move(call: TheCall, move: FromPath[str]) -> Response[MoveOut]:
    """Show how a move stands."""
    return await call.read(lambda rd, caller: move_requests.show(rd, caller, move))


@post("/v1/moves/{move:str}/abort", opt={"action": "move:abort"}, status_code=200)
async def abort_move(call: TheCall, move: FromPath[str]) -> Response[MoveOut]:
    """Take a move back while its machine has not left its node."""
    return await call.change(lambda tx, caller: move_requests.abort(tx, caller, move), MoveOut)


ROUTES = (move_vm, list_moves, show_move, abort_move)
