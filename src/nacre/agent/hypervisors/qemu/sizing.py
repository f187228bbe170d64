"""How large a guest is, and making it larger or smaller while it runs. Called by `guest`.

CPUs are only ever added: a guest that is asked to give one back may refuse for ever, and under TCG QEMU does not
survive it. Memory is added as DIMMs, or taken and given through virtio-mem if the machine was made so.
"""

import asyncio

from nacre.agent.hypervisors.abilities import Sizes
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.qemu import answers
from nacre.agent.hypervisors.qemu.command_line.memory import MAIN, VIRTIO_MEM, backend, backend_of, dimm, dimm_of
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.qmp import RefusedError
from nacre.agent.hypervisors.qemu.talk import Talk
from nacre.model.hardware import MemoryOptions
from nacre.model.units import MIB

BLOCK = 128 * MIB
"""Linux on x86 takes memory in blocks of this size (memory-hotplug in its documentation)."""
_LOOK_S = 0.1
_VIRTIO_MEM_PATH = f"/machine/peripheral/{VIRTIO_MEM}"
_MEMORY_HINT = "raise the machine's maximum and restart it"


async def sizes(talk: Talk) -> Sizes:
    """Ask QEMU."""
    memory = await talk.ask(answers.MemorySizes, "query-memory-size-summary")
    total = memory.base_memory + memory.plugged_memory
    cpus = await talk.ask(list[answers.Cpu], "query-cpus-fast")
    left = await _left_by_balloon(talk)
    return Sizes(cpus=len(cpus), memory_bytes=total, reclaimed_bytes=0 if left is None else max(0, total - left))


async def resize_cpus(talk: Talk, wanted: int) -> None:
    """Add CPUs until there are so many."""
    slots = await talk.ask(list[answers.CpuSlot], "query-hotpluggable-cpus")
    present = sum(1 for slot in slots if slot.qom_path is not None)
    if wanted > len(slots):
        raise refused(
            "cpus_at_most", f"the machine may have {len(slots)} CPUs while it runs, not {wanted}", _MEMORY_HINT
        )
    if wanted < present:
        raise refused(
            "cpu_removal_unsupported",
            f"the machine runs with {present} CPUs and QEMU takes none away",
            "restart the machine with fewer CPUs",
        )
    free = sorted((slot for slot in slots if slot.qom_path is None), key=lambda slot: sorted(slot.props.items()))
    for number, slot in enumerate(free[: wanted - present], start=present):
        await talk.execute("device_add", {"driver": slot.type, "id": f"cpu{number}", **slot.props})


async def resize_memory(talk: Talk, wanted: int, timeout: float) -> None:
    """Have the guest run with so much memory. Raises DriverError, also if it does not give it back in time."""
    devices = await talk.devices()
    now = (await sizes(talk)).memory_bytes
    if VIRTIO_MEM in devices:
        await _request(talk, wanted, timeout)
    elif wanted > now:
        await _add(talk, wanted - now)
    elif wanted < now:
        raise refused(
            "memory_removal_unsupported",
            "memory that was added as DIMMs stays until the machine is restarted",
            "take it through the balloon, restart the machine, or make it with virtio-mem",
        )


async def reclaim(talk: Talk, wanted: int) -> None:
    """Have the balloon take so much. QEMU wants to be told what is left."""
    memory = await talk.ask(answers.MemorySizes, "query-memory-size-summary")
    total = memory.base_memory + memory.plugged_memory
    if await _left_by_balloon(talk) is None:
        raise refused("balloon_missing", "the machine has no balloon", "give it one and restart it")
    if wanted >= total:
        raise refused("reclaim_too_large", "the balloon cannot take all of the machine's memory", "take less")
    await talk.execute("balloon", {"value": total - wanted})


async def _left_by_balloon(talk: Talk) -> int | None:
    """Return what the balloon leaves the guest; None if there is none."""
    try:
        answer = await talk.ask(dict[str, int], "query-balloon")
    except RefusedError as error:
        if error.error_class == "DeviceNotActive":
            return None
        raise
    return answer["actual"]


async def _request(talk: Talk, wanted: int, timeout: float) -> None:
    base = (await talk.ask(answers.MemorySizes, "query-memory-size-summary")).base_memory
    room = await _property(talk, "block-size")
    if wanted < base or (wanted - base) % room:
        raise refused(
            "memory_size_invalid",
            f"the machine's memory changes in steps of {room // MIB} MiB above {base // MIB} MiB",
            "choose such a size",
        )
    arguments = {"path": _VIRTIO_MEM_PATH, "property": "requested-size", "value": wanted - base}
    try:
        await talk.execute("qom-set", arguments)
    except RefusedError as error:
        raise refused(
            "memory_at_most", f"the machine cannot have so much memory: {error.text}", _MEMORY_HINT
        ) from error
    try:
        async with asyncio.timeout(timeout):
            while await _property(talk, "size") != wanted - base:  # noqa: ASYNC110  # only looking tells
                await asyncio.sleep(_LOOK_S)
    except TimeoutError as error:
        raise DriverError(
            "guest_holds_memory",
            "the guest has not taken or given back all of the memory yet",
            hint="its kernel needs virtio_mem and must bring new memory online; it goes on by itself",
        ) from error


async def _property(talk: Talk, name: str) -> int:
    return await talk.ask(int, "qom-get", {"path": _VIRTIO_MEM_PATH, "property": name})


async def _add(talk: Talk, size: int) -> None:
    if size % BLOCK:
        raise refused(
            "memory_size_invalid",
            f"memory is added to a running machine in steps of {BLOCK // MIB} MiB",
            "choose such a size, or make the machine with virtio-mem",
        )
    present = len(await talk.ask(list[answers.MemoryDevice], "query-memory-devices"))
    name = dimm_of(present)
    if backend_of(name) in await talk.objects():  # what an earlier try left
        await talk.execute("object-del", {"id": backend_of(name)})
    await talk.execute("object-add", backend(await _like_the_first(talk), backend_of(name), size))
    try:
        await talk.execute("device_add", dimm(name))
    except RefusedError as error:
        await talk.execute("object-del", {"id": backend_of(name)})
        raise refused(
            "memory_at_most", f"the machine cannot have so much memory: {error.text}", _MEMORY_HINT
        ) from error


async def _like_the_first(talk: Talk) -> MemoryOptions:
    """Return how the memory is that the guest began with: what is added is the same, whoever else uses it."""
    first = (await talk.ask(list[answers.MemoryBackend], "query-memdev"))[-1]
    path = f"/objects/{MAIN}"
    huge = (await talk.objects()).get(MAIN) == "memory-backend-memfd" and await talk.ask(
        bool, "qom-get", {"path": path, "property": "hugetlb"}
    )
    return MemoryOptions(
        shared=first.share,
        mergeable=first.merge,
        prefault=first.prealloc,
        hugepage_bytes=await talk.ask(int, "qom-get", {"path": path, "property": "hugetlbsize"}) if huge else None,
    )
