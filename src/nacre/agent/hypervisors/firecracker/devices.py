"""The devices of a running machine: what they are, how they come and go, how they change. Used by `guest`.

Looks, acts, looks again: what is there already is not made twice, and what is gone is not taken away.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar, cast

from nacre.agent.hypervisors.abilities import GuestCounters, Sizes
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import config, ids, limits
from nacre.agent.hypervisors.firecracker.api import Api
from nacre.agent.hypervisors.firecracker.places import Places
from nacre.agent.hypervisors.firecracker.releases import Release
from nacre.agent.hypervisors.firecracker.scruples import check_disk, check_nic, refusal
from nacre.agent.hypervisors.launch import Disk, Nic
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.hardware import RateLimits
from nacre.model.units import MIB

_ANSWER_S = 10.0
_PLUGGED_S = 10.0
_LOOK_S = 0.1

P = ParamSpec("P")
T = TypeVar("T")


class Devices:
    """Fulfils `CanHotplug`, `CanResize`, `CanResizeDisks`, `CanLimit` and `HasCounters`."""

    def __init__(self, api: Api, places: Places, release: Release) -> None:
        self._api = api
        self._places = places
        self._release = release
        self._counting = asyncio.Lock()

    # Coming and going

    async def attach_disk(self, disk: Disk) -> None:
        """Give the guest a disk. It finds it when it looks at its PCI bus again."""
        check_disk(disk, self._release)
        device = ids.device(disk.id)
        if device in await self._all("drives"):
            return
        await on_host(self._places.put, config.place(disk))
        await self._plug("drives", config.drive(disk, root=False), device)

    async def detach_disk(self, disk: str, timeout: float) -> None:
        """Take a disk back. Firecracker does not ask the guest, which must have let go of it before."""
        await self._detach("drives", "drives", disk, timeout)
        await on_host(self._places.take, disk)

    async def attach_nic(self, nic: Nic) -> None:
        """Give the guest a NIC. It finds it when it looks at its PCI bus again."""
        check_nic(nic, self._release)
        device = ids.device(nic.id)
        if device in await self._all("nics"):
            return
        await self._plug("nics", config.interface(nic), device)

    async def detach_nic(self, nic: str, timeout: float) -> None:
        """Take a NIC back. Firecracker does not ask the guest, which must have let go of it before."""
        await self._detach("nics", "network-interfaces", nic, timeout)

    # Sizes

    async def sizes(self) -> Sizes:
        """Ask Firecracker."""
        found = await self._api.ask("/vm/config", timeout=_ANSWER_S)
        machine = _part(found, "machine-config")
        memory = _number(machine, "mem_size_mib")
        if _part(found, "memory-hotplug"):
            memory += _number(await self._api.ask("/hotplug/memory", timeout=_ANSWER_S), "plugged_size_mib")
        held = 0
        if _number(_part(found, "balloon"), "stats_polling_interval_s"):
            held = _number(await self._api.ask("/balloon/statistics", timeout=_ANSWER_S), "actual_mib")
        return Sizes(cpus=_number(machine, "vcpu_count"), memory_bytes=memory * MIB, reclaimed_bytes=held * MIB)

    async def resize_cpus(self, cpus: int) -> None:
        """Refused unless it has so many already: Firecracker's machines keep their CPUs."""
        if (await self.sizes()).cpus != cpus:
            raise refusal("changing the number of CPUs while the machine runs", "stop the machine to change its CPUs")

    async def resize_memory(self, memory_bytes: int) -> None:
        """Plug or unplug memory (virtio-mem), and return when the guest has gone along."""
        found = await self._api.ask("/vm/config", timeout=_ANSWER_S)
        wanted = memory_bytes // MIB - _number(_part(found, "machine-config"), "mem_size_mib")
        if not _part(found, "memory-hotplug"):
            if wanted == 0:
                return
            raise refusal(
                "changing the memory of a machine that was started without room for it",
                "set memory.max_bytes and memory.hotplug (virtio-mem), and start the machine again",
            )
        if wanted < 0:
            raise refusal("less memory than the machine was started with", "use its balloon")
        await self._api.patch("/hotplug/memory", {"requested_size_mib": wanted}, timeout=_ANSWER_S)
        try:
            async with asyncio.timeout(_PLUGGED_S):
                while await self._plugged() != wanted:  # noqa: ASYNC110  # it tells nothing by itself
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            raise DriverError(
                "guest_holds_memory",
                "the guest has not changed its memory yet",
                hint="its kernel needs virtio-mem, and can give back only what it does not use",
            ) from error

    async def reclaim(self, reclaim_bytes: int) -> None:
        """Have the balloon take so much. Its device must be there from the start."""
        await self._api.patch("/balloon", {"amount_mib": reclaim_bytes // MIB}, timeout=_ANSWER_S)

    async def resize_disk(self, disk: str, size_bytes: int) -> None:
        """Grow the file of a disk, then name it again to Firecracker, which so finds its new size."""
        device = ids.device(disk)
        if device not in await self._all("drives"):
            raise _no_device(disk)
        if await on_host(self._places.grow, disk, size_bytes) > size_bytes:
            raise _shrinks()
        again = {"drive_id": device, "path_on_host": config.disk_path(disk)}
        await self._api.patch(f"/drives/{device}", again, timeout=_ANSWER_S)

    # Limits and counters

    async def limit_disk(self, disk: str, limits_: RateLimits) -> None:
        """Replace what may go through a disk."""
        device = ids.device(disk)
        body = {"drive_id": device, "rate_limiter": limits.replacing(limits_)}
        await self._api.patch(f"/drives/{device}", body, timeout=_ANSWER_S)

    async def limit_nic(self, nic: str, receive: RateLimits, send: RateLimits) -> None:
        """Replace what may go through a NIC."""
        device = ids.device(nic)
        both = {"rx_rate_limiter": limits.replacing(receive), "tx_rate_limiter": limits.replacing(send)}
        await self._api.patch(f"/network-interfaces/{device}", {"iface_id": device} | both, timeout=_ANSWER_S)

    async def counters(self) -> GuestCounters:
        """Have it write what it has counted, and add that up."""
        async with self._counting:
            await self._api.act("FlushMetrics", timeout=_ANSWER_S)
            return (await on_host(self._places.counted)).counters()

    async def _all(self, kind: str) -> dict[str, Mapping[str, object]]:
        return await self._api.devices(kind, timeout=_ANSWER_S)

    async def _detach(self, kind: str, path: str, name: str, timeout: float) -> None:
        device = ids.device(name)
        if device not in await self._all(kind):
            return
        try:
            await self._api.delete(f"/{path}/{device}", timeout=timeout)
        except DriverError:
            if device in await self._all(kind):
                raise
        else:
            await self._expect(kind, device, there=False)

    async def _plug(self, kind: str, request: config.Request, device: str) -> None:
        try:
            await self._api.tell(request, timeout=_ANSWER_S)
        except DriverError:
            if device not in await self._all(kind):
                raise
        else:
            await self._expect(kind, device, there=True)

    async def _expect(self, kind: str, device: str, *, there: bool) -> None:
        if (device in await self._all(kind)) is not there:
            raise DriverError(
                "guest_holds_device",
                "Firecracker has not changed the machine's devices as it said",
                hint="it is tried again; if that does not help, stop and start the machine",
            )

    async def _plugged(self) -> int:
        return _number(await self._api.ask("/hotplug/memory", timeout=_ANSWER_S), "plugged_size_mib")


async def on_host(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do something with the machine's files, in a thread. Raises DriverError."""
    try:
        return await in_thread(call, *args, **kwargs)
    except OSError as error:
        raise DriverError(
            "machine_file_unusable",
            f"a file of the machine on the node cannot be used: {error.strerror}",
            hint="look at the node's disks; if there are links in the machine's jail, Firecracker has been taken over",
        ) from error


def _shrinks() -> DriverError:
    return DriverError(
        "disk_shrinks",
        "a disk of a running machine can only grow",
        hint="ask for a size above the one that it has",
        failure_class=FailureClass.PERMANENT,
    )


def _no_device(name: str) -> DriverError:
    return DriverError(
        "device_not_found",
        f"the machine has no disk {name}",
        hint="look at the machine's devices",
        failure_class=FailureClass.PERMANENT,
    )


def _part(found: Mapping[str, object], key: str) -> Mapping[str, object]:
    part = found.get(key)
    return cast("Mapping[str, object]", part) if isinstance(part, dict) else {}


def _number(found: Mapping[str, object], key: str) -> int:
    value = found.get(key)
    return value if isinstance(value, int) else 0
