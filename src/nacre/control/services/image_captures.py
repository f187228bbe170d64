"""Images of machines' disks: what an image from a checkpoint is made of, and where its disk is to be had from.

Called when an image is created, and by the reconciler whenever it goes for the disk. The checkpoint is held by
`checkpoint_facts.unmade_from` for as long as the image is coming in.
"""

from dataclasses import dataclass

import msgspec

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.services import checkpoint_clones
from nacre.control.services.checkpoint_clones import FIELD, Source
from nacre.control.services.checkpoint_views import phase_of
from nacre.control.services.vm_ways import Placed, way
from nacre.control.store import checkpoints as store
from nacre.control.store import images, vms
from nacre.control.store.db import Read, Tx
from nacre.control.store.images import ImageRow, Origin, Part
from nacre.errors import ConflictError, InvalidInputError, NotFoundError
from nacre.model.checkpoints import CheckpointPhase
from nacre.model.ids import ProjectId
from nacre.model.images import Capture, Format, ImageDefaults, Role
from nacre.model.vms import Desired
from nacre.schema.images import ImageCreate

KIND = "export"
"""Of the stream that brings a disk."""
_BOOT = (Role.KERNEL, Role.INITRD)
"""What is taken over from the machine's image. A medium is not: what was installed from it is on the disk."""
_PERMISSION = "vm:checkpoint"


@dataclass(frozen=True, kw_only=True)
class Content:
    """What an image is to be made of."""

    parts: tuple[Part, ...]
    kernel_args: str
    defaults: ImageDefaults
    captured: Capture | None = None


async def content_of(tx: Tx, caller: Caller, body: ImageCreate, project: ProjectId) -> Content:
    """Return what an image is made of whose disk a checkpoint has, which stays until the transaction ends.

    Raises NacreError if there is no such checkpoint, or nobody who could send its disk now.
    """
    assert body.checkpoint is not None
    policy.require(caller, project, action=_PERMISSION)
    if body.artifacts:
        raise InvalidInputError(
            "checkpoint_and_more",
            "an image is made from a checkpoint or from files, not from both",
            hint="leave out one of them",
            field="artifacts",
        )
    found = await checkpoint_clones.resolve(tx, body.checkpoint, project)
    source = _stays(await checkpoint_clones.hold(tx, found))
    await way(tx, source.vm, KIND, field=FIELD)
    origin = await images.get(tx, source.vm.image)
    if origin is None:
        raise ConflictError(
            "image_missing", f"the image of machine {source.vm.name} is gone", hint="use another machine", field=FIELD
        )
    disk = Part(role=Role.DISK, origin=Origin.CHECKPOINT, location=source.kept.id, format=Format.QCOW2)
    taken = tuple(
        Part(role=one.role, origin=Origin.IMAGE, location=origin.id, sha256=one.sha256, size_bytes=one.size_bytes)
        for one in origin.artifacts
        if one.role in _BOOT
    )
    return Content(
        parts=(*taken, disk),
        kernel_args=_kernel_args(body, origin) if taken else "",
        defaults=_defaults(body.defaults, origin.defaults, source.kept.disk_bytes),
        captured=Capture(
            vm=source.vm.id,
            vm_name=source.vm.name,
            checkpoint=source.kept.id,
            checkpoint_name=source.kept.name,
        ),
    )


async def located(rd: Read, checkpoint: str) -> Placed:
    """Return the machine whose disk it is, and the node that has it. Raises NacreError; `retryable` says whether to
    look again later."""
    kept = await store.get(rd, checkpoint)
    vm = None if kept is None else await vms.get(rd, kept.vm)
    if kept is None or vm is None or phase_of(kept) is not CheckpointPhase.READY:
        raise NotFoundError(
            "checkpoint_gone",
            "the checkpoint is gone, with its machine or because that left its disks behind",
            hint="delete the image, and make it from another checkpoint",
        )
    return await way(rd, vm, KIND)


def _stays(source: Source) -> Source:
    """Return a checkpoint that has a disk, of a machine that stays where it is."""
    row, kept = source.vm, source.kept
    if row.desired is Desired.ABSENT:
        raise ConflictError("vm_deleting", f"machine {row.name} is being deleted", hint="use another one", field=FIELD)
    if row.moving is not None:
        raise ConflictError(
            "vm_moving",
            f"machine {row.name} is moving to another node",
            hint="wait until it has arrived, and take another checkpoint",
            field=FIELD,
        )
    if not kept.disk_bytes:
        raise ConflictError(
            "checkpoint_without_disk",
            f"checkpoint {kept.name} of machine {row.name} has no root disk",
            hint="use a checkpoint of a machine with a root disk; volumes are not part of images",
            field=FIELD,
        )
    return source


def _kernel_args(body: ImageCreate, origin: ImageRow) -> str:
    return body.kernel_args or origin.kernel_args


def _defaults(given: ImageDefaults, below: ImageDefaults, disk_bytes: int) -> ImageDefaults:
    """Return what is given over what the machine's image says, as far as that fits the disk. Pure."""
    fits = below.disk_bytes is not None and below.disk_bytes >= disk_bytes
    under = below if fits else msgspec.structs.replace(below, disk_bytes=None)
    asked = {name: value for name, value in msgspec.structs.asdict(given).items() if value is not None}
    return msgspec.structs.replace(under, **asked)
