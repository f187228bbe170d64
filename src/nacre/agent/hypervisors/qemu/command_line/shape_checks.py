"""Whether a shape can be true: it was written by another node, or lies in a folder that others write to as well. Pure.

Used by `build`. What is refused here would else stand in a command line, or keep the agent busy.
"""

import re

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.qemu.command_line import bus
from nacre.agent.hypervisors.qemu.command_line.memory import DIMMS
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.model.vms import MachineType

_VERSION = r"(-[a-z0-9][a-z0-9.]{0,31}){0,3}"
_BOARDS = {
    MachineType.Q35: re.compile(rf"q35|pc-q35{_VERSION}"),
    MachineType.PC: re.compile(rf"pc|pc-i440fx{_VERSION}"),
    MachineType.MICROVM: re.compile("microvm"),
}
"""As QEMU and its distributors name them, such as `pc-q35-7.2`, `pc-q35-rhel9.4.0` or `pc-i440fx-noble`."""
_GENERATION = re.compile("([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?")


def check_shape(launch: Launch, shape: Shape) -> None:
    """Raise DriverError unless the launch may be made like that."""
    if _BOARDS[launch.machine].fullmatch(shape.board) is None:
        raise _impossible(f"has another board than the machine type {launch.machine}")
    if _GENERATION.fullmatch(shape.generation) is None:
        raise _impossible("has a generation id that is none")
    most = bus.most_places(launch.machine)
    if not 0 <= shape.ports <= most or len(shape.places) > most:
        raise _impossible(f"has more than {most} places for disks and NICs")
    if any(not 0 <= number < most for number in shape.places.values()):
        raise _impossible("has disks or NICs at places that there are not")
    if shape.cpus < 1 or shape.memory_bytes < 1 or len(shape.dimms) > DIMMS or any(size < 1 for size in shape.dimms):
        raise _impossible("has CPUs or memory that cannot be")
    if launch.arrival is not None:
        _check_sizes(launch, shape)


def _check_sizes(launch: Launch, shape: Shape) -> None:
    """What comes may have what there is room for here, or what the machine may grow to."""
    if shape.cpus > max(launch.cpus, launch.cpu.max or 0):
        raise _impossible("has more CPUs than it says")
    if shape.memory_bytes + sum(shape.dimms) > max(launch.memory_bytes, launch.memory.max_bytes or 0):
        raise _impossible("has more memory than it says")


def _impossible(why: str) -> DriverError:
    return refused(
        "shape_impossible",
        f"the saved or moving machine {why}",
        "what describes it is damaged, or made up: look at the node that it comes from",
    )
