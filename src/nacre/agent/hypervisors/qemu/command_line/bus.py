"""Where devices are on the guest's PCI bus. Pure.

Always the same, so that a guest finds its devices where they were when it is restored or moved, also by a later version
of Nacre. On the board q35, disks and NICs have a port each, because only behind ports they come and go; some ports are
left free. On the board pc the bus itself does that. A microvm takes what it is given in the order of the words.
"""

from collections.abc import Iterable, Mapping

from nacre.agent.hypervisors.launch import DiskFile, Launch
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.command_line.words import Props, device
from nacre.model.vms import MachineType

SPARE = 4
"""At least so many disks and NICs can be added while the machine runs."""
PC_PLACES = 21
_PER_SLOT = 8
_FIRST_PORT_SLOT = 0x10
_FIRST_PC_SLOT = 0x0B
_MAX_PORTS = (0x1F - _FIRST_PORT_SLOT) * _PER_SLOT
_FIXED = {
    "video0": 0x02,
    "usb0": 0x03,
    "rng0-device": 0x04,
    "balloon0": 0x05,
    "serial0": 0x06,
    "watchdog0": 0x07,
    "vmem0": 0x08,
    "iommu0": 0x09,
    "drives0": 0x0A,
}


def root_of(machine: MachineType) -> str:
    """Name the first bus."""
    return "pci.0" if machine is MachineType.PC else "pcie.0"


def fixed(machine: MachineType, name: str) -> Props:
    """Return where a device is that every machine has at most once."""
    if machine is MachineType.MICROVM:
        return {}
    return {"bus": root_of(machine), "addr": hex(_FIXED[name])}


def place(machine: MachineType, number: int) -> Props:
    """Return where the disk or NIC with this place is."""
    match machine:
        case MachineType.Q35:
            return {"bus": port_of(number)}
        case MachineType.PC:
            return {"bus": root_of(machine), "addr": hex(_FIRST_PC_SLOT + number)}
        case MachineType.MICROVM:
            return {}


def port_of(number: int) -> str:
    """Name a port."""
    return f"port{number}"


def place_of(bus: str, slot: int) -> int | None:
    """Return the place that a device has which QEMU shows on this bus and slot; None if it is none of ours."""
    if bus.startswith("port"):
        return int(bus.removeprefix("port"))
    return slot - _FIRST_PC_SLOT if _FIRST_PC_SLOT <= slot < _FIRST_PC_SLOT + PC_PLACES else None


def places(launch: Launch, shape: Shape | None) -> Mapping[str, int]:
    """Return the place of every disk and NIC: where it was, else the first free ones. Raises DriverError."""
    known = shape.places if shape is not None else {}
    names = [disk.id for disk in launch.disks if not (isinstance(disk, DiskFile) and disk.cdrom)]
    names += [nic.id for nic in launch.nics]
    found = {name: known[name] for name in names if name in known}
    for name in names:
        if name not in found:
            found[name] = first_free(found.values())
    most = most_places(launch.machine)
    if max(found.values(), default=0) >= most:
        raise refused(
            "too_many_devices",
            f"the machine type {launch.machine} has room for {most} disks and NICs",
            "use the machine type q35, or fewer disks",
        )
    return found


def most_places(machine: MachineType) -> int:
    """Return how many disks and NICs a board has room for."""
    return PC_PLACES if machine is MachineType.PC else _MAX_PORTS


def first_free(taken: Iterable[int]) -> int:
    """Return the lowest place that is not taken."""
    used = set(taken)
    return next(number for number in range(len(used) + 1) if number not in used)


def ports(launch: Launch, taken: Mapping[str, int], shape: Shape | None) -> list[str]:
    """Return the words of the ports: for every device there is, and some to spare.

    A guest that goes on has exactly those that it had: QEMU numbers what can be unplugged by counting all ports, so
    with one more, what the guest knows as one device would be another (`acpi_set_pci_info`, hw/acpi/pcihp.c).
    """
    if launch.machine is not MachineType.Q35:
        return []
    needed = max(taken.values(), default=-1) + 1
    # Not more to spare than that: firmware and kernel look at each, which is slow without hardware acceleration.
    count = max(needed, shape.ports) if shape is not None else needed + SPARE
    return [word for number in range(count) for word in _port(number)]


def _port(number: int) -> list[str]:
    slot, function = divmod(number, _PER_SLOT)
    props: Props = {
        "driver": "pcie-root-port",
        "id": port_of(number),
        "bus": "pcie.0",
        "chassis": number + 1,
        "addr": f"{_FIRST_PORT_SLOT + slot:#x}.{function:#x}",
    }
    return device({**props, "multifunction": True} if function == 0 else props)
