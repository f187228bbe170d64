"""Find out whether a machine's process runs, and take it over if so. Called by the executor before anything else.

Looks at the record, the sockets and the lock; the lock has the last word. Never starts and never ends anything.
"""

import os

import msgspec

from nacre.agent.host import locks
from nacre.agent.hypervisors.base import Guest, Handle
from nacre.agent.records import Run
from nacre.agent.vms import launching, tpm
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.plug import can_plug
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.start import run_info
from nacre.errors import ConflictError
from nacre.lib import processes
from nacre.model.ids import RunId, VolumeId
from nacre.model.vm_changes import in_force, seed_of
from nacre.model.vms import ExitReason, RunInfo


async def adopt(machine: Machine, host: Host) -> Guest | None:
    """Return the machine's guest; None when it is certain that there is none, and that is on record.

    Raises DriverError or ConflictError (`machine_locked`) while it is not certain.
    """
    record = machine.record
    if record.starting is not None:
        guest = await _begun(machine, host)
        if guest is not None:
            return guest
    if record.is_alive:
        return await _known(machine, host)
    if not locks.is_free(host.lock_file(machine.id)):
        return await _unrecorded(machine, host)
    await tpm.end(machine.id, host)
    machine.presence = Presence.NONE
    return None


async def _begun(machine: Machine, host: Host) -> Guest | None:
    """A start was on its way when the agent died: either there is a process of it by now, or there never will be."""
    starting = machine.record.starting
    assert starting is not None
    if starting.boot_id == processes.boot_id():
        driver = host.hypervisor(starting.hypervisor)
        guest = await driver.adopt(launching.to_adopt(machine.id, starting.run, host, fence=machine.record.fence), None)
        if guest is not None and machine.record.waking is not None:
            # Nobody knows whether all of its memory had come. It has not run yet, so it begins once more.
            await guest.kill()
            await guest.detach()
            guest = None
        if guest is not None:
            intent = machine.record.intent
            assert intent is not None
            info = run_info(intent, starting, guest, host)
            run = Run(info=info, hypervisor=starting.hypervisor, handle=msgspec.to_builtins(guest.handle))
            nonces = {"reboot_nonce": intent.reboot_nonce, "reset_nonce": intent.reset_nonce}
            await _keep(machine, guest, starting=None, run=run, ending=None, **nonces)
            return guest
        if not locks.is_free(host.lock_file(machine.id)):
            raise _locked()
    await machine.save(starting=None)
    return None


async def _known(machine: Machine, host: Host) -> Guest | None:
    run = machine.record.run
    assert run is not None
    handle = msgspec.convert(run.handle, Handle)
    if handle.boot_id != processes.boot_id():
        await machine.ended(ExitReason.HOST_REBOOT, "the node was restarted")
        return None
    driver = host.hypervisor(run.hypervisor)
    place = launching.to_adopt(machine.id, run.info.id, host, fence=machine.record.fence, config=run.info.config)
    guest = await driver.adopt(place, handle)
    if guest is not None:
        return guest
    if not locks.is_free(host.lock_file(machine.id)):
        raise _locked()
    await machine.ended(machine.record.ending or ExitReason.CRASHED, "its process ended while the agent was away")
    return None


async def _unrecorded(machine: Machine, host: Host) -> Guest | None:
    """Something holds the lock that no record tells of: ask every driver whether it is theirs."""
    run = host.new_run()
    for name, driver in host.hypervisors.items():
        guest = await driver.adopt(launching.to_adopt(machine.id, run, host, fence=machine.record.fence), None)
        if guest is not None:
            spec = machine.record.intent.spec if machine.record.intent is not None else None
            info = RunInfo(
                id=RunId(run),
                started_at=host.clock.now(),
                accelerator=guest.handle.accelerator,
                accelerator_reason=guest.handle.accelerator_reason,
                cpus=spec.cpus if spec is not None else 0,
                memory_bytes=spec.memory_bytes if spec is not None else 0,
                publish=spec.publish if spec is not None else (),
                guarded=guest.guard is not None,
                confined=processes.owner(guest.handle.pid) not in {None, os.geteuid()},
                volumes=_attached(machine),
                hotplug=can_plug(guest),
                config=in_force(spec) if spec is not None else None,
                seed=seed_of(spec) if spec is not None else "",
            )
            found = Run(info=info, hypervisor=name, handle=msgspec.to_builtins(guest.handle))
            await _keep(machine, guest, run=found, ending=None)
            return guest
    raise _locked()


def _attached(machine: Machine) -> tuple[VolumeId, ...]:
    intent = machine.record.intent
    return tuple(one.volume for one in intent.volumes) if intent is not None else ()


async def _keep(machine: Machine, guest: Guest, **changes: object) -> None:
    """Put a guest that was found on record, or let go of it again."""
    try:
        await machine.save(**changes)
    except BaseException:
        await guest.detach()
        raise


def _locked() -> ConflictError:
    return ConflictError(
        "machine_locked",
        "a process of the machine is there and does not answer yet",
        hint="it is looked for again by itself; on the node, `fuser` on the machine's lock file names the process",
    )
