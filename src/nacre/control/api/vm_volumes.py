"""/v1/vms/{vm}/volumes: which volumes a machine has."""

from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import ACCEPTED, TheCall
from nacre.control.api.queries import InProject, WaitingInProject
from nacre.control.request import Reading
from nacre.control.services import vms, volume_plugs
from nacre.schema.common import Accepted, Page
from nacre.schema.vms import VmOut
from nacre.schema.volumes import AttachmentOut, VolumeAttach

AcceptedVm = Accepted[VmOut]


def _again(vm: str) -> Reading[VmOut]:
    return lambda rd, caller: vms.show(rd, caller, vm)


@get("/v1/vms/{vm:str}/volumes", opt={"action": "vm:view"})
async def list_attachments(
    call: TheCall, vm: FromPath[str], params: NamedDependency[InProject]
) -> Response[Page[AttachmentOut]]:
    """List the volumes of a machine, in the order in which it sees them."""
    return await call.read(lambda rd, caller: volume_plugs.list_(rd, caller, vm, project=params.project))


@post("/v1/vms/{vm:str}/volumes", opt={"action": "vm:attach", "if_match": True}, status_code=ACCEPTED)
async def attach_volume(
    call: TheCall, vm: FromPath[str], data: JSONBody[VolumeAttach], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Attach a volume to a machine. A running one gets it at once, or names it in `restart_required`."""
    return await call.accept(
        lambda tx, caller: volume_plugs.attach(tx, caller, vm, data, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


@delete("/v1/vms/{vm:str}/volumes/{volume:str}", opt={"action": "vm:detach", "if_match": True}, status_code=ACCEPTED)
async def detach_volume(
    call: TheCall, vm: FromPath[str], volume: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VmOut]]:
    """Take a volume back from a machine. It is free once the machine has let go of it."""
    return await call.accept(
        lambda tx, caller: volume_plugs.detach(tx, caller, vm, volume, project=params.project, if_match=call.if_match),
        AcceptedVm,
        _again,
        params.wait,
    )


ROUTES = (list_attachments, attach_volume, detach_volume)
