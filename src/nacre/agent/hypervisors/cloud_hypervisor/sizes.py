"""How large a running machine is, and how it is made larger or smaller. Used by `guest`.

One size per call, because Cloud Hypervisor does them one after the other and undoes none. It writes the wish into the
machine's configuration, whether the guest has followed it or not.
"""

from collections.abc import Mapping
from typing import cast

from nacre.agent.hypervisors.abilities import DeviceCounters, GuestCounters, Sizes
from nacre.agent.hypervisors.cloud_hypervisor.api import Api
from nacre.agent.hypervisors.cloud_hypervisor.config import HOTPLUG_STEP
from nacre.agent.hypervisors.cloud_hypervisor.plugs import part
from nacre.agent.hypervisors.cloud_hypervisor.refusals import unfit, unsupported
from nacre.agent.hypervisors.errors import DriverError
from nacre.model.units import MIB

_ANSWER_S = 5.0
_RESIZE_S = 30.0


async def sizes(api: Api) -> Sizes:
    """See `CanResize`."""
    return sizes_of(await api.ask("vm.info", timeout=_ANSWER_S))


def sizes_of(info: Mapping[str, object]) -> Sizes:
    """Read the sizes in what `vm.info` says."""
    config = part(info, "config")
    memory = part(config, "memory")
    zones = cast("list[Mapping[str, object]]", memory.get("zones") or [])
    parts = (memory, *zones)
    return Sizes(
        cpus=_number(part(config, "cpus"), "boot_vcpus"),
        memory_bytes=sum(_number(each, "size") + _number(each, "hotplugged_size") for each in parts),
        reclaimed_bytes=_number(part(config, "balloon"), "size"),
    )


async def resize_cpus(api: Api, cpus: int) -> None:
    """See `CanResize`."""
    info = await api.ask("vm.info", timeout=_ANSWER_S)
    if sizes_of(info).cpus == cpus:
        return
    most = _number(part(part(info, "config"), "cpus"), "max_vcpus")
    if not 1 <= cpus <= most:
        raise unfit(
            "size_unfit",
            f"the machine may have up to {most} CPUs while it runs, not {cpus}",
            "give it a larger maximum of CPUs and start it again",
        )
    await _resize(api, Sizes(cpus=cpus, memory_bytes=-1, reclaimed_bytes=-1), {"desired_vcpus": cpus})


async def resize_memory(api: Api, memory_bytes: int) -> None:
    """See `CanResize`."""
    info = await api.ask("vm.info", timeout=_ANSWER_S)
    now = sizes_of(info).memory_bytes
    if now == memory_bytes:
        return
    memory = part(part(info, "config"), "memory")
    virtio = memory.get("hotplug_method") == "VirtioMem"
    if memory_bytes < now and not virtio:
        raise unsupported(
            "size_unfit",
            "takes back no memory that was added as DIMMs",
            "start the machine again with less, or use virtio-mem or the balloon",
        )
    least = _number(memory, "size") if virtio else now
    if memory_bytes < least or not _number(memory, "hotplug_size") or (memory_bytes - now) % HOTPLUG_STEP:
        raise unsupported(
            "size_unfit",
            f"changes the memory in steps of {HOTPLUG_STEP // MIB} MiB, and up to the largest size that it was given",
            "choose another size, or give the machine a larger one at most and start it again",
        )
    await _resize(api, Sizes(cpus=-1, memory_bytes=memory_bytes, reclaimed_bytes=-1), {"desired_ram": memory_bytes})


async def reclaim(api: Api, reclaim_bytes: int) -> None:
    """See `CanResize`."""
    info = await api.ask("vm.info", timeout=_ANSWER_S)
    if not part(part(info, "config"), "balloon"):  # Cloud Hypervisor may say yes and do nothing
        raise unfit("balloon_missing", "the machine has no balloon", "give it one and start it again")
    if sizes_of(info).reclaimed_bytes == reclaim_bytes:
        return
    wanted = Sizes(cpus=-1, memory_bytes=-1, reclaimed_bytes=reclaim_bytes)
    await _resize(api, wanted, {"desired_balloon": reclaim_bytes})


async def resize_disk(api: Api, disk: str, size_bytes: int) -> None:
    """See `CanResizeDisks`. Growing a disk to the size that it has changes nothing."""
    await api.put("vm.resize-disk", {"id": disk, "desired_size": size_bytes}, timeout=_RESIZE_S)


async def counters(api: Api) -> GuestCounters:
    """See `HasCounters`."""
    return counters_of(await api.ask("vm.counters", timeout=_ANSWER_S))


def counters_of(said: Mapping[str, object]) -> GuestCounters:
    """Read what `vm.counters` says: numbers by the name of a device, which differ by its kind."""
    disks: list[DeviceCounters] = []
    nics: list[DeviceCounters] = []
    for name in sorted(said):
        found = part(said, name)
        if "read_bytes" in found:
            words, kind = ("read_bytes", "write_bytes", "read_ops", "write_ops"), disks
        elif "rx_bytes" in found:
            words, kind = ("rx_bytes", "tx_bytes", "rx_frames", "tx_frames"), nics
        else:
            continue
        read, written, reads, writes = (_number(found, word) for word in words)
        kind.append(DeviceCounters(id=name, read_bytes=read, written_bytes=written, reads=reads, writes=writes))
    return GuestCounters(disks=tuple(disks), nics=tuple(nics))


async def _resize(api: Api, wanted: Sizes, body: Mapping[str, object]) -> None:
    """Ask for a size; what is refused or unanswered may have been done all the same. A -1 in `wanted` is anything."""
    try:
        await api.put("vm.resize", body, timeout=_RESIZE_S)
    except DriverError:
        if not _is_as(await sizes(api), wanted):
            raise


def _is_as(now: Sizes, wanted: Sizes) -> bool:
    pairs = (
        (now.cpus, wanted.cpus),
        (now.memory_bytes, wanted.memory_bytes),
        (now.reclaimed_bytes, wanted.reclaimed_bytes),
    )
    return all(want in {-1, have} for have, want in pairs)


def _number(fields: Mapping[str, object], name: str) -> int:
    return cast("int", fields.get(name) or 0)
