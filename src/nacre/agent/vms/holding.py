"""Have disks alone for what is done to a machine, and say which one it waits for. Called by the recipes.

Who changes or copies a disk may have it for hours. Until all of them are there nothing has begun, so who waits may be
interrupted at any time.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from nacre.agent.storage.roots import disk_of
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.model.convergence import Failure, FailureClass
from nacre.model.ids import VolumeId

BUSY = "volume_busy"
SILENT_S = 1.0
"""What takes no longer is not worth telling."""


@asynccontextmanager
async def held(machine: Machine, disks: Collection[VolumeId], host: Host) -> AsyncGenerator[None]:
    """Have these disks alone, always taken in the same order, which is that of `Pools.held`."""
    async with AsyncExitStack() as stack:
        for disk in sorted(set(disks)):
            with _waiting(machine, disk, host):
                await stack.enter_async_context(host.pools.held([disk]))
        machine.delayed = False
        yield


@contextmanager
def _waiting(machine: Machine, disk: VolumeId, host: Host) -> Generator[None]:
    """Have the machine wait for a disk, and say so if it takes a while."""
    before, said = machine.failure, _busy(machine, disk, host)

    def say() -> None:
        if not machine.frozen:
            machine.failure = said
            machine.tell()

    alarm = asyncio.get_running_loop().call_later(SILENT_S, say)
    machine.waits = True
    try:
        yield
    except asyncio.CancelledError:
        machine.delayed = True
        raise
    finally:
        machine.waits = False
        alarm.cancel()
        if machine.failure is said:
            machine.failure = before


def _busy(machine: Machine, disk: VolumeId, host: Host) -> Failure:
    record = host.pools.known.get(disk)
    name = f"volume {disk if record is None else record.intent.name}"
    if disk == disk_of(machine.id):
        name = "its root disk"
    elif machine.record.intent is not None and machine.record.intent.source is not None and record is None:
        name = "the disk that it is made from"
    return Failure(
        failure_class=FailureClass.WAITING,
        code=BUSY,
        message=f"the machine waits for {name}, which is being changed or copied",
        hint="it goes on by itself when that is done; `nacre volume show` says what a volume is doing",
        generation=machine.record.generation,
        at=host.clock.now(),
    )
