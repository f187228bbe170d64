"""Consoles and small devices. Pure."""

from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.qemu.command_line import bus
from nacre.agent.hypervisors.qemu.command_line.places import (
    CONSOLE_LOG,
    CONSOLE_SOCKET,
    DISPLAY_SOCKET,
    GUEST_SOCKET,
    QMP_SOCKET,
    VIRTIO_CONSOLE_LOG,
    VIRTIO_CONSOLE_SOCKET,
    generation_of,
)
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.command_line.words import Props, device, instance, joined, listening, quoted
from nacre.model.hardware import ConsoleMode, Graphics
from nacre.model.vms import MachineType

SERIAL = "serial0"
BALLOON = "balloon0"
GUEST_AGENT = "org.qemu.guest_agent.0"
"""The name by which qemu-guest-agent finds its channel in the guest."""


def monitor(launch: Launch) -> list[str]:
    """Return the words of the socket that we speak to QEMU on."""
    return ["-chardev", listening("qmp", launch.run_directory / QMP_SOCKET), "-mon", "chardev=qmp,mode=control"]


def consoles(launch: Launch) -> list[str]:
    """Return the words of the serial port, the virtio console and the channel to the guest's agent."""
    options = launch.devices
    words = _console(launch, options.serial, "console", CONSOLE_SOCKET, CONSOLE_LOG)
    words += ["-serial", "none" if options.serial is ConsoleMode.OFF else "chardev:console"]
    if options.console is not ConsoleMode.OFF or options.guest_agent:
        words += device({"driver": "virtio-serial-pci", "id": SERIAL, **bus.fixed(launch.machine, SERIAL)})
    if options.console is not ConsoleMode.OFF:
        words += _console(launch, options.console, "hvc", VIRTIO_CONSOLE_SOCKET, VIRTIO_CONSOLE_LOG)
        words += device({"driver": "virtconsole", "id": "hvc0", "chardev": "hvc", "bus": f"{SERIAL}.0", "nr": 1})
    if options.guest_agent:
        words += ["-chardev", listening("agent", launch.run_directory / GUEST_SOCKET)]
        port: Props = {"driver": "virtserialport", "id": "agent0", "chardev": "agent", "name": GUEST_AGENT}
        words += device({**port, "bus": f"{SERIAL}.0", "nr": 2})
    return words


def small(launch: Launch, shape: Shape | None) -> list[str]:
    """Return the words of everything else."""
    machine, options = launch.machine, launch.devices
    words: list[str] = []
    if options.rng:
        words += instance({"qom-type": "rng-random", "id": "rng0", "filename": options.rng})
        props: Props = {"driver": "virtio-rng-pci", "id": "rng0-device", "rng": "rng0"}
        words += device({**props, **bus.fixed(machine, "rng0-device")})
    if (balloon := launch.memory.balloon) is not None:
        props = {"driver": "virtio-balloon-pci", "id": BALLOON, "deflate-on-oom": balloon.deflate_on_oom}
        reporting: Props = {"free-page-reporting": True} if balloon.free_page_reporting else {}
        words += device({**props, **reporting, **bus.fixed(machine, BALLOON)})
    if options.watchdog is not None:
        words += device({"driver": "i6300esb", "id": "watchdog0", **bus.fixed(machine, "watchdog0")})
        words += ["-action", f"watchdog={options.watchdog}"]
    if launch.tpm_socket is not None and options.tpm:
        words += ["-chardev", joined("socket", {"id": "tpm", "path": str(launch.tpm_socket)})]
        words += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", *device({"driver": "tpm-crb", "tpmdev": "tpm0"})]
    if options.panic:
        # The machine stays as it is, for people to look at, and is no machine that has powered off.
        words += [*device({"driver": "pvpanic"}), "-action", "panic=pause"]
    if machine is not MachineType.MICROVM:
        generation = shape.generation if shape is not None and shape.generation else generation_of(launch.run)
        words += device({"driver": "vmgenid", "id": "generation0", "guid": generation})
    return words + _screen(launch)


def _screen(launch: Launch) -> list[str]:
    if launch.devices.graphics is Graphics.NONE:
        return []
    words = ["-vnc", f"unix:{quoted(str(launch.run_directory / DISPLAY_SOCKET))}"]
    words += device({"driver": "VGA", "id": "video0", **bus.fixed(launch.machine, "video0")})
    # A tablet, because its pointer is where the viewer's is.
    words += device({"driver": "qemu-xhci", "id": "usb0", **bus.fixed(launch.machine, "usb0")})
    return words + device({"driver": "usb-tablet", "id": "tablet0", "bus": "usb0.0"})


def _console(launch: Launch, mode: ConsoleMode, name: str, socket: str, log: str) -> list[str]:
    path = launch.directory / log
    also: Props = {"logfile": str(path), "logappend": True}
    match mode:
        case ConsoleMode.OFF:
            return []
        case ConsoleMode.NULL:
            return ["-chardev", f"null,id={name}"]
        case ConsoleMode.FILE:
            return ["-chardev", joined("file", {"id": name, "path": str(path), "append": True})]
        case ConsoleMode.PTY:
            return ["-chardev", joined("pty", {"id": name, **also})]
        case ConsoleMode.TTY:
            return ["-chardev", joined("stdio", {"id": name, "signal": False, **also})]
        case ConsoleMode.SOCKET:
            return ["-chardev", joined(listening(name, launch.run_directory / socket), also)]
