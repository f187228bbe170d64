"""The memory and its nodes. Pure; the backends are also used for what is added later."""

from dataclasses import dataclass

from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.qemu.command_line import bus
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.command_line.words import Props, Value, device, instance, joined
from nacre.model.hardware import HotplugMethod, MemoryOptions, NumaCell
from nacre.model.units import MIB

DIMMS = 16
"""How many times memory can be added as a DIMM."""
MAIN = "ram0"
VIRTIO_MEM = "vmem0"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The words, and what they ask of the board."""

    words: list[str]
    board: list[str]


def memory(launch: Launch, shape: Shape | None) -> Memory:
    """Return the words of the memory. Raises DriverError if the nodes do not add up."""
    options = launch.memory
    size = shape.memory_bytes if shape is not None else launch.memory_bytes
    words = ["-m", _sizes(launch, size)]
    asked: list[str] = []
    if launch.numa:
        words += _nodes(launch, size)
    elif options.shared or options.hugepage_bytes or options.prefault:
        words += instance(backend(options, MAIN, size))
        asked.append(f"memory-backend={MAIN}")
    if (room := _room(launch, size)) and options.hotplug is HotplugMethod.VIRTIO_MEM:
        reserve: Props = {} if options.hugepage_bytes else {"reserve": False}
        words += instance({**backend(options, backend_of(VIRTIO_MEM), room, prefault=False), **reserve})
        props: Props = {"driver": "virtio-mem-pci", "id": VIRTIO_MEM, "memdev": backend_of(VIRTIO_MEM)}
        words += device({**props, "requested-size": 0, **bus.fixed(launch.machine, VIRTIO_MEM)})
    for number, dimm_size in enumerate(shape.dimms if shape is not None else ()):
        name = dimm_of(number)
        words += instance(backend(options, backend_of(name), dimm_size)) + device(dimm(name))
    return Memory(words=words, board=asked)


def backend(options: MemoryOptions, name: str, size: int, *, prefault: bool | None = None) -> Props:
    """Return an object that holds memory."""
    shared_file = options.shared or options.hugepage_bytes is not None
    props: dict[str, Value] = {"qom-type": "memory-backend-memfd" if shared_file else "memory-backend-ram"}
    props |= {"id": name, "size": size, "merge": options.mergeable}
    if shared_file:
        props["share"] = options.shared
    if options.hugepage_bytes is not None:
        props |= {"hugetlb": True, "hugetlbsize": options.hugepage_bytes}
    if options.prefault if prefault is None else prefault:
        props["prealloc"] = True
    return props


def dimm(name: str) -> Props:
    """Return the device by which an object becomes memory of the guest."""
    return {"driver": "pc-dimm", "id": name, "memdev": backend_of(name)}


def dimm_of(number: int) -> str:
    """Name a DIMM."""
    return f"dimm{number}"


def backend_of(name: str) -> str:
    """Name the object with the memory of a device."""
    return f"{name}-memory"


def numbers(text: str) -> list[int]:
    """Read a list of CPUs or nodes as Linux writes it."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


def _room(launch: Launch, size: int) -> int:
    """How much may be added to what it began with."""
    return max(0, (launch.memory.max_bytes or 0) - size)


def _sizes(launch: Launch, size: int) -> str:
    parts = [f"{size // MIB}M"]
    if _room(launch, size):
        if launch.memory.hotplug is HotplugMethod.ACPI:
            parts.append(f"slots={DIMMS}")
        parts.append(f"maxmem={(launch.memory.max_bytes or 0) // MIB}M")
    return ",".join(parts)


def _nodes(launch: Launch, size: int) -> list[str]:
    if sum(cell.memory_bytes for cell in launch.numa) != size:
        raise refused(
            "numa_memory_mismatch",
            "the memory nodes of the machine do not add up to its memory",
            "give the nodes as much memory as the machine has",
        )
    most = launch.cpu.max or launch.cpus
    cells = [numbers(cell.cpus) for cell in launch.numa]
    named = [cpu for cell in cells for cpu in cell]
    if len(set(named)) != len(named) or max(named) >= most:
        raise refused(
            "numa_cpus_mismatch",
            "the memory nodes of the machine name a CPU twice, or one that it never has",
            f"name each of the CPUs 0 to {most - 1} once",
        )
    cells[0] = sorted(cells[0] + [cpu for cpu in range(most) if cpu not in named])
    words: list[str] = []
    for number, (cell, cpus) in enumerate(zip(launch.numa, cells, strict=True)):
        words += instance({**backend(launch.memory, f"ram{number}", cell.memory_bytes), **_bound(cell)})
        words += ["-numa", joined("node", {"nodeid": number, "memdev": f"ram{number}", "cpus": cpus})]
    return words


def _bound(cell: NumaCell) -> Props:
    return {} if cell.host_nodes is None else {"host-nodes": numbers(cell.host_nodes), "policy": "bind"}
