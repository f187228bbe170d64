"""Start a machine's process: from its disks, or going on where a checkpoint has saved it. Called by `start`."""

import msgspec

from nacre.agent.hypervisors.abilities import CanRestore
from nacre.agent.hypervisors.base import Guest, Hypervisor
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch
from nacre.agent.vms import confining, kept
from nacre.agent.vms.host import Host
from nacre.agent.vms.kept import Kept
from nacre.agent.vms.machine import Machine
from nacre.model.convergence import FailureClass
from nacre.model.vms import RunInfo


async def start(machine: Machine, launch: Launch, driver: Hypervisor, host: Host) -> Guest:
    """Return the machine's guest; one that goes on from a checkpoint stands still. Raises DriverError.

    From what cannot be used it is not tried twice: the next start is one from the disks, which are as they were then.
    """
    checkpoint = machine.record.waking
    if checkpoint is None:
        return await driver.start(launch)
    state = kept.folder_of(host.place(machine.id), checkpoint) / kept.STATE
    try:
        if not isinstance(driver, CanRestore) or _kept(machine) is None:
            raise DriverError(
                "checkpoint_missing",
                "what the machine was to go on from is not there any more",
                hint="start it again: it starts from its disks, which are as they were then",
                failure_class=FailureClass.PERMANENT,
            )
        await confining.lend_folder(machine, state, host)
        return await driver.restore(launch, state)
    except DriverError as error:
        if error.failure_class is FailureClass.PERMANENT:
            machine.note(waking=None)
        raise


def run_info(machine: Machine, fresh: RunInfo) -> RunInfo:
    """Return the description of a life that has begun: one that goes on has what it had."""
    found = _kept(machine) if machine.record.waking is not None else None
    if found is None or found.run is None:
        return fresh
    had = found.run
    return msgspec.structs.replace(fresh, cpus=had.cpus, memory_bytes=had.memory_bytes, config=had.config)


def _kept(machine: Machine) -> Kept | None:
    waking = machine.record.waking
    return None if waking is None else machine.checkpoints.kept.get(waking)
