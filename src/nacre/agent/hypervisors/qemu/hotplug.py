"""Disks and NICs that come and go while a guest runs. Called by `guest`, which lets one change happen at a time.

Every function looks what is there, does what is missing, and may be repeated after any failure or crash.
"""

import asyncio

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Disk, DiskFile, Nic
from nacre.agent.hypervisors.qemu import answers, layering, limiting, taps
from nacre.agent.hypervisors.qemu.command_line import disks, nics
from nacre.agent.hypervisors.qemu.command_line.places import (
    chardev_of,
    device_of,
    group_of,
    limits_of,
    node_of,
    secret_of,
)
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.surroundings import TapFds
from nacre.agent.hypervisors.qemu.command_line.words import Props
from nacre.agent.hypervisors.qemu.finding import free_place
from nacre.agent.hypervisors.qemu.qmp import RefusedError
from nacre.agent.hypervisors.qemu.talk import Talk

_LOOK_S = 0.05
_LOOKS = 60


async def attach_disk(talk: Talk, disk: Disk) -> None:
    """Give the guest a disk. Raises DriverError and leaves nothing of it behind."""
    if isinstance(disk, DiskFile) and disk.cdrom:
        raise refused(
            "drive_hotplug_unsupported",
            f"disk {disk.id}: drives with a medium are there from the start",
            "connect it as a disk, or restart the machine",
        )
    disks.check(disk)
    if device_of(disk.id) in await talk.devices():
        return
    await _check_group(talk, disk)
    made = disks.parts(disk, await free_place(talk))
    await _clear_disk(talk, disk.id)
    try:
        if made.limits is not None:
            await talk.execute("object-add", made.limits)
        if made.secret is not None:
            await talk.execute("object-add", made.secret)
        if made.socket is not None:
            await _check_shared(talk)
            await talk.execute("chardev-add", _connection(chardev_of(disk.id), str(made.socket), server=False))
        if made.node is not None:
            await talk.execute("blockdev-add", made.node)
        await talk.execute("device_add", made.device)
    except RefusedError as error:
        await _clear_disk(talk, disk.id)
        raise _not_attached(f"disk {disk.id}", error) from error


async def detach_disk(talk: Talk, disk: str, timeout: float) -> None:
    """Take a disk back. Raises DriverError (`guest_holds_device`) if the guest does not let go in time."""
    await _unplug(talk, disk, f"disk {disk}", timeout)
    await _clear_disk(talk, disk)


async def attach_nic(talk: Talk, nic: Nic, name: str) -> None:
    """Give the guest a NIC. `name` is what the guest is called. Raises DriverError and leaves nothing of it behind."""
    nics.check(nic)
    if device_of(nic.id) in await talk.devices():
        return
    place = await free_place(talk)
    with taps.open_all((nic,)) as opened:
        fds = opened.fds.get(nic.id)
        names = tuple(f"{nic.id}-{queue}" for queue in range(len(fds.tap))) if fds is not None else ()
        # Without vhost: that would have to be handed over too, and a NIC that comes later is rarely the busy one.
        made = nics.parts(nic, name, place, TapFds(tap=fds.tap) if fds is not None else None, names)
        await _clear_nic(talk, nic.id)
        await limiting.limit_nics((nic,))
        try:
            if made.socket is not None:
                await _check_shared(talk)
                connection = _connection(chardev_of(nic.id), str(made.socket), server=made.server)
                await talk.execute("chardev-add", connection)
            for fd, called in zip(fds.tap if fds is not None else (), names, strict=True):
                await talk.hand_over(fd, called)
            await talk.execute("netdev_add", made.netdev)
            await talk.execute("device_add", made.device)
        except RefusedError as error:
            await _clear_nic(talk, nic.id)
            for called in names:
                await talk.attempt("closefd", {"fdname": called})
            await limiting.abandon_nics((nic,))
            raise _not_attached(f"NIC {nic.id}", error) from error


async def detach_nic(talk: Talk, nic: str, timeout: float) -> None:
    """Take a NIC back. Raises DriverError (`guest_holds_device`) if the guest does not let go in time."""
    await _unplug(talk, nic, f"NIC {nic}", timeout)
    await _clear_nic(talk, nic)


async def _unplug(talk: Talk, name: str, what: str, timeout: float) -> None:
    device = device_of(name)
    if device not in await talk.devices():
        return
    # Refused if the guest has been asked before and has not answered yet; then there is only waiting.
    await talk.attempt("device_del", {"id": device})
    try:
        async with asyncio.timeout(timeout):
            while device in await talk.devices():  # noqa: ASYNC110  # events are lost with connections; this is not
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as error:
        raise DriverError(
            "guest_holds_device",
            f"the guest has not let go of {what}",
            hint="unmount or disconnect it inside the guest, which must run to let go; it is tried again",
        ) from error


async def _clear_disk(talk: Talk, disk: str) -> None:
    """Take away what a disk without a device has left."""
    for layer in await layering.clear(talk, disk):
        await _delete_node(talk, layer)
    if node_of(disk) in await talk.nodes():
        await _delete_node(talk, node_of(disk))
    for thing in (limits_of(disk), secret_of(disk)):
        if thing in await talk.objects():
            await talk.execute("object-del", {"id": thing})
    await _hang_up(talk, disk)


async def _delete_node(talk: Talk, node: str) -> None:
    """Close a disk's file. A device that has just gone holds it for a moment longer."""
    for _ in range(_LOOKS):
        if await talk.attempt("blockdev-del", {"node-name": node}):
            return
        await asyncio.sleep(_LOOK_S)
    await talk.execute("blockdev-del", {"node-name": node})


async def _clear_nic(talk: Talk, nic: str) -> None:
    try:
        await talk.execute("netdev_del", {"id": nic})
    except RefusedError as error:
        if error.error_class != "DeviceNotFound":
            raise
    await _hang_up(talk, nic)


async def _hang_up(talk: Talk, name: str) -> None:
    if chardev_of(name) in await talk.chardevs():
        await talk.execute("chardev-remove", {"id": chardev_of(name)})


async def _check_group(talk: Talk, disk: Disk) -> None:
    group = disk.options.limit_group
    if group and group_of(group) not in await talk.objects():
        raise refused(
            "limit_group_unknown",
            f"disk {disk.id} is in a group of limits that the running machine does not have",
            "restart the machine with the group, or give the disk limits of its own",
        )


async def _check_shared(talk: Talk) -> None:
    if not all(memory.share for memory in await talk.ask(list[answers.MemoryBackend], "query-memdev")):
        raise refused(
            "shared_memory_needed",
            "what another process serves (vhost-user) must see the guest's memory, which is not shared",
            "set the machine's memory to shared and restart it",
        )


def _connection(name: str, path: str, *, server: bool) -> Props:
    address: Props = {"type": "unix", "data": {"path": path}}
    return {"id": name, "backend": {"type": "socket", "data": {"addr": address, "server": server}}}


def _not_attached(what: str, error: RefusedError) -> DriverError:
    return DriverError(
        "device_not_attached",
        f"{what} cannot be connected to the running machine: {error.message}",
        hint="is its file or device there and free? It is tried again",
    )
