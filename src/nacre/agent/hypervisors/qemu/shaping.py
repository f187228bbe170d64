"""What a running guest is made of by now. Called by `guest`, for checkpoints and for guests that move."""

import re

from nacre.agent.hypervisors.qemu import answers
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.finding import found_places
from nacre.agent.hypervisors.qemu.qmp import RefusedError
from nacre.agent.hypervisors.qemu.talk import Talk

_DIMM = re.compile(r"dimm(\d+)")


async def shape_of(talk: Talk, accelerator: str) -> Shape:
    """Ask QEMU."""
    places, ports = await found_places(talk)
    memory = await talk.ask(answers.MemorySizes, "query-memory-size-summary")
    return Shape(
        board=await talk.board(),
        accelerator=accelerator,
        cpus=len(await talk.ask(list[answers.Cpu], "query-cpus-fast")),
        memory_bytes=memory.base_memory,
        dimms=_dimms(await talk.ask(list[answers.MemoryDevice], "query-memory-devices")),
        ports=ports,
        places=places,
        generation=await _generation(talk),
    )


def _dimms(devices: list[answers.MemoryDevice]) -> tuple[int, ...]:
    found: dict[int, int] = {}
    for device in devices:
        match = _DIMM.fullmatch(str(device.data.get("id") or ""))
        if match is not None:
            found[int(match.group(1))] = int(str(device.data["size"]))
    return tuple(found[number] for number in sorted(found))


async def _generation(talk: Talk) -> str:
    try:
        return (await talk.ask(dict[str, str], "query-vm-generation-id"))["guid"]
    except RefusedError:  # a microvm has none
        return ""
