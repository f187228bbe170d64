"""The root disk of a machine that is to be started: made from its image or from a checkpoint, or as it was left.

Called by `start` and `arrive`, which hold the machine's lock, and by `migrate`, which asks what there is. A new one is
kept in layers (qcow2) if the machine's hypervisor opens those, and else raw, which every one opens. That it was made
is on record: if it is not there any more it is lost, and never made anew.
"""

from nacre.agent.hypervisors.abilities import CanOffer
from nacre.agent.hypervisors.base import Hypervisor
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.images.cache import CachedImage
from nacre.agent.records import Record
from nacre.agent.storage import layers
from nacre.agent.storage.base import BaseDisk, CloneOf
from nacre.agent.storage.directory import found_in
from nacre.agent.storage.roots import ROOT, disk_of
from nacre.agent.vms import kept
from nacre.agent.vms.holding import held
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.lib.files import sync_folder
from nacre.lib.threads import in_thread
from nacre.model.capabilities import Capability, offers
from nacre.model.checkpoints import CheckpointSource, snapshot_of
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId
from nacre.model.images import Role
from nacre.model.vms import VmIntent
from nacre.model.volumes import DiskFormat


async def ready(machine: Machine, intent: VmIntent, image: CachedImage, host: Host) -> tuple[DiskFile, ...]:
    """Return the root disk, none if the machine has none. May be repeated. Raises DriverError and OSError."""
    base = _base(intent, image)
    if base is None and intent.spec.disk_bytes is None:
        return ()
    source = intent.source
    async with held(machine, [disk_of(vm) for vm in (intent.id, *([] if source is None else [source.vm]))], host):
        await check(machine, host)
        found = await _ready(intent, base, host)
        if not machine.record.root_made:
            await in_thread(sync_folder, host.machines)  # or the whole folder could be gone after a power cut
            await machine.save(root_made=True)
        return (found,)


async def check(machine: Machine, host: Host) -> None:
    """Raise DriverError (`disk_missing`) if a machine's root disk was made and is not there."""
    if _made(machine.record) and not await in_thread(_exists, machine.id, host):
        raise DriverError(
            "disk_missing",
            "the machine's root disk is not on the node any more",
            hint="is what holds the folder `vms` of the node's agent mounted? Put the machine's folder back, "
            "or delete the machine",
            failure_class=FailureClass.BLOCKED,
        )


async def _ready(intent: VmIntent, base: BaseDisk | None, host: Host) -> DiskFile:
    disk, source, size = disk_of(intent.id), intent.source, intent.spec.disk_bytes
    made = await in_thread(_exists, intent.id, host)
    form = DiskFormat.QCOW2 if made else await _form(host.hypervisor(intent.spec.hypervisor))
    if source is not None and not made:
        await _clone(intent, source, form, host)
    if not await host.roots.settled(intent.id):
        return await host.storage.ensure(host.place(intent.id), ROOT, base=base, size_bytes=size, form=form)
    await host.roots.check_base(intent.id, None if base is None else base.path)
    await host.roots.finish(disk, None)
    if size is not None:
        await host.roots.grow(disk, size, None)
    return await host.roots.disk(disk)


async def sizes(vm: VmId, host: Host) -> dict[str, int]:
    """Return how large the guest sees the disks that lie in its machine's folder. Raises DriverError."""
    layered = await host.roots.look(disk_of(vm))
    if layered is not None:
        return {ROOT: layered.size_bytes}
    return await host.storage.sizes(host.place(vm))


def _base(intent: VmIntent, image: CachedImage) -> BaseDisk | None:
    artifact, path = intent.image.artifact(Role.DISK), image.path(Role.DISK)
    return None if artifact is None or path is None else BaseDisk(path=path, format=artifact.format)


def _made(record: Record) -> bool:
    """Whether a machine's root disk has been made. Agents did not always write that down: they started it with one."""
    if record.root_made is not None or record.run is None or record.intent is None:
        return bool(record.root_made)
    config = record.run.info.config
    size = record.intent.spec.disk_bytes if config is None else config.disk_bytes
    return size is not None or record.intent.image.artifact(Role.DISK) is not None


def _exists(vm: VmId, host: Host) -> bool:
    place = host.place(vm)
    return (place / ROOT / layers.MANIFEST).exists() or found_in(place, ROOT) is not None


async def _form(driver: Hypervisor) -> DiskFormat:
    layers = not isinstance(driver, CanOffer) or offers(await driver.offer(), Capability.DISK_QCOW2)
    return DiskFormat.QCOW2 if layers else DiskFormat.RAW


async def _clone(intent: VmIntent, source: CheckpointSource, form: DiskFormat, host: Host) -> None:
    """Share the layers of a checkpoint, or copy them if its disk is of another format.

    Of one that is not here nothing is made: a blank disk would be a lie.
    """
    origin = await in_thread(kept.read, host.place(source.vm), source.checkpoint)
    if origin is None or not origin.root:
        raise DriverError(
            "checkpoint_missing",
            "the checkpoint that the machine is made from is not on the node",
            hint="delete the machine and make it from a checkpoint that there is: `nacre vm checkpoints` lists them",
            failure_class=FailureClass.BLOCKED,
        )
    of = CloneOf(volume=disk_of(source.vm), snapshot=snapshot_of(source.checkpoint), form=form)
    await host.roots.clone(disk_of(intent.id), of, None)
