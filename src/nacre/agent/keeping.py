"""What the executor does about a machine's checkpoints, step by step. Called by the executor. Decides nothing."""

from nacre.agent.planner import DropCheckpoint, MergeLayers, PutBack, TakeCheckpoint
from nacre.agent.vms import kept, rootdisk
from nacre.agent.vms.checkpoint import drop, look, merge, take
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.putback import put_back
from nacre.lib.threads import in_thread


async def load(machine: Machine, host: Host) -> None:
    """Find out which checkpoints there are, before anything is told of the machine."""
    machine.checkpoints = await in_thread(kept.load, host.place(machine.id))
    await look(machine, host)


async def found_again(machine: Machine, host: Host) -> bool:
    """Whether a machine's folder is there by now, in which its checkpoints could not be looked for. Now they were.

    Raises DriverError (`disk_missing`).
    """
    await rootdisk.check(machine, host)
    if machine.checkpoints.unread:
        await load(machine, host)
        return not machine.checkpoints.unread
    return False


async def keep(machine: Machine, step: TakeCheckpoint | DropCheckpoint | PutBack | MergeLayers, host: Host) -> None:
    """Carry a step out. Raises DriverError and OSError."""
    if await found_again(machine, host):
        machine.tell()
        return  # perhaps there is nothing to be done
    match step:
        case TakeCheckpoint(checkpoint=checkpoint):
            await take(machine, checkpoint, host)
        case DropCheckpoint(checkpoint=checkpoint):
            await drop(machine, checkpoint.id, checkpoint.volumes, host)
        case PutBack(intent=intent, restoration=restoration):
            await put_back(machine, intent, restoration, host)
        case MergeLayers():
            await merge(machine, host)
    machine.tell()
