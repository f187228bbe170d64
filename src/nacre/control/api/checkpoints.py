"""/v1/vms/{vm}/checkpoints and /v1/vms/{vm}/restore: machines kept as they are, and put back."""

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import ACCEPTED, TheCall
from nacre.control.api.queries import InProject, Paged, ProjectName, WaitingInProject, list_query
from nacre.control.request import Reading
from nacre.control.services import checkpoints, vms
from nacre.schema.checkpoints import CheckpointCreate, CheckpointOut, CheckpointUpdate, VmRestore
from nacre.schema.common import Accepted, Page
from nacre.schema.vms import VmOut

AcceptedVm = Accepted[VmOut]


class CheckpointFilters(Paged, frozen=True, kw_only=True):
    """How a list of checkpoints may be narrowed."""

    project: ProjectName = "default"
    """Name or id of the project that the machine's name is looked for in. Not needed with an id."""
    name: str | None = None
    """Exactly this name."""


def _again(vm: str) -> Reading[VmOut]:
    return lambda rd, caller: vms.show(rd, caller, vm)


@post("/v1/vms/{vm:str}/checkpoints", opt={"action": "vm:checkpoint"}, status_code=ACCEPTED)
async def create_checkpoint(
    call: TheCall, vm: FromPath[str], data: JSONBody[CheckpointCreate], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Take a checkpoint of a machine: its root disk and volumes at one instant, and its memory if asked for."""
    return await call.accept(
        lambda tx, caller: checkpoints.create(tx, caller, vm, data, project=params.project),
        AcceptedVm,
        _again,
        params.wait,
    )


@get("/v1/vms/{vm:str}/checkpoints", opt={"action": "vm:view"})
async def list_checkpoints(
    call: TheCall, vm: FromPath[str], params: NamedDependency[CheckpointFilters]
) -> Response[Page[CheckpointOut]]:
    """List the checkpoints of a machine."""
    return await call.read(
        lambda rd, caller: checkpoints.list_(rd, caller, vm, list_query(params), project=params.project)
    )


@get("/v1/vms/{vm:str}/checkpoints/{checkpoint:str}", opt={"action": "vm:view"})
async def show_checkpoint(
    call: TheCall, vm: FromPath[str], checkpoint: FromPath[str], params: NamedDependency[InProject]
) -> Response[CheckpointOut]:
    """Show a checkpoint, by name or id."""
    return await call.read(lambda rd, caller: checkpoints.show(rd, caller, vm, checkpoint, project=params.project))


@patch("/v1/vms/{vm:str}/checkpoints/{checkpoint:str}", opt={"action": "vm:protect"})
async def update_checkpoint(
    call: TheCall,
    vm: FromPath[str],
    checkpoint: FromPath[str],
    data: JSONBody[CheckpointUpdate],
    params: NamedDependency[InProject],
) -> Response[CheckpointOut]:
    """Describe a checkpoint, protect it or not, and say when it expires."""
    return await call.change(
        lambda tx, caller: checkpoints.update(tx, caller, vm, checkpoint, data, project=params.project),
        CheckpointOut,
    )


@delete("/v1/vms/{vm:str}/checkpoints/{checkpoint:str}", opt={"action": "vm:checkpoint"}, status_code=ACCEPTED)
async def delete_checkpoint(
    call: TheCall, vm: FromPath[str], checkpoint: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Delete a checkpoint that is not protected. The machine, and machines made from it, stay as they are."""
    return await call.accept(
        lambda tx, caller: checkpoints.delete(tx, caller, vm, checkpoint, project=params.project),
        AcceptedVm,
        _again,
        params.wait,
    )


@post("/v1/vms/{vm:str}/restore", opt={"action": "vm:restore", "if_match": True}, status_code=ACCEPTED)
async def restore_vm(
    call: TheCall, vm: FromPath[str], data: JSONBody[VmRestore], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Put a machine back to one of its checkpoints. With memory it goes on where it was."""
    return await call.accept(
        lambda tx, caller: checkpoints.restore(tx, caller, vm, data, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


ROUTES = (create_checkpoint, list_checkpoints, show_checkpoint, update_checkpoint, delete_checkpoint, restore_vm)
