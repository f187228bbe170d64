"""Where the disks and NICs of a running guest are, and where another one fits. Called by `hotplug` and `shaping`."""

from nacre.agent.hypervisors.qemu import answers
from nacre.agent.hypervisors.qemu.command_line import bus
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.words import Props
from nacre.agent.hypervisors.qemu.talk import Talk
from nacre.model.vms import MachineType

_DEVICE = "-device"


def machine_of(board: str) -> MachineType:
    """Return the kind of a board with its version, such as `pc-q35-7.2`."""
    if "q35" in board:
        return MachineType.Q35
    return MachineType.MICROVM if board.startswith("microvm") else MachineType.PC


async def found_places(talk: Talk) -> tuple[dict[str, int], int]:
    """Return the place of each disk and NIC, and how many ports the machine has."""
    buses = await talk.ask(list[answers.PciBus], "query-pci")
    places: dict[str, int] = {}
    ports = 0
    for device in (device for one in buses for device in one.devices):
        if device.pci_bridge is not None and device.qdev_id.startswith("port"):
            ports += 1
            inside = [(child.qdev_id, bus.place_of(device.qdev_id, 0)) for child in device.pci_bridge.devices]
        else:
            inside = [(device.qdev_id, bus.place_of("", device.slot))]
        for name, place in inside:
            if place is not None and name.endswith(_DEVICE):
                places[name.removesuffix(_DEVICE)] = place
    return places, ports


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
