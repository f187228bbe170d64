"""Have the file systems of a machine at rest while its disks are kept, if that can be had.

Called for checkpoints of machines and for snapshots of volumes that a guest has open.
"""

from contextlib import AsyncExitStack

import structlog

from nacre.agent.guest.freezing import frozen
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.errors import NacreError
from nacre.model.consistency import Consistency
from nacre.model.vms import ExitReason

_CLEAN = frozenset({ExitReason.STOPPED, ExitReason.GUEST_SHUTDOWN})

log = structlog.get_logger()


async def hold_still(machine: Machine, stack: AsyncExitStack) -> Consistency:
    """Freeze the file systems of a guest until `stack` ends, if its agent answers; say what is in the disks then."""
    inside = machine.inside
    if inside is None or not inside.answering or machine.presence is not Presence.RUNNING:
        return Consistency.CRASH
    try:
        await stack.enter_async_context(frozen(inside.agent, machine.id))
    except NacreError as error:
        log.warning("vm.not_frozen", vm=machine.id, code=error.code, next="what is kept is as after a power cut")
        return Consistency.CRASH
    return Consistency.FILESYSTEM


def at_rest(machine: Machine) -> Consistency:
    """Say what is in the disks of a machine that is off."""
    run = machine.record.run
    clean = run is None or run.info.exit_reason in _CLEAN
    return Consistency.FILESYSTEM if clean and machine.record.waking is None else Consistency.CRASH
