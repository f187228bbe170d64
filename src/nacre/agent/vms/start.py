"""Start a machine: image, disk, lock, process. Called by the executor.

The lock is taken first and goes to the process, so nothing that runs is started again. What is about to happen is on
record before it happens: an agent that dies on the way finds the process by its sockets, or that there is none.
"""

import asyncio
import os
import shutil
from pathlib import Path

import msgspec

from nacre.agent.host import locks
from nacre.agent.hypervisors import guarding
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.images.cache import CachedImage
from nacre.agent.records import Run, Starting
from nacre.agent.storage.base import BaseDisk
from nacre.agent.vms import launching
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.lib import processes
from nacre.lib.undo import Undo
from nacre.model.images import Role
from nacre.model.vms import ExitReason, Phase, RunInfo, VmIntent

LEASE_PATIENCE_S = 1.0
_LOOK_S = 0.02


async def start(machine: Machine, intent: VmIntent, host: Host) -> Guest:
    """Start one life of a machine. May be repeated after any failure.

    Raises ConflictError (`machine_locked`) if there is a process already, else DriverError, NacreError or OSError.
    """
    machine.enter(Phase.PREPARING)
    host.place(intent.id).mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = locks.take(host.lock_file(intent.id))
    try:
        driver = host.hypervisor(intent.spec.hypervisor)
        image = await host.images.fetch(intent.image)
        made = await disks(intent, image, host)
        await host.proof.settle(image.path(Role.KERNEL))
        empty(host, intent)
        run = host.new_run()
        launch = launching.launch(intent, image, made, run=run, lock_fd=lock, host=host)
        machine.enter(Phase.STARTING)
        async with Undo() as undo:
            undo.push(lambda: machine.save(starting=None))
            starting = Starting(run=run, hypervisor=driver.name, boot_id=processes.boot_id())
            await machine.save(starting=starting)
            if launch.lease is not None:
                await leased(launch.lease, host)
            guest = await driver.start(launch)
            undo.push(guest.kill)
            info = run_info(intent, starting, guest, host)
            await machine.save(
                starting=None,
                run=Run(info=info, hypervisor=driver.name, handle=msgspec.to_builtins(guest.handle)),
                ending=None,
                reboot_nonce=intent.reboot_nonce,
                reset_nonce=intent.reset_nonce,
                restarts=machine.record.restarts + _is_restart(machine),
            )
        return guest
    finally:
        os.close(lock)


def run_info(intent: VmIntent, starting: Starting, guest: Guest, host: Host) -> RunInfo:
    """Describe the life that has begun."""
    return RunInfo(
        id=starting.run,
        started_at=host.clock.now(),
        accelerator=guest.handle.accelerator,
        accelerator_reason=guest.handle.accelerator_reason,
        cpus=intent.spec.cpus,
        memory_bytes=intent.spec.memory_bytes,
        publish=intent.spec.publish,
        guarded=guest.guard is not None,
    )


async def leased(lease: Path, host: Host) -> None:
    """Wait a little for a lease that is just being asked for, or granted anew. Raises DriverError (`lease_missing`)."""
    deadline = asyncio.get_running_loop().time() + LEASE_PATIENCE_S
    while guarding.read_lease(lease) - host.clock.boottime() < guarding.LEAST_LEFT_S:
        if asyncio.get_running_loop().time() > deadline:
            raise guarding.lease_missing()
        await asyncio.sleep(_LOOK_S)


async def disks(intent: VmIntent, image: CachedImage, host: Host) -> tuple[DiskFile, ...]:
    """Make the disks of a machine that are not there yet, and return all. May be repeated. Raises DriverError."""
    artifact = intent.image.artifact(Role.DISK)
    base = image.path(Role.DISK)
    if artifact is None or base is None:
        if intent.spec.disk_bytes is None:
            return ()
        blank = await host.storage.ensure(
            host.place(intent.id), launching.ROOT_DISK, base=None, size_bytes=intent.spec.disk_bytes
        )
        return (blank,)
    disk = await host.storage.ensure(
        host.place(intent.id),
        launching.ROOT_DISK,
        base=BaseDisk(path=base, format=artifact.format),
        size_bytes=intent.spec.disk_bytes,
    )
    return (disk,)


def empty(host: Host, intent: VmIntent) -> None:
    """Make the folder for sockets, without what an earlier life left in it: the lock says that it is over."""
    place = host.run_place(intent.id)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700, parents=True)


def _is_restart(machine: Machine) -> bool:
    run = machine.record.run
    if run is None or run.ended_under != machine.record.generation:
        return False
    return run.info.exit_reason is ExitReason.CRASHED
