"""Leave nothing of a machine: process, control group, disk, logs, sockets. Called by the executor.

A tombstone stays on record until the control plane no longer names the machine, so that its end cannot go unreported.
"""

import asyncio
import os
import shutil
from pathlib import Path

from nacre.agent.host import locks
from nacre.agent.vms import launching, tpm
from nacre.agent.vms.host import Host
from nacre.agent.vms.kept import Checkpoints
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.stop import end_unseen, kill
from nacre.lib.threads import in_thread
from nacre.model.ids import VmId
from nacre.model.vms import Phase


async def delete(machine: Machine, host: Host) -> None:
    """Return when nothing but the tombstone is left. May be repeated. Raises DriverError and OSError."""
    machine.enter(Phase.DELETING)
    if machine.guest is not None:
        await kill(machine, machine.guest)
    elif machine.presence is not Presence.NONE:
        await end_unseen(machine, host)
    place = host.place(machine.id)
    if place.exists():
        lock = locks.take(host.lock_file(machine.id))
        try:
            await tpm.end(machine.id, host)
            await host.storage.remove(place, launching.ROOT_DISK)
            await in_thread(remove_folder, place)
        finally:
            os.close(lock)
    await in_thread(remove_traces, machine.id, host)
    host.lease_file(machine.id, machine.record.fence).unlink(missing_ok=True)
    await asyncio.to_thread(host.cgroups.remove, machine.id)
    if host.users is not None:
        host.users.give_back(machine.id)
    machine.checkpoints = Checkpoints()
    await machine.save(deleted=True, starting=None, user=0, waking=None, root_made=False)


def remove_traces(vm: VmId, host: Host) -> None:
    """Remove what lives of a machine have left besides its disks and logs. Blocks."""
    for folder in host.traces(vm):
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder, which may be gone already."""
    if folder.exists():
        shutil.rmtree(folder)
