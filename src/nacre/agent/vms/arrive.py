"""Take a machine in that comes from another node while it runs, or leave nothing of it. Called by `crossings`.

Its process waits for it and stands still when it has come: that it runs is for the executor, once the intent says that
the machine belongs here by this stream.
"""

import os
from collections.abc import Collection

import msgspec

from nacre.agent.host import locks
from nacre.agent.hypervisors.abilities import CanReceiveHeld
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Arrival, DiskFile, Launch, RbdDisk
from nacre.agent.records import Arriving, Run, Starting
from nacre.agent.vms import confining, launching, rootdisk
from nacre.agent.vms.delete import remove_folder
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.migrate import SOCKET
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.start import empty, leased, ready, run_info
from nacre.agent.vms.stop import end_unseen, kill
from nacre.lib import processes
from nacre.lib.threads import in_thread
from nacre.lib.undo import Undo
from nacre.model.arrivals import Room, VmArrival
from nacre.model.convergence import FailureClass
from nacre.model.images import Role
from nacre.model.migrations import Offer
from nacre.model.units import MIB
from nacre.model.vms import RunInfo, VmIntent

_ROUNDED = MIB
"""Disks of images are made a little larger than these, in whole blocks."""


def begun(arrival: VmArrival) -> Arriving:
    """Return what is put on record before anything is made ready."""
    return Arriving(stream=arrival.stream, volumes=arrival.volumes, room=arrival.room)


async def prepare(machine: Machine, arrival: VmArrival, host: Host) -> None:
    """Remember what is to come, and fetch what it needs. May be repeated. Raises NacreError and OSError."""
    vm = arrival.vm
    await machine.save(intent=vm, arriving=begun(arrival), reboot_nonce=vm.reboot_nonce, reset_nonce=vm.reset_nonce)
    await host.images.fetch(vm.image)


async def receive(machine: Machine, offer: Offer, host: Host) -> Guest:
    """Start the process that takes a machine in; it listens on the socket of `migrate`. Raises NacreError, OSError."""
    intent, arriving = machine.record.intent, machine.record.arriving
    assert intent is not None
    assert arriving is not None
    _check_room(offer, arriving.room)
    intent = _as_offered(intent, offer)
    driver = host.hypervisor(intent.spec.hypervisor)
    if not isinstance(driver, CanReceiveHeld):
        raise DriverError(
            "migration_unsupported",
            "the hypervisor here cannot take machines in that run",
            hint="move it by a restart",
            failure_class=FailureClass.BLOCKED,
        )
    host.place(intent.id).mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = locks.take(host.lock_file(intent.id))
    try:
        image = await host.images.fetch(intent.image)
        made = await rootdisk.ready(machine, intent, image, host)
        async with host.pools.held([attachment.volume for attachment in intent.volumes]):
            shared = await host.pools.arriving(intent.volumes, arriving.volumes)
            _check_same(made, shared, offer)
            await host.proof.settle(image.path(Role.KERNEL))
            empty(host, intent)
            async with Undo() as undo:
                found = await ready(intent, driver, host, undo)
                launch = launching.launch(
                    intent, image, (*made, *shared), run=host.new_run(), lock_fd=lock, host=host, ready=found
                )
                come = Arrival(shape=offer.shape, disks=tuple(disk.id for disk in made))
                return await _received(machine, driver, launching.to_receive(launch, come), offer, undo, host)
    finally:
        os.close(lock)


async def _received(
    machine: Machine, driver: CanReceiveHeld, launch: Launch, offer: Offer, undo: Undo, host: Host
) -> Guest:
    """Start the process. The locks of the machine and of its volumes are held."""
    intent, arriving = machine.record.intent, machine.record.arriving
    assert intent is not None
    assert arriving is not None
    hypervisor = host.hypervisor(intent.spec.hypervisor)
    launch = await confining.confined(machine, launch, hypervisor, host)
    undo.push(lambda: machine.save(starting=None))
    starting = Starting(run=launch.run, hypervisor=hypervisor.name, boot_id=processes.boot_id())
    await machine.save(starting=starting, arriving=msgspec.structs.replace(arriving, received=True))
    if launch.lease is not None:
        await leased(launch.lease, host)
    try:
        guest = await driver.receive_held(launch, host.run_place(intent.id) / SOCKET)
        undo.push(guest.kill)
    finally:
        await confining.forget_keys(launch.disks, launch.run_directory)
    info = _goes_on(run_info(_as_offered(intent, offer), starting, guest, host), offer)
    run = Run(info=info, hypervisor=hypervisor.name, handle=msgspec.to_builtins(guest.handle))
    await machine.save(starting=None, run=run, ending=None, plugging=())
    return guest


async def reject(machine: Machine, host: Host) -> None:
    """Leave nothing of what has come. May be repeated. Raises DriverError and OSError."""
    if machine.guest is not None:
        await kill(machine, machine.guest, elsewhere=True)
    elif machine.presence is not Presence.NONE:
        await end_unseen(machine, host)
    place = host.place(machine.id)
    if place.exists():
        lock = locks.take(host.lock_file(machine.id))
        try:
            await in_thread(remove_folder, place)
        finally:
            os.close(lock)
    await in_thread(remove_folder, host.run_place(machine.id))
    host.lease_file(machine.id, machine.record.fence).unlink(missing_ok=True)
    await in_thread(host.cgroups.remove, machine.id)
    if host.users is not None:
        host.users.give_back(machine.id)
    await in_thread(host.records.remove, machine.id)


def _check_same(made: Collection[DiskFile], shared: Collection[DiskFile | RbdDisk], offer: Offer) -> None:
    """Raise DriverError unless the disks here are those that the machine has on its node."""
    layers = {disk.id: disk.path.name if isinstance(disk, DiskFile) else "" for disk in shared}
    offered = {volume.id: volume.layer for volume in offer.volumes}
    if {disk.id for disk in made} != {disk.id for disk in offer.disks} or layers.keys() != offered.keys():
        raise DriverError(
            "disks_differ",
            "the machine has other disks on its node than it would have here",
            hint="move it by a restart",
            failure_class=FailureClass.BLOCKED,
        )
    if layers != offered:
        raise DriverError(
            "volume_differs",
            "this node sees an older state of a volume of the machine than its own node does",
            hint="it is tried again; do both nodes see the same folder, and how long are its names cached?",
        )


def _check_room(offer: Offer, room: Room | None) -> None:
    """Raise DriverError if the machine has more on its node than is kept free for it here."""
    root = max((disk.size_bytes for disk in offer.disks if disk.id == launching.ROOT_DISK), default=0)
    cpus, memory = (offer.cpus, offer.least_cpus), (offer.memory_bytes, offer.least_memory_bytes)
    fits = room is None or (
        max(cpus) <= room.cpus and max(memory) <= room.memory_bytes and root <= room.disk_bytes + _ROUNDED
    )
    if fits and min(*cpus, *memory, root) >= 0:
        return
    raise DriverError(
        "offer_too_large",
        "the machine has more on its node than is kept free for it here",
        hint="look at the node that it comes from; if what it says is right, move the machine by a restart",
        failure_class=FailureClass.PERMANENT,
    )


def _as_offered(intent: VmIntent, offer: Offer) -> VmIntent:
    """Return the intent with the sizes that the machine has where it runs."""
    size = next((disk.size_bytes for disk in offer.disks if disk.id == launching.ROOT_DISK), None)
    spec = msgspec.structs.replace(
        intent.spec,
        cpus=offer.cpus or intent.spec.cpus,
        memory_bytes=offer.memory_bytes or intent.spec.memory_bytes,
        disk_bytes=size,
    )
    return msgspec.structs.replace(intent, spec=spec)


def _goes_on(info: RunInfo, offer: Offer) -> RunInfo:
    """Return the life with what the machine has begun with elsewhere: it cannot have less while it runs."""
    if info.config is None:
        return info
    config = msgspec.structs.replace(
        info.config,
        least_cpus=offer.least_cpus or info.config.least_cpus,
        least_memory_bytes=offer.least_memory_bytes or info.config.least_memory_bytes,
    )
    return msgspec.structs.replace(info, config=config)
