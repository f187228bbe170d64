"""/v1/volumes and their snapshots."""

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import ACCEPTED, TheCall
from nacre.control.api.queries import (
    InProject,
    LabelledInProject,
    Paged,
    ProjectName,
    Waiting,
    WaitingInProject,
    list_query,
)
from nacre.control.request import Reading
from nacre.control.services import volume_snapshots, volumes
from nacre.model.volumes import VolumePhase
from nacre.schema.common import Accepted, Page
from nacre.schema.volumes import (
    SnapshotCreate,
    SnapshotOut,
    SnapshotUpdate,
    VolumeClone,
    VolumeCreate,
    VolumeOut,
    VolumeRestore,
    VolumeUpdate,
)

AcceptedVolume = Accepted[VolumeOut]


class VolumeFilters(LabelledInProject, frozen=True, kw_only=True):
    """How a list of volumes may be narrowed."""

    name: str | None = None
    """Exactly this name."""
    phase: VolumePhase | None = None
    """Only volumes in this phase."""
    pool: str | None = None
    """Name or id of their pool."""
    node: str | None = None
    """Name or id of the node that they are on."""
    vm: str | None = None
    """Name or id of the machine that they are attached to."""


class SnapshotFilters(Paged, frozen=True, kw_only=True):
    """How a list of snapshots may be narrowed."""

    project: ProjectName = "default"
    """Name or id of the project that the volume's name is looked for in. Not needed with an id."""
    name: str | None = None
    """Exactly this name."""


def _again(volume: str) -> Reading[VolumeOut]:
    return lambda rd, caller: volumes.show(rd, caller, volume)


@post("/v1/volumes", opt={"action": "volume:create"}, status_code=ACCEPTED)
async def create_volume(
    call: TheCall, data: JSONBody[VolumeCreate], params: NamedDependency[Waiting]
) -> Response[Accepted[VolumeOut]]:
    """Create a volume: blank, from an image, or a clone. It is made when it is first needed, a clone at once."""
    return await call.accept(lambda tx, caller: volumes.create(tx, caller, data), AcceptedVolume, _again, params.wait)


@get("/v1/volumes", opt={"action": "volume:list"})
async def list_volumes(call: TheCall, params: NamedDependency[VolumeFilters]) -> Response[Page[VolumeOut]]:
    """List the volumes of a project."""
    return await call.read(lambda rd, caller: volumes.list_(rd, caller, list_query(params)))


@get("/v1/volumes/{volume:str}", opt={"action": "volume:view"})
async def show_volume(call: TheCall, volume: FromPath[str], params: NamedDependency[InProject]) -> Response[VolumeOut]:
    """Show a volume, by name or id."""
    return await call.show(lambda rd, caller: volumes.show(rd, caller, volume, project=params.project))


@patch("/v1/volumes/{volume:str}", opt={"action": "volume:update", "if_match": True}, status_code=ACCEPTED)
async def update_volume(
    call: TheCall,
    volume: FromPath[str],
    data: JSONBody[VolumeUpdate],
    params: NamedDependency[WaitingInProject],
) -> Response[Accepted[VolumeOut]]:
    """Change the labels of a volume, or make it larger."""
    return await call.accept(
        lambda tx, caller: volumes.update(tx, caller, volume, data, project=params.project, if_match=call.if_match),
        AcceptedVolume,
        _again,
        params.wait,
    )


@delete("/v1/volumes/{volume:str}", opt={"action": "volume:delete", "if_match": True}, status_code=ACCEPTED)
async def delete_volume(
    call: TheCall, volume: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VolumeOut]]:
    """Delete a volume that is attached to nothing and has no snapshots."""
    return await call.accept(
        lambda tx, caller: volumes.delete(tx, caller, volume, project=params.project, if_match=call.if_match),
        AcceptedVolume,
        _again,
        params.wait,
    )


@post("/v1/volumes/{volume:str}/clone", opt={"action": "volume:create"}, status_code=ACCEPTED)
async def clone_volume(
    call: TheCall,
    volume: FromPath[str],
    data: JSONBody[VolumeClone],
    params: NamedDependency[WaitingInProject],
) -> Response[Accepted[VolumeOut]]:
    """Clone a volume as it is now, or as one of its snapshots keeps it."""
    return await call.accept(
        lambda tx, caller: volumes.clone(tx, caller, volume, data, project=params.project),
        AcceptedVolume,
        _again,
        params.wait,
    )


@post("/v1/volumes/{volume:str}/restore", opt={"action": "volume:restore", "if_match": True}, status_code=ACCEPTED)
async def restore_volume(
    call: TheCall,
    volume: FromPath[str],
    data: JSONBody[VolumeRestore],
    params: NamedDependency[WaitingInProject],
) -> Response[Accepted[VolumeOut]]:
    """Put a volume back to one of its snapshots. No machine may be using it."""
    return await call.accept(
        lambda tx, caller: volume_snapshots.restore(
            tx, caller, volume, data, project=params.project, if_match=call.if_match
        ),
        AcceptedVolume,
        _again,
        params.wait,
    )


@post("/v1/volumes/{volume:str}/snapshots", opt={"action": "volume:snapshot"}, status_code=ACCEPTED)
async def create_snapshot(
    call: TheCall,
    volume: FromPath[str],
    data: JSONBody[SnapshotCreate],
    params: NamedDependency[WaitingInProject],
) -> Response[Accepted[VolumeOut]]:
    """Take a snapshot of a volume, also while a machine writes to it."""
    return await call.accept(
        lambda tx, caller: volume_snapshots.create(tx, caller, volume, data, project=params.project),
        AcceptedVolume,
        _again,
        params.wait,
    )


@get("/v1/volumes/{volume:str}/snapshots", opt={"action": "volume:view"})
async def list_snapshots(
    call: TheCall, volume: FromPath[str], params: NamedDependency[SnapshotFilters]
) -> Response[Page[SnapshotOut]]:
    """List the snapshots of a volume."""
    return await call.read(
        lambda rd, caller: volume_snapshots.list_(rd, caller, volume, list_query(params), project=params.project)
    )


@get("/v1/volumes/{volume:str}/snapshots/{snapshot:str}", opt={"action": "volume:view"})
async def show_snapshot(
    call: TheCall, volume: FromPath[str], snapshot: FromPath[str], params: NamedDependency[InProject]
) -> Response[SnapshotOut]:
    """Show a snapshot of a volume."""
    return await call.read(
        lambda rd, caller: volume_snapshots.show(rd, caller, volume, snapshot, project=params.project)
    )


@patch("/v1/volumes/{volume:str}/snapshots/{snapshot:str}", opt={"action": "volume:protect"})
async def update_snapshot(
    call: TheCall,
    volume: FromPath[str],
    snapshot: FromPath[str],
    data: JSONBody[SnapshotUpdate],
    params: NamedDependency[InProject],
) -> Response[SnapshotOut]:
    """Protect a snapshot or not, and say when it expires."""
    return await call.change(
        lambda tx, caller: volume_snapshots.update(tx, caller, volume, snapshot, data, project=params.project),
        SnapshotOut,
    )


@delete("/v1/volumes/{volume:str}/snapshots/{snapshot:str}", opt={"action": "volume:snapshot"}, status_code=ACCEPTED)
async def delete_snapshot(
    call: TheCall, volume: FromPath[str], snapshot: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[VolumeOut]]:
    """Delete a snapshot that is not protected. The volume and clones stay as they are."""
    return await call.accept(
        lambda tx, caller: volume_snapshots.delete(tx, caller, volume, snapshot, project=params.project),
        AcceptedVolume,
        _again,
        params.wait,
    )


ROUTES = (
    create_volume,
    list_volumes,
    show_volume,
    update_volume,
    delete_volume,
    clone_volume,
    restore_volume,
    create_snapshot,
    list_snapshots,
    show_snapshot,
    update_snapshot,
    delete_snapshot,
)
