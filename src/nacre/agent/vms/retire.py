"""Let go of a machine that has moved away: switch it off by force and set its folder aside. Called by the executor.

Whatever the guest would like: it may run elsewhere by now. Its disks stay, as a copy. Every step may be repeated, and
an agent that dies in between finds either the machine, switched off, or the copy with a record that is still to go.
"""

import os

from nacre.agent.host import locks
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.vms.copies import Copies
from nacre.agent.vms.delete import remove_traces
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.stop import end_unseen, kill
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId
from nacre.model.vms import ExitReason, Phase


async def retire(machine: Machine, fence: int, copies: Copies, host: Host) -> None:
    """Return when nothing runs, the folder is a copy and the record is gone. Raises DriverError and OSError."""
    machine.enter(Phase.STOPPING)
    if machine.guest is not None:
        sending = machine.record.sending
        await kill(machine, machine.guest, ExitReason.FENCED, elsewhere=sending is not None and sending.sent)
    elif machine.presence is not Presence.NONE:
        await end_unseen(machine, host, ExitReason.FENCED)
    place = host.place(machine.id)
    if place.exists():
        kept = copies.place(machine.id, fence)
        if kept.exists():
            raise DriverError(
                "copy_in_the_way",
                f"there is a copy of placement {fence} of the machine already, and a machine that would become it",
                hint=f"look at both on the node, and move {kept.name} out of the agent's folder of copies",
                failure_class=FailureClass.BLOCKED,
            )
        lock = locks.take(host.lock_file(machine.id))
        try:
            await in_thread(copies.note, place, machine.record, fence)
            host.lock_file(machine.id).unlink()
            await in_thread(copies.take, place, machine.id, fence)
        finally:
            os.close(lock)
    await in_thread(clear, machine.id, machine.record.fence, host)


def clear(vm: VmId, fence: int, host: Host) -> None:
    """Remove what is left of a machine when its folder is a copy, its record last. Blocks. May be repeated."""
    remove_traces(vm, host)
    host.lease_file(vm, fence).unlink(missing_ok=True)
    host.cgroups.remove(vm)
    host.records.remove(vm)
