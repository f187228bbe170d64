"""Put a machine back to one of its checkpoints. Called by `keeping`.

Everything is looked at before anything is changed. Then the machine is ended, its disks get new layers on top of what
the checkpoint keeps, and that is on record together with what it is to go on from: an agent that is killed on the way
does it again, which comes to the same, and nothing is started before.
"""

from collections.abc import Sequence

import structlog

from nacre.agent.hypervisors.abilities import CanRestore
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.base import VolumeStore
from nacre.agent.storage.roots import disk_of
from nacre.agent.vms.checkpoint import look
from nacre.agent.vms.holding import held
from nacre.agent.vms.host import Host
from nacre.agent.vms.kept import Kept
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.stop import stop
from nacre.agent.volumes.pools import not_ready
from nacre.model.checkpoints import Restoration, snapshot_of
from nacre.model.convergence import FailureClass
from nacre.model.ids import VolumeId
from nacre.model.vm_changes import unlike
from nacre.model.vms import Phase, VmIntent

log = structlog.get_logger()


async def put_back(machine: Machine, intent: VmIntent, wanted: Restoration, host: Host) -> None:
    """Return when the machine is off and its disks are as they were. May be repeated. Raises DriverError and OSError.

    If the checkpoint cannot be used, the request counts as done: nothing has changed, and the machine may go on.
    """
    machine.enter(Phase.STOPPING)
    try:
        found = _usable(machine, intent, wanted, host)
    except DriverError as error:
        if error.failure_class is FailureClass.PERMANENT:
            machine.note(restore_nonce=wanted.nonce)
        raise
    if machine.presence is not Presence.NONE:
        covered = {one.volume for one in intent.volumes if not one.read_only} <= set(found.volumes)
        # Of what is put back nothing is worth saving; what is not should be at rest.
        await stop(machine, timeout_s=intent.spec.stop_timeout_s, force=covered or intent.force_stop, host=host)
    await machine.flush()
    async with held(machine, [disk_of(machine.id), *found.volumes], host):
        snapshot = snapshot_of(wanted.checkpoint)
        for store, disk in _disks(found.volumes, host):
            await store.finish(disk, None)
            await store.restore(disk, snapshot, None)
        if found.root and await host.roots.layered(machine.id):
            await host.roots.finish(disk_of(machine.id), None)
            await host.roots.restore(disk_of(machine.id), snapshot, None)
        await machine.save(restore_nonce=wanted.nonce, waking=wanted.checkpoint if wanted.memory else None)
        await look(machine, host)
    log.info("vm.put_back", vm=machine.id, checkpoint=wanted.checkpoint, memory=wanted.memory)


def _usable(machine: Machine, intent: VmIntent, wanted: Restoration, host: Host) -> Kept:
    """Return the checkpoint. Raises DriverError if the machine cannot be put back to it as it was asked for."""
    found = machine.checkpoints.kept.get(wanted.checkpoint)
    if found is None or found.seen.failure is not None:
        raise _unusable("checkpoint_missing", "the node has no such checkpoint", "use another one")
    attached = {one.volume for one in intent.volumes}
    gone = [volume for volume in found.volumes if volume not in attached]
    if gone:
        record = host.pools.known.get(gone[0])
        name = gone[0] if record is None else record.intent.name
        raise _unusable(
            "checkpoint_volume_detached", f"volume {name} is part of it and not attached any more", "attach it again"
        )
    if wanted.memory:
        check_memory(found, intent, host)
    return found


def check_memory(found: Kept, intent: VmIntent, host: Host) -> None:
    """Raise DriverError unless the machine is still what it was when its memory was saved."""
    hint = "restore it without memory, or make the machine again what it was"
    if found.run is None:
        raise _unusable("checkpoint_without_memory", "it has no memory", "restore it without memory")
    if not isinstance(host.hypervisor(intent.spec.hypervisor), CanRestore):
        raise _unusable("memory_not_restorable", f"{intent.spec.hypervisor} cannot go on from saved memory", hint)
    differing = [*unlike(intent.spec, found.run)]
    if found.hypervisor != intent.spec.hypervisor:
        differing.append("hypervisor")
    if frozenset(found.run.volumes) != frozenset(one.volume for one in intent.volumes):
        differing.append("volumes")
    if found.seeded is not (intent.seed is not None):
        differing.append("cloud_init")
    if differing:
        raise _unusable(
            "machine_differs", f"the machine is another one than when it was saved: {', '.join(differing)}", hint
        )


def _disks(volumes: Sequence[VolumeId], host: Host) -> list[tuple[VolumeStore, VolumeId]]:
    found: list[tuple[VolumeStore, VolumeId]] = []
    for volume in volumes:
        record = host.pools.known.get(volume)
        if record is None or not record.made or record.deleted:
            raise not_ready(volume if record is None else record.intent.name)
        found.append((host.pools.store(record.intent.pool), volume))
    return found


def _unusable(code: str, why: str, hint: str) -> DriverError:
    return DriverError(
        code,
        f"the machine cannot be put back to the checkpoint: {why}",
        hint=hint,
        failure_class=FailureClass.PERMANENT,
    )
