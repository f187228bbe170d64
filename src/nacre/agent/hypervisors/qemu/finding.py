"""Where the disks and NICs of a running guest are, and where another one fits. Called by `hotplug` and `shaping`."""

from nacre.agent.hypervisors.qemu.command_line import bus
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.words import Props
from nacre.agent.hypervisors.qemu.talk import Talk
from nacre.model.vms import MachineType

_DEVICE = "-device"
_PORT = "pcie-root-port"


def machine_of(board: str) -> MachineType:
    """Return the kind of a board with its version, such as `pc-q35-7.2`."""
    if "q35" in board:
        return MachineType.Q35
    return MachineType.MICROVM if board.startswith("microvm") else MachineType.PC


async def found_places(talk: Talk) -> tuple[dict[str, int], int]:
    """Return the place of each disk and NIC, and how many ports the machine has.

    Asks for the devices themselves: what `query-pci` shows behind ports is what the guest has made of them.
    """
    devices = await talk.devices()
    places: dict[str, int] = {}
    for name in devices:
        if name.endswith(_DEVICE) and (place := await _place(talk, f"/machine/peripheral/{name}")) is not None:
            places[name.removesuffix(_DEVICE)] = place
    return places, sum(1 for kind in devices.values() if kind == _PORT)


async def free_place(talk: Talk) -> Props:
    """Return the first free place for a disk or NIC. Raises DriverError if there is none."""
    machine = machine_of(await talk.board())
    if machine is MachineType.MICROVM:
        raise refused(
            "hotplug_unsupported",
            "a microvm cannot get disks or NICs while it runs",
            "stop the machine first, or make it with the machine type q35",
        )
    places, ports = await found_places(talk)
    number = bus.first_free(places.values())
    if number >= (bus.PC_PLACES if machine is MachineType.PC else ports):
        raise refused(
            "no_free_place",
            "the running machine has no place left for another disk or NIC",
            "take one away, or restart the machine: it then has places again",
        )
    return bus.place(machine, number)


async def _place(talk: Talk, path: str) -> int | None:
    above = await talk.ask(str, "qom-get", {"path": path, "property": "parent_bus"})
    name = above.rpartition("/")[2]
    if name != bus.root_of(MachineType.PC):
        return bus.place_of(name, 0)
    slot_and_function = await talk.ask(int, "qom-get", {"path": path, "property": "addr"})
    return bus.place_of("", slot_and_function >> 3)
