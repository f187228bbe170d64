"""/v1/vms: what is asked of machines. Consoles and logs are in `consoles`."""

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import ACCEPTED, TheCall
from nacre.control.api.queries import InProject, LabelledInProject, Waiting, WaitingInProject, list_query
from nacre.control.request import Reading
from nacre.control.services import vms
from nacre.model.vms import Desired, Phase
from nacre.schema.common import Accepted, AcceptedBatch, Page
from nacre.schema.vms import VmCreate, VmOut, VmStop, VmUpdate

AcceptedVm = Accepted[VmOut]


class VmFilters(LabelledInProject, frozen=True, kw_only=True):
    """How a list of machines may be narrowed."""

    name: str | None = None
    """Exactly this name."""
    desired: Desired | None = None
    """Only machines that should be in this state."""
    phase: Phase | None = None
    """Only machines that are in this phase."""
    node: str | None = None
    """Name or id of the node that they are placed on."""
    image: str | None = None
    """Name or id of the image that they boot from."""
    template: str | None = None
    """Name or id of the template that they were made from, of any revision; of one that is gone, its id."""
    instance_type: str | None = None
    """Name or id of the instance type that they were made from; of one that is gone, its id."""


def _again(vm: str) -> Reading[VmOut]:
    return lambda rd, caller: vms.show(rd, caller, vm)


@post("/v1/vms", opt={"action": "vm:create"}, status_code=ACCEPTED)
async def create_vm(
    call: TheCall, data: JSONBody[VmCreate], params: NamedDependency[Waiting]
) -> Response[AcceptedBatch[VmOut]]:
    """Create a machine and, unless `start` is false, start it. With `count`, create so many, all of them or none."""
    return await call.accept_batch(
        lambda tx, caller: vms.create(tx, caller, data, sealer=call.parts.sealer),
        AcceptedBatch[VmOut],
        _again,
        params.wait,
    )


@get("/v1/vms", opt={"action": "vm:list"})
async def list_vms(call: TheCall, params: NamedDependency[VmFilters]) -> Response[Page[VmOut]]:
    """List the machines of a project."""
    return await call.read(lambda rd, caller: vms.list_(rd, caller, list_query(params)))


@get("/v1/vms/{vm:str}", opt={"action": "vm:view"})
async def show_vm(call: TheCall, vm: FromPath[str], params: NamedDependency[InProject]) -> Response[VmOut]:
    """Show a machine, by name or id."""
    return await call.show(lambda rd, caller: vms.show(rd, caller, vm, project=params.project))


@patch("/v1/vms/{vm:str}", opt={"action": "vm:update", "if_match": True}, status_code=ACCEPTED)
async def update_vm(
    call: TheCall, vm: FromPath[str], data: JSONBody[VmUpdate], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Change fields of a machine. What needs a restart is named in `restart_required` until it happened."""
    return await call.accept(
        lambda tx, caller: vms.update(
            tx, caller, vm, data, project=params.project, if_match=call.if_match, sealer=call.parts.sealer
        ),
        AcceptedVm,
        _again,
        params.wait,
    )


@delete("/v1/vms/{vm:str}", opt={"action": "vm:delete", "if_match": True}, status_code=ACCEPTED)
async def delete_vm(
    call: TheCall, vm: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Delete a machine and its disk."""
    return await call.accept(
        lambda tx, caller: vms.delete(tx, caller, vm, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


@post("/v1/vms/{vm:str}/start", opt={"action": "vm:start", "if_match": True}, status_code=ACCEPTED)
async def start_vm(
    call: TheCall, vm: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Start a machine."""
    return await call.accept(
        lambda tx, caller: vms.start(tx, caller, vm, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


@post("/v1/vms/{vm:str}/stop", opt={"action": "vm:stop", "if_match": True}, status_code=ACCEPTED)
async def stop_vm(
    call: TheCall,
    vm: FromPath[str],
    params: NamedDependency[WaitingInProject],
    data: JSONBody[VmStop | None] = None,
) -> Response[Accepted[VmOut]]:
    """Stop a machine: its guest is asked first, and switched off when it takes too long or with `force`."""
    stop = data or VmStop()
    return await call.accept(
        lambda tx, caller: vms.stop(tx, caller, vm, stop, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


@post("/v1/vms/{vm:str}/reboot", opt={"action": "vm:reboot", "if_match": True}, status_code=ACCEPTED)
async def reboot_vm(
    call: TheCall, vm: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Ask the guest to shut down, then start it again."""
    return await call.accept(
        lambda tx, caller: vms.reboot(tx, caller, vm, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


@post("/v1/vms/{vm:str}/reset", opt={"action": "vm:reset", "if_match": True}, status_code=ACCEPTED)
async def reset_vm(
    call: TheCall, vm: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Press the reset button: the guest is not asked."""
    return await call.accept(
        lambda tx, caller: vms.reset(tx, caller, vm, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


@post("/v1/vms/{vm:str}/pause", opt={"action": "vm:pause", "if_match": True}, status_code=ACCEPTED)
async def pause_vm(
    call: TheCall, vm: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Stop the virtual CPUs. Memory stays."""
    return await call.accept(
        lambda tx, caller: vms.pause(tx, caller, vm, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


@post("/v1/vms/{vm:str}/resume", opt={"action": "vm:resume", "if_match": True}, status_code=ACCEPTED)
async def resume_vm(
    call: TheCall, vm: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Let the virtual CPUs run again."""
    return await call.accept(
        lambda tx, caller: vms.resume(tx, caller, vm, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


ROUTES = (
    create_vm,
    list_vms,
    show_vm,
    update_vm,
    delete_vm,
    start_vm,
    stop_vm,
    reboot_vm,
    reset_vm,
    pause_vm,
    resume_vm,
)
