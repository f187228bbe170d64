"""Give a running machine the volumes that it should have, and take back those that it should not. By the executor.

What its process may have open is on record before it is told to open it, and until it has surely let go of it.
"""

import msgspec

from nacre.agent.hypervisors.abilities import CanHotplug
from nacre.agent.hypervisors.base import Guest
from nacre.agent.vms import confining
from nacre.agent.vms.holding import held
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.model.ids import VolumeId
from nacre.model.vms import VmIntent

LET_GO_S = 15.0
"""How long a guest may take to let go of a volume."""


async def plug(machine: Machine, intent: VmIntent, host: Host) -> None:
    """Return when the guest has the volumes of `intent` and no others. May be repeated. Raises DriverError."""
    guest = machine.guest
    if guest is None or not isinstance(guest, CanHotplug):
        return  # gone meanwhile, or shown as what needs a restart
    wanted = {attachment.volume for attachment in intent.volumes}
    for volume in open_volumes(machine):
        if volume not in wanted:
            async with held(machine, [volume], host):
                await guest.detach_disk(volume, LET_GO_S)
                await _note(machine, remove=volume)
    for attachment in intent.volumes:
        run = machine.record.run
        if run is None or attachment.volume in run.info.volumes:
            continue
        async with held(machine, [attachment.volume], host):
            (disk,) = await host.pools.disks([attachment], may_have=machine.record.plugging)
            await machine.save(plugging=(attachment.volume,))
            lent = await confining.lend(machine, disk, host)
            try:
                await guest.attach_disk(lent)
            finally:
                await confining.forget_keys((lent,), host.run_place(machine.id))
            await _note(machine, add=attachment.volume)


def can_plug(guest: Guest | None) -> bool:
    """Whether a guest takes volumes while it runs."""
    return isinstance(guest, CanHotplug)


def open_volumes(machine: Machine) -> tuple[VolumeId, ...]:
    """Return the volumes that a machine's process has, or may have, open; none if there is no process."""
    record = machine.record
    if record.run is None or record.run.info.exited_at is not None:
        return ()
    return (*record.run.info.volumes, *(one for one in record.plugging if one not in record.run.info.volumes))


async def _note(machine: Machine, *, add: VolumeId | None = None, remove: VolumeId | None = None) -> None:
    run = machine.record.run
    if run is None:
        return
    volumes = tuple(one for one in run.info.volumes if one != remove)
    volumes = volumes if add is None else (*volumes, add)
    info = msgspec.structs.replace(run.info, volumes=volumes)
    await machine.save(run=msgspec.structs.replace(run, info=info), plugging=())
    machine.tell()
