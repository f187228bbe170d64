"""A new machine: what was asked, completed by the image's defaults, checked, and written with its promise."""

import base64
import secrets

import msgspec

from nacre.control.auth.principals import Caller
from nacre.control.auth.sealing import Sealer
from nacre.control.services import (
    capabilities,
    checkpoint_clones,
    events,
    images,
    operations,
    projects,
    vm_layers,
    vm_ports,
    vm_seeds,
    vm_sources,
    vm_views,
)
from nacre.control.services.checkpoint_clones import Source
from nacre.control.services.vm_intents import unplaced
from nacre.control.services.vm_sources import Asked
from nacre.control.store import vms as store
from nacre.control.store.db import Tx
from nacre.control.store.images import ImageRow
from nacre.control.store.projects import ProjectRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import VMS
from nacre.errors import ConflictError, InvalidInputError
from nacre.model import identity
from nacre.model.guests import CloudInit
from nacre.model.ids import CheckpointId, InstanceTypeId, TemplateId, VmId
from nacre.model.images import Role
from nacre.model.metadata import check_labels
from nacre.model.templates import Origins
from nacre.model.units import format_size
from nacre.model.vm_checks import check_spec
from nacre.model.vms import Desired, HaPolicy, Phase, VmSpec
from nacre.schema.common import Accepted, AcceptedBatch
from nacre.schema.vms import VmConfig, VmCreate, VmOut

_SEED_BYTES = 64


async def create(tx: Tx, caller: Caller, body: VmCreate, *, sealer: Sealer | None = None) -> AcceptedBatch[VmOut]:
    """Accept new machines, all or none. Nodes are chosen after the commit: this is quick, and waits for no room."""
    project = await projects.require(tx, caller, body.project)
    names = vm_layers.names_of(body.name, body.count, body.first_number)
    asked = await vm_sources.asked(tx, caller, body, project.id)
    labels = check_labels(asked.config.labels)
    image = await images.resolve(tx, caller, asked.image, project.id)
    given = vm_seeds.taken(body.cloud_init) if body.cloud_init is not None else CloudInit()
    source = None if asked.source is None else await checkpoint_clones.hold(tx, asked.source)
    spec = check_spec(spec_of(asked.config, image))
    spec = msgspec.structs.replace(spec, cloud_init=vm_seeds.ref_of(given, sealer))
    await capabilities.admit(tx, caller, spec, [artifact.role for artifact in image.artifacts])
    other = _somebody_else(image, source)
    made: list[Accepted[VmOut]] = []
    for name in names:
        await vm_ports.check_free(tx, caller, spec.publish)
        row = await _insert(tx, name, asked, project, image, spec, labels)
        if source is not None:
            row = await checkpoint_clones.bring_volumes(tx, caller, row, source)
        if other is not None:
            seed = base64.b64encode(secrets.token_bytes(_SEED_BYTES)).decode()
            given = identity.renewed(given, other, seed)
        if spec.cloud_init is not None or other is not None:
            await vm_seeds.keep(tx, row.id, given, sealer)
        if spec.publish:
            await vm_ports.hold(tx, row)
        made.append(await _accept(tx, caller, row))
    tx.wake(VMS)
    first, *more = made
    return AcceptedBatch(resource=first.resource, generation=first.generation, operation=first.operation, more=more)


def _somebody_else(image: ImageRow, source: Source | None) -> CheckpointId | None:
    """Return the checkpoint of another machine that the disk of this one comes from, if it does. Pure."""
    if source is not None:
        return source.kept.id
    return None if image.captured is None else image.captured.checkpoint


async def _accept(tx: Tx, caller: Caller, row: VmRow) -> Accepted[VmOut]:
    """Tell of a new machine and promise what is asked of it."""
    start = row.desired is Desired.RUNNING
    events.emit(
        tx,
        type="vm.created",
        actor=caller.actor,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"machine {row.name} was created from {_sources(row)}",
        request_id=caller.request_id,
        details={
            "after": {
                "desired": row.desired.value,
                "generation": row.generation,
                "image": row.image_name,
                **msgspec.to_builtins(row.origins or {}),
            }
        },
    )
    operation = await operations.begin(
        tx,
        type="vm.create",
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        generation=row.generation,
        actor=caller.actor,
        cancellable=start,
    )
    if not start:
        await operations.settle(tx, row.id, generation=row.generation, ok=True)
        operation = await operations.get(tx, operation.id) or operation
    resource = await vm_views.shown(tx, row.id)
    return Accepted(resource=resource, generation=row.generation, operation=operations.out(operation))


def spec_of(config: VmConfig, image: ImageRow) -> VmSpec:
    """Complete what was asked with the image's defaults, then ours. Raises InvalidInputError. Pure."""
    roles = {artifact.role for artifact in image.artifacts}
    if config.kernel_args and Role.KERNEL not in roles:
        raise InvalidInputError(
            "kernel_args_without_kernel",
            f"image {image.name} boots from its disk and takes no kernel_args",
            hint="leave kernel_args out, or use an image with a kernel",
            field="kernel_args",
        )
    asked = vm_layers.Merged(config=config, layers={})
    spec = vm_layers.into_spec(vm_layers.with_image(asked, image.defaults).config, image=image.id)
    smallest = disk_of(image)
    if spec.disk_bytes is not None and spec.disk_bytes < smallest:
        disk = format_size(spec.disk_bytes)
        raise InvalidInputError(
            "disk_too_small",
            f"a disk of {disk} cannot hold image {image.name}, which needs {format_size(smallest)}",
            hint=f"ask for {format_size(smallest)} or more, or leave it out",
            field="disk_bytes",
        )
    return spec


def roles_of(image: ImageRow) -> str:
    """Return what an image is made of, as it is kept beside machines. Pure."""
    return ",".join(sorted(artifact.role.value for artifact in image.artifacts))


def disk_of(image: ImageRow) -> int:
    """Return the size of an image's disk as a guest sees it, 0 without one. Pure."""
    return next((a.virtual_size_bytes for a in image.artifacts if a.role is Role.DISK), 0)


async def _insert(
    tx: Tx, name: str, asked: Asked, project: ProjectRow, image: ImageRow, spec: VmSpec, labels: dict[str, str]
) -> VmRow:
    now, origins = tx.now(), asked.origins
    row = VmRow(
        id=VmId(tx.new_id("vm")),
        project=project.id,
        name=name,
        labels=labels,
        spec=spec,
        image=image.id,
        image_name=image.name,
        image_roles=roles_of(image),
        template=None if origins.template is None else TemplateId(origins.template.id),
        instance_type=None if origins.instance_type is None else InstanceTypeId(origins.instance_type.id),
        origins=None if origins == Origins() else origins,
        desired=Desired.STOPPED if asked.config.start is False else Desired.RUNNING,
        generation=1,
        finalizers=[],
        ha_since=1 if spec.ha is HaPolicy.RESTART else 0,
        priority=spec.priority,
        reserved_cpus=spec.cpus,
        reserved_memory_bytes=spec.memory_bytes,
        reserved_disk_bytes=spec.disk_bytes or disk_of(image),
        phase=Phase.PENDING,
        since=now,
        created_at=now,
        updated_at=now,
    )
    if asked.source is not None:
        row = checkpoint_clones.tied(row, asked.source)
    row = unplaced(row)
    await store.add(tx, row, taken=_name_taken(name, project))
    return row


def _name_taken(name: str, project: ProjectRow) -> ConflictError:
    return ConflictError(
        "vm_name_taken",
        f"there is a machine {name} in project {project.name} already",
        hint="choose another name; the name of a deleted machine is free once the machine is gone",
        field="name",
    )


def _sources(row: VmRow) -> str:
    origins = row.origins or Origins()
    words = [f"image {row.image_name}"]
    if row.source is not None and row.tie is not None:
        words.append(row.tie.because)
    if origins.template is not None:
        words.append(f"template {origins.template}")
    if origins.instance_type is not None:
        words.append(f"instance type {origins.instance_type}")
    return ", ".join(words)
