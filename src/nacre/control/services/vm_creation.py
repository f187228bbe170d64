"""A new machine: what was asked, completed by the image's defaults, checked, and written with its promise."""

import msgspec

from nacre.control.auth.principals import Caller
from nacre.control.auth.sealing import Sealer
from nacre.control.services import events, images, operations, projects, vm_ports, vm_seeds, vm_views
from nacre.control.services.vm_intents import unplaced
from nacre.control.store import vms as store
from nacre.control.store.db import Tx
from nacre.control.store.images import ImageRow
from nacre.control.store.projects import ProjectRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import VMS
from nacre.errors import ConflictError, InvalidInputError
from nacre.model.guests import CloudInit
from nacre.model.ids import VmId
from nacre.model.images import Role
from nacre.model.metadata import check_labels, check_name
from nacre.model.units import format_size
from nacre.model.vms import DEFAULT_MEMORY, Desired, HaPolicy, Phase, VmSpec, check_spec
from nacre.schema.common import Accepted
from nacre.schema.vms import VmCreate, VmOut


async def create(tx: Tx, caller: Caller, body: VmCreate, *, sealer: Sealer | None = None) -> Accepted[VmOut]:
    """Accept a new machine. A node is chosen after the commit, so that this is quick and never waits for room."""
    project = await projects.require(tx, caller, body.project)
    check_name(body.name)
    labels = check_labels(body.labels)
    await vm_ports.check_free(tx, caller, body.publish)
    image = await images.resolve(tx, caller, body.image, project.id)
    given = vm_seeds.taken(body.cloud_init) if body.cloud_init is not None else CloudInit()
    spec = check_spec(spec_of(body, image))
    spec = msgspec.structs.replace(spec, cloud_init=vm_seeds.ref_of(given, sealer))
    row = await _insert(tx, body, project, image, spec, labels)
    if spec.cloud_init is not None:
        await vm_seeds.keep(tx, row.id, given, sealer)
    if spec.publish:
        await vm_ports.hold(tx, row)
    events.emit(
        tx,
        type="vm.created",
        actor=caller.actor,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"machine {row.name} was created from image {image.name}",
        request_id=caller.request_id,
        details={"after": {"desired": row.desired.value, "generation": row.generation, "image": image.name}},
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
        cancellable=body.start,
    )
    if not body.start:
        await operations.settle(tx, row.id, generation=row.generation, ok=True)
        operation = await operations.get(tx, operation.id) or operation
    tx.wake(VMS)
    resource = await vm_views.shown(tx, row.id)
    return Accepted(resource=resource, generation=row.generation, operation=operations.out(operation))


def spec_of(body: VmCreate, image: ImageRow) -> VmSpec:
    """Complete what was asked with the image's defaults, then ours. Raises InvalidInputError. Pure."""
    roles = {artifact.role for artifact in image.artifacts}
    if body.kernel_args and Role.KERNEL not in roles:
        raise InvalidInputError(
            "kernel_args_without_kernel",
            f"image {image.name} boots from its disk and takes no kernel_args",
            hint="leave kernel_args out, or use an image with a kernel",
            field="kernel_args",
        )
    defaults = image.defaults
    disk_bytes = body.disk_bytes or defaults.disk_bytes
    smallest = disk_of(image)
    if disk_bytes is not None and disk_bytes < smallest:
        raise InvalidInputError(
            "disk_too_small",
            f"a disk of {format_size(disk_bytes)} cannot hold image {image.name}, which needs {format_size(smallest)}",
            hint=f"ask for {format_size(smallest)} or more, or leave it out",
            field="disk_bytes",
        )
    return VmSpec(
        image=image.id,
        hypervisor=body.hypervisor,
        machine=body.machine,
        cpus=body.cpus or defaults.cpus or 1,
        memory_bytes=body.memory_bytes or defaults.memory_bytes or DEFAULT_MEMORY,
        disk_bytes=disk_bytes,
        kernel_args=body.kernel_args,
        nics=body.nics,
        publish=body.publish,
        restart=body.restart,
        stop_timeout_s=body.stop_timeout_s,
        placement=body.placement,
        ha=body.ha,
        priority=body.priority,
        preemptible=body.preemptible,
        devices=body.devices,
    )


def disk_of(image: ImageRow) -> int:
    """Return the size of an image's disk as a guest sees it, 0 without one. Pure."""
    return next((a.virtual_size_bytes for a in image.artifacts if a.role is Role.DISK), 0)


async def _insert(
    tx: Tx, body: VmCreate, project: ProjectRow, image: ImageRow, spec: VmSpec, labels: dict[str, str]
) -> VmRow:
    now = tx.now()
    row = VmRow(
        id=VmId(tx.new_id("vm")),
        project=project.id,
        name=body.name,
        labels=labels,
        spec=spec,
        image=image.id,
        image_name=image.name,
        desired=Desired.RUNNING if body.start else Desired.STOPPED,
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
    row = unplaced(row)
    await store.add(tx, row, taken=_name_taken(body.name, project))
    return row


def _name_taken(name: str, project: ProjectRow) -> ConflictError:
    return ConflictError(
        "vm_name_taken",
        f"there is a machine {name} in project {project.name} already",
        hint="choose another name; the name of a deleted machine is free once the machine is gone",
        field="name",
    )
