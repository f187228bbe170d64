"""Put a command line together. Pure."""

from collections.abc import Mapping
from pathlib import Path

from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.qemu.command_line import bus, devices, disks, machine, memory, nics
from nacre.agent.hypervisors.qemu.command_line.boot import boot
from nacre.agent.hypervisors.qemu.command_line.checks import check
from nacre.agent.hypervisors.qemu.command_line.places import uuid_of
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.command_line.shape_checks import check_shape
from nacre.agent.hypervisors.qemu.command_line.surroundings import Surroundings, TapFds
from nacre.agent.hypervisors.qemu.command_line.words import quoted
from nacre.model.units import MIB


def build(
    launch: Launch,
    qemu: Surroundings,
    *,
    fds: Mapping[str, TapFds] | None = None,
    shape: Shape | None = None,
    incoming: bool = False,
) -> list[str]:
    """Return the command line. Raises DriverError for what QEMU cannot do.

    `fds` are opened taps, by NIC; `shape` is set for a guest that goes on from an earlier process, and `incoming` lets
    QEMU wait for its state.
    """
    check(launch, qemu)
    if shape is not None:
        check_shape(launch, shape)
    taken = dict(bus.places(launch, shape))
    starting = boot(launch, qemu)
    main = memory.memory(launch, shape)
    words = [qemu.binary, "-name", f"guest={quoted(launch.name)},debug-threads=on", "-uuid", uuid_of(launch.vm)]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-msg", "timestamp=on"]
    words += machine.sandbox(qemu)
    # The process stays after the guest has powered off, until we have seen that it did and tell it to leave.
    words += ["-no-shutdown"]
    words += ["-machine", machine.board(launch, shape, main.board + starting.board)]
    words += ["-accel", machine.accelerator(qemu.accelerator, launch.memory_bytes)]
    words += machine.cpus(launch, qemu, shape) + main.words
    words += devices.monitor(launch) + devices.consoles(launch) + devices.small(launch, shape)
    words += starting.words
    words += bus.ports(launch, taken, shape)
    words += disks.disks(launch, taken) + nics.nics(launch, taken, fds or {})
    if launch.arrival is not None and launch.arrival.held:
        words += ["-S"]
    return [*words, "-incoming", "defer"] if incoming else words


def probe_words(binary: str, *, accelerator: str, kernel: Path) -> list[str]:
    """Return the command line that boots `kernel` just to see whether it prints on its serial port (our stdout)."""
    words = [binary, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += ["-machine", "q35", "-accel", machine.accelerator(accelerator, 128 * MIB), "-cpu", "max", "-m", "128M"]
    words += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    return [*words, "-kernel", str(kernel), "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]
