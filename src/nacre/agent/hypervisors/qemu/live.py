"""What a machine under QEMU can do beyond the core: the protocols of `abilities`. The basis of `guest.QemuGuest`.

Thin: one module per ability does the work. Of changes to the guest's devices one happens at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import structlog

from nacre.agent.hypervisors.abilities import (
    GuestCounters,
    MigrationProgress,
    MigrationState,
    MigrationTerms,
    Sizes,
)
from nacre.agent.hypervisors.base import Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Disk, DiskFile, Launch, Nic
from nacre.agent.hypervisors.qemu import arriving, checkpoints, counting, hotplug, layering, limiting, moving, sizing
from nacre.agent.hypervisors.qemu.carriers import carried
from nacre.agent.hypervisors.qemu.command_line import DISPLAY_SOCKET, GUEST_SOCKET
from nacre.agent.hypervisors.qemu.command_line import shape as shapes
from nacre.agent.hypervisors.qemu.command_line.places import device_of
from nacre.agent.hypervisors.qemu.qmp import Qmp
from nacre.agent.hypervisors.qemu.settling import pin
from nacre.agent.hypervisors.qemu.shaping import shape_of
from nacre.agent.hypervisors.qemu.talk import Talk
from nacre.model.hardware import RateLimits

_TAKEN_S = 20.0
_RESTING = {MigrationState.NONE, MigrationState.FAILED, MigrationState.CANCELLED}

log = structlog.get_logger()


class LiveGuest:
    """A machine that changes while it runs, is saved and moves."""

    def __init__(self, launch: Launch, handle: Handle, connection: Callable[[], Awaitable[Qmp]]) -> None:
        """`connection` returns the present one to the machine's QEMU."""
        self._launch = launch
        self._nics = {nic.id: nic for nic in launch.nics}
        self._handle = handle
        self._talk = Talk(connection)
        self._changing = asyncio.Lock()
        self._moving: asyncio.Task[None] | None = None
        self._trouble = ""

    @property
    def display_socket(self) -> Path | None:
        """Unix stream socket of its screen."""
        return _there(self._launch.run_directory / DISPLAY_SOCKET)

    @property
    def guest_socket(self) -> Path | None:
        """Unix stream socket that leads to the guest's agent."""
        return _there(self._launch.run_directory / GUEST_SOCKET)

    async def attach_disk(self, disk: Disk) -> None:
        """Give the guest a disk."""
        async with self._changing:
            await hotplug.attach_disk(self._talk, disk)

    async def detach_disk(self, disk: str, timeout: float) -> None:
        """Take a disk back, in `timeout` seconds."""
        async with self._changing:
            await hotplug.detach_disk(self._talk, disk, timeout)

    async def attach_nic(self, nic: Nic) -> None:
        """Give the guest a NIC."""
        async with self._changing:
            await hotplug.attach_nic(self._talk, nic, self._launch.name)
            self._nics[nic.id] = nic

    async def detach_nic(self, nic: str, timeout: float) -> None:
        """Take a NIC back, in `timeout` seconds."""
        async with self._changing:
            known = await self._find_nic(nic) if device_of(nic) in await self._talk.devices() else self._nics.get(nic)
            await hotplug.detach_nic(self._talk, nic, timeout)
            await limiting.free_nics((known,) if known is not None else ())
            self._nics.pop(nic, None)

    async def sizes(self) -> Sizes:
        """Ask QEMU how large it is."""
        return await sizing.sizes(self._talk)

    async def resize_cpus(self, cpus: int) -> None:
        """Add CPUs, and bind them as the others."""
        async with self._changing:
            await sizing.resize_cpus(self._talk, cpus)
            await pin(self._launch.cpu, self._talk, self._handle.pid)

    async def resize_memory(self, memory_bytes: int) -> None:
        """Have the guest run with so much memory."""
        async with self._changing:
            await sizing.resize_memory(self._talk, memory_bytes, _TAKEN_S)

    async def reclaim(self, reclaim_bytes: int) -> None:
        """Have the balloon take so much from the guest."""
        await sizing.reclaim(self._talk, reclaim_bytes)

    async def resize_disk(self, disk: str, size_bytes: int) -> None:
        """Grow a disk, and tell the guest."""
        async with self._changing:
            await limiting.resize_disk(self._talk, disk, size_bytes)

    async def switch_disk(self, disk: str, layer: DiskFile) -> None:
        """Go on with an overlay of what a disk writes now."""
        async with self._changing:
            await layering.switch(self._talk, disk, layer)

    async def merge_disk(self, disk: str, layer: Path) -> None:  # noqa: ARG002  # a file says which disk
        """Take a layer under a disk into the one above it."""
        async with self._changing:
            await layering.merge(self._talk, layer)

    async def limit_disk(self, disk: str, limits: RateLimits) -> None:
        """Replace what may go through a disk."""
        await limiting.limit_disk(self._talk, disk, limits)

    async def limit_nic(self, nic: str, receive: RateLimits, send: RateLimits) -> None:
        """Replace what may go through a NIC."""
        async with self._changing:
            await limiting.limit_nic(await self._find_nic(nic), receive, send)

    async def counters(self) -> GuestCounters:
        """Ask QEMU, and the host for NICs."""
        return await counting.counters(self._talk, tuple(self._nics.values()))

    async def save(self, directory: Path) -> None:
        """Write everything but the disks of the paused guest to a folder."""
        async with self._changing:
            shape = await shape_of(self._talk, self._handle.accelerator)
            await checkpoints.save(self._talk, directory, shape)

    async def shape(self) -> str:
        """Return what it is made of by now."""
        return shapes.encode(await shape_of(self._talk, self._handle.accelerator))

    async def migrate(self, socket: Path, terms: MigrationTerms) -> None:
        """Begin to send the guest. What remains to be done is done while it goes on."""
        async with self._changing:
            if self._moving is not None and not self._moving.done():
                return
            self._trouble = ""
            try:
                await moving.begin(self._talk, socket, terms)
            except DriverError:
                await moving.cancel(self._talk)
                raise
            self._moving = asyncio.create_task(self._carry(socket, terms))

    async def migration(self) -> MigrationProgress:
        """Ask QEMU how far the guest has moved."""
        found = await moving.progress(self._talk)
        if self._moving is not None and not self._moving.done() and found.state in _RESTING:
            return replace(found, state=MigrationState.COPYING)
        if self._trouble and found.state is not MigrationState.MOVED:
            return replace(found, state=MigrationState.FAILED, detail=found.detail or self._trouble)
        return found

    async def cancel_migration(self) -> None:
        """Stop sending, unless the guest runs elsewhere already."""
        await self._leave_moving()
        await moving.cancel(self._talk)

    async def take_back(self) -> None:
        """Go on here although all of it was sent."""
        await self._leave_moving()
        await moving.take_back(self._talk)

    async def take_over(self) -> None:
        """Have the disks for itself, which it has left to its sender so far."""
        await arriving.take_over(self._talk, self._launch.run_directory)

    async def _leave_moving(self) -> None:
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)

    async def _find_nic(self, nic: str) -> Nic:
        """Return a NIC, also of a guest that was adopted without a record of it. Raises DriverError."""
        if nic not in self._nics:
            self._nics[nic] = await carried(self._talk, nic, self._handle.pid)
        return self._nics[nic]

    async def _carry(self, socket: Path, terms: MigrationTerms) -> None:
        try:
            await moving.carry(self._talk, socket, terms)
        except DriverError as error:
            self._trouble = error.message
            log.warning("guest.move_failed", vm=self._launch.vm, error=error.message, next="it runs on here")


def _there(path: Path) -> Path | None:
    return path if path.exists() else None
