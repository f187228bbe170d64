"""Which machine has a volume open, as the records and guests of machines say. Used by the executor."""

from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.vms import confining
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.plug import open_volumes
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.stillness import at_rest, hold_still
from nacre.agent.volumes.pools import NOT_READY
from nacre.model.consistency import Consistency
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId, VolumeId

MOVING = "volume_user_moving"


def user_of(machines: Iterable[Machine], volume: VolumeId) -> Guest | None:
    """Return the guest that has a volume open, None if surely none has. Raises DriverError while nobody knows."""
    for machine in machines:
        if is_between(machine) and (_may_open(machine, volume) or volume in open_volumes(machine)):
            raise _moving()
        if volume in open_volumes(machine) and machine.presence is not Presence.NONE:
            if machine.guest is None or machine.presence is Presence.LEAVING or machine.frozen:
                raise _uncertain()
            return machine.guest
        begun = machine.record.starting is not None or machine.record.intent is None
        if begun and machine.presence is Presence.UNKNOWN and _may_open(machine, volume):
            raise _uncertain()
    return None


@asynccontextmanager
async def held_still(machines: Collection[Machine], volume: VolumeId) -> AsyncGenerator[Consistency]:
    """Have the file systems in a volume at rest for as long as the block lasts, and say whether they are.

    The guest that has the volume open holds all of its file systems still if its agent answers. One that was switched
    off has left them as it was when it ended.
    """
    for machine in machines:
        if volume in open_volumes(machine):
            async with AsyncExitStack() as stack:
                yield await hold_still(machine, stack)
            return
    owner = next((one for one in machines if one.record.intent is not None and _may_open(one, volume)), None)
    yield Consistency.FILESYSTEM if owner is None else at_rest(owner)


def is_between(machine: Machine) -> bool:
    """Whether it is not settled which node a machine runs on: another one may write to its volumes, or is about to."""
    return machine.record.sending is not None or machine.record.arriving is not None


def release_waiting(machines: Iterable[Machine], volume: VolumeId) -> list[VmId]:
    """Let machines be tried again that would have gone on but for this volume, and return them."""
    waiting = [
        machine
        for machine in machines
        if machine.failure is not None and machine.failure.code == NOT_READY and _may_open(machine, volume)
    ]
    for machine in waiting:
        machine.retry_at = 0.0
    return [machine.id for machine in waiting]


def _may_open(machine: Machine, volume: VolumeId) -> bool:
    intent = machine.record.intent
    return intent is None or any(one.volume == volume for one in intent.volumes)


def _uncertain() -> DriverError:
    return DriverError(
        "volume_user_unknown",
        "the machine that has the volume open does not answer yet",
        hint="it goes on by itself when the machine does, or is off",
        failure_class=FailureClass.WAITING,
    )


def _moving() -> DriverError:
    return DriverError(
        MOVING,
        "the machine that has the volume open is just being moved",
        hint="it goes on by itself when that has ended",
        failure_class=FailureClass.WAITING,
    )


async def lend(machines: Iterable[Machine], volume: VolumeId, disk: DiskFile, host: Host) -> None:
    """Let the process that has a volume open use another file of it. Raises OSError."""
    for machine in machines:
        if volume in open_volumes(machine):
            await confining.lend(machine, disk, host)
