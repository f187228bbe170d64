"""Start a machine: image, disk, lock, process. Called by the executor.

The lock is taken first and goes to the process, so nothing that runs is started again. What is about to happen is on
record before it happens: an agent that dies on the way finds the process by its sockets, or that there is none.
"""

import asyncio
import os
import shutil
from pathlib import Path

import msgspec

from nacre.agent.guest import seed
from nacre.agent.host import locks
from nacre.agent.hypervisors import guarding
from nacre.agent.hypervisors.base import Guest, Hypervisor
from nacre.agent.hypervisors.launch import DiskFile, RbdDisk
from nacre.agent.images.cache import CachedImage
from nacre.agent.records import Run, Starting
from nacre.agent.vms import confining, firmware, launching, rootdisk, tpm, waking
from nacre.agent.vms.holding import held
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.plug import can_plug
from nacre.lib import processes
from nacre.lib.threads import in_thread
from nacre.lib.undo import Undo
from nacre.model.images import Role
from nacre.model.vm_changes import in_force, seed_of
from nacre.model.vms import ExitReason, Phase, RunInfo, VmIntent

LEASE_PATIENCE_S = 1.0
_LOOK_S = 0.02


async def start(machine: Machine, intent: VmIntent, host: Host) -> Guest:
    """Start one life of a machine. May be repeated after any failure.

    Raises ConflictError (`machine_locked`) if there is a process already, else DriverError, NacreError or OSError.
    """
    machine.enter(Phase.PREPARING)
    await rootdisk.check(machine, host)  # before a folder is made where one should be mounted
    host.place(intent.id).mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = locks.take(host.lock_file(intent.id))
    try:
        host.hypervisor(intent.spec.hypervisor)  # refuses before anything is fetched
        image = await host.images.fetch(intent.image)
        own = await rootdisk.ready(machine, intent, image, host)
        await host.proof.settle(image.path(Role.KERNEL))
        async with held(machine, [attachment.volume for attachment in intent.volumes], host):
            disks = (*own, *await host.pools.disks(intent.volumes))
            return await _start(machine, intent, image, disks, lock, host)
    finally:
        os.close(lock)


async def _start(
    machine: Machine,
    intent: VmIntent,
    image: CachedImage,
    disks: tuple[DiskFile | RbdDisk, ...],
    lock: int,
    host: Host,
) -> Guest:
    """Start the process, holding the lock of the machine and those of its volumes."""
    driver = host.hypervisor(intent.spec.hypervisor)
    empty(host, intent)
    run = host.new_run()
    machine.enter(Phase.STARTING)
    async with Undo() as undo:
        found = await ready(intent, driver, host, undo)
        launch = launching.launch(intent, image, disks, run=run, lock_fd=lock, host=host, ready=found)
        launch = await confining.confined(machine, launch, driver, host)
        undo.push(lambda: machine.save(starting=None))
        starting = Starting(run=run, hypervisor=driver.name, boot_id=processes.boot_id())
        await machine.save(starting=starting)
        if launch.lease is not None:
            await leased(launch.lease, host)
        try:
            guest = await waking.start(machine, launch, driver, host)
            undo.push(guest.kill)
        finally:
            await confining.forget_keys(launch.disks, launch.run_directory)
        info = waking.run_info(machine, run_info(intent, starting, guest, host))
        await machine.save(
            starting=None,
            run=Run(info=info, hypervisor=driver.name, handle=msgspec.to_builtins(guest.handle)),
            ending=None,
            plugging=(),
            waking=None,
            reboot_nonce=intent.reboot_nonce,
            reset_nonce=intent.reset_nonce,
            restarts=machine.record.restarts + _is_restart(machine),
        )
    return guest


async def ready(intent: VmIntent, driver: Hypervisor, host: Host, undo: Undo) -> launching.Ready:
    """Make ready what a machine has besides disks. May be repeated. Raises DriverError and OSError."""
    files = await in_thread(firmware.files, intent.spec.boot, driver, host.place(intent.id))
    medium = await in_thread(_seed, intent, host.place(intent.id))
    if not intent.spec.devices.tpm:
        return launching.Ready(firmware=files, seed=medium)
    undo.push(lambda: tpm.end(intent.id, host))
    return launching.Ready(firmware=files, seed=medium, tpm_socket=await tpm.start(intent.id, host))


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
        confined=processes.owner(guest.handle.pid) not in {None, os.geteuid()},
        volumes=tuple(attachment.volume for attachment in intent.volumes),
        hotplug=can_plug(guest),
        config=in_force(intent.spec),
        seed=seed_of(intent.spec),
    )


async def leased(lease: Path, host: Host) -> None:
    """Wait a little for a lease that is just being asked for, or granted anew. Raises DriverError (`lease_missing`)."""
    deadline = asyncio.get_running_loop().time() + LEASE_PATIENCE_S
    while guarding.read_lease(lease) - host.clock.boottime() < guarding.LEAST_LEFT_S:
        if asyncio.get_running_loop().time() > deadline:
            raise guarding.lease_missing()
        await asyncio.sleep(_LOOK_S)


def _seed(intent: VmIntent, place: Path) -> Path | None:
    """Make the medium that the guest's cloud-init reads, if it is given anything. Blocks for a moment."""
    path = place / seed.FILE_NAME
    if intent.seed is None:
        path.unlink(missing_ok=True)
        return None
    seed.write(path, intent.id, intent.seed)
    return path


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
