"""Sizes and limits of the disks of a running guest, and limits of its NICs. Called by `guest` and `driver`.

QEMU limits disks. What goes through a tap is limited by the host (`traffic`).
"""

import asyncio
from collections.abc import Iterable

import structlog

from nacre.agent.hypervisors import traffic
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Nic, TapNic
from nacre.agent.hypervisors.qemu import answers, layering
from nacre.agent.hypervisors.qemu.command_line import limits, nics
from nacre.agent.hypervisors.qemu.command_line.places import device_of, limits_of
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.talk import Talk
from nacre.model.hardware import RateLimits

log = structlog.get_logger()


async def limit_disk(talk: Talk, disk: str, wanted: RateLimits) -> None:
    """Replace the limits of a disk. Raises DriverError."""
    node = await _node(talk, disk)
    if limits_of(disk) in await talk.objects():  # it was made with limits, and these are in its group of one
        path = f"/objects/{limits_of(disk)}"
        await talk.execute("qom-set", {"path": path, "property": "limits", "value": limits.group(wanted)})
    elif node.drv == "throttle":
        raise refused(
            "disk_in_limit_group",
            f"disk {disk} shares its limits with others",
            "change the group and restart the machine",
        )
    else:
        path = f"/machine/peripheral/{device_of(disk)}/virtio-backend"
        await talk.execute("block_set_io_throttle", {"id": path, **limits.throttle(wanted)})


async def limit_nic(nic: Nic, receive: RateLimits, send: RateLimits) -> None:
    """Replace the limits of a NIC. Raises DriverError."""
    nics.check_limits(nic, receive, send)
    if isinstance(nic, TapNic):
        await traffic.limit(nic.device, receive, send, nic.options.mtu)


async def limit_nics(wanted: Iterable[Nic]) -> None:
    """Have the host limit NICs as they were asked for, before a guest uses them. Raises DriverError and leaves none."""
    begun: list[Nic] = []
    try:
        for nic in wanted:
            begun.append(nic)
            await limit_nic(nic, nic.options.receive_limits, nic.options.send_limits)
    except BaseException:
        await asyncio.shield(abandon_nics(begun))
        raise


async def free_nics(had: Iterable[Nic]) -> None:
    """Remove what limits the taps of NICs that no guest uses any more. Raises DriverError."""
    for nic in had:
        if isinstance(nic, TapNic):
            await traffic.clear(nic.device)


async def abandon_nics(had: Iterable[Nic]) -> None:
    """Remove what limits the taps of NICs after something else has failed, which is what is to be told."""
    try:
        await free_nics(had)
    except DriverError as error:
        log.warning("nic.limits_left", error=error.message, next="the next guest on the tap, or agent, removes them")


async def resize_disk(talk: Talk, disk: str, size_bytes: int) -> None:
    """Grow a disk and tell the guest. Raises DriverError."""
    node = await _node(talk, disk)
    if size_bytes < node.image.virtual_size:
        raise refused(
            "disk_shrink_unsupported",
            f"disk {disk} has {node.image.virtual_size} bytes and would lose some",
            "make a smaller disk and copy what is needed",
        )
    # Also if it has this size: a device of the host that has grown is noticed only so.
    await talk.execute("block_resize", {"node-name": node.node_name, "size": size_bytes})


async def _node(talk: Talk, disk: str) -> answers.Node:
    if device_of(disk) not in await talk.devices():
        raise refused("disk_unknown", f"the running machine has no disk {disk}", "connect it first")
    node = await layering.written(talk, disk)
    if node is None:
        raise refused(
            "disk_served_elsewhere",
            f"disk {disk} is served by another process, which alone can resize and limit it",
            "do it there",
        )
    return node
