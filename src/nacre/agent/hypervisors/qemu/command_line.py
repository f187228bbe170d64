"""The command line of one machine. Pure: a launch in, words out; golden tests hold it still.

Called by `driver`. Nothing secret ever stands here: every user of the host can read it.
"""

import json
import uuid
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Disk, DiskFile, Launch, Nic, UserNic
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId
from nacre.model.units import MIB
from nacre.model.vms import MachineType

QMP_SOCKET = "qmp.sock"
CONSOLE_SOCKET = "console.sock"
CONSOLE_LOG = "console.log"

# The longest path of a unix socket, without the closing zero (unix(7); macOS has four less).
MAX_SOCKET_PATH = 103
# Below this a microvm prints nothing and hangs for ever.
MICROVM_MIN_MEMORY = 112 * MIB

_NAMESPACE = uuid.UUID("7ac3d1f2-5a0e-4f6b-9c57-0d1e9b8f6a31")  # ours, made once
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_BOARDS = {
    MachineType.Q35: "q35",
    MachineType.PC: "pc",
    # ACPI for the power button and for finding devices; PCIe so that the devices are the same as elsewhere. PIT and PIC
    # stay on: without them it hangs under TCG.
    MachineType.MICROVM: "microvm,acpi=on,pcie=on,rtc=on,isa-serial=on",
}


def uuid_of(vm: VmId) -> str:
    """The UUID that QEMU and the guest's firmware know a machine by: the same for every life of it."""
    return str(uuid.uuid5(_NAMESPACE, vm))


def build(
    launch: Launch, *, binary: str, accelerator: str, sandbox: bool = True, tsc_khz: int | None = None
) -> list[str]:
    """Return the command line. `tsc_khz` is the host's clock rate. Raises DriverError for what QEMU cannot do."""
    _check(launch)
    direct = launch.kernel is not None
    board = _BOARDS[launch.machine]
    if not direct:
        board += ",graphics=off"  # lets the firmware and the boot loader speak on the serial port
    words = [binary, "-name", f"guest={_quoted(launch.name)},debug-threads=on", "-uuid", uuid_of(launch.vm)]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-msg", "timestamp=on"]
    if sandbox:
        words += ["-sandbox", _SANDBOX]
    # The process stays after the guest has powered off, until we have seen that it did and tell it to leave.
    words += ["-no-shutdown"]
    words += ["-machine", board, "-accel", _accelerator(accelerator, launch.memory_bytes), "-cpu", "max"]
    words += ["-smp", str(launch.cpus), "-m", f"{launch.memory_bytes // MIB}M"]
    words += ["-chardev", _socket("qmp", launch.run_directory / QMP_SOCKET), "-mon", "chardev=qmp,mode=control"]
    log = f"logfile={_quoted(str(launch.directory / CONSOLE_LOG))},logappend=on"
    words += ["-chardev", _socket("console", launch.run_directory / CONSOLE_SOCKET) + "," + log]
    words += ["-serial", "chardev:console"]
    words += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    words += _boot(launch, tsc_khz if accelerator == "tcg" else None)
    words += [word for index, disk in enumerate(launch.disks) for word in _disk(disk, None if direct else index)]
    words += [word for nic in launch.nics for word in _nic(nic, launch.name)]
    return words


def probe_words(binary: str, *, accelerator: str, kernel: Path) -> list[str]:
    """Return the command line that boots `kernel` just to see whether it prints on its serial port (our stdout)."""
    words = [binary, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    words += ["-machine", "q35", "-accel", _accelerator(accelerator, 128 * MIB), "-cpu", "max", "-m", "128M"]
    words += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    return [*words, "-kernel", str(kernel), "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]


def _check(launch: Launch) -> None:
    sockets = (launch.run_directory / QMP_SOCKET, launch.run_directory / CONSOLE_SOCKET)
    if any(len(str(path).encode()) > MAX_SOCKET_PATH for path in sockets):
        raise DriverError(
            "path_too_long",
            "the path of the machine's sockets is longer than the system allows",
            hint="give the agent a shorter run_dir in its configuration",
            failure_class=FailureClass.BLOCKED,
        )
    if launch.machine is MachineType.MICROVM and launch.memory_bytes < MICROVM_MIN_MEMORY:
        raise DriverError(
            "memory_too_small",
            f"a microvm needs at least {MICROVM_MIN_MEMORY // MIB} MiB of memory",
            hint="give it more memory, or use the machine type q35",
            failure_class=FailureClass.PERMANENT,
        )
    for port in launch.publish:
        if ip_address(port.host_address).version == 6:
            raise DriverError(
                "ipv6_publish_unsupported",
                f"QEMU's user-mode network publishes on IPv4 addresses only, not on {port.host_address}",
                hint="publish on 127.0.0.1, 0.0.0.0 or another IPv4 address of the node",
                failure_class=FailureClass.PERMANENT,
            )


def _accelerator(name: str, memory_bytes: int) -> str:
    if name != "tcg":
        return name
    # Translated code may fill up to a GiB by default. An eighth of the guest's memory is enough to lose no speed.
    return f"tcg,thread=multi,tb-size={min(512, max(32, memory_bytes // MIB // 8))}"


def _boot(launch: Launch, tsc_khz: int | None) -> list[str]:
    if launch.kernel is None:
        return ["-boot", "strict=on"]
    words = ["-kernel", str(launch.kernel)]
    if launch.initrd is not None:
        words += ["-initrd", str(launch.initrd)]
    arguments = launch.kernel_args
    if launch.machine is MachineType.MICROVM and tsc_khz is not None and "tsc_early_khz=" not in arguments:
        # A microvm has no timer to measure the time stamp counter by except the PIT, which under TCG is too late on a
        # busy host; the kernel then waits for ever. Told the rate (the guest sees the host's counter), it need not.
        arguments = f"{arguments} tsc_early_khz={tsc_khz}".strip()
    return [*words, "-append", arguments] if arguments else words


def _disk(disk: Disk, boot_index: int | None) -> list[str]:
    if not isinstance(disk, DiskFile):
        raise _not_yet("disk", disk.id)
    # As JSON, because file names may hold commas.
    file = {"driver": "file", "filename": str(disk.path), "node-name": f"{disk.id}-file"}
    node = {"driver": disk.format, "node-name": disk.id, "file": file, "read-only": disk.read_only, "discard": "unmap"}
    device = f"virtio-blk-pci,drive={disk.id},id={disk.id}-device,serial={disk.id}"
    if boot_index is not None:  # with a kernel of its own, the first place belongs to that
        device += f",bootindex={boot_index}"
    return ["-blockdev", json.dumps(node), "-device", device]


def _nic(nic: Nic, name: str) -> list[str]:
    if not isinstance(nic, UserNic):
        raise _not_yet("NIC", nic.id)
    parts = ["user", f"id={nic.id}", *_hostname(name)]
    parts += [f"hostfwd={p.protocol}:{p.host_address}:{p.host_port}-:{p.guest_port}" for p in nic.publish]
    # No romfile: nothing here boots from the network, and reading the option ROM takes time.
    return ["-netdev", ",".join(parts), "-device", f"virtio-net-pci,netdev={nic.id},mac={nic.mac},romfile="]


def _hostname(name: str) -> Iterable[str]:
    """What DHCP tells the guest that it is called."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:63].strip("-")
    return [f"hostname={plain}"] if plain else []


def _socket(name: str, path: Path) -> str:
    return f"socket,id={name},path={_quoted(str(path))},server=on,wait=off"


def _quoted(value: str) -> str:
    """QEMU's options are separated by commas; a doubled comma is one that belongs to the value."""
    return value.replace(",", ",,")


def _not_yet(what: str, name: str) -> DriverError:
    return DriverError(
        "device_unsupported",
        f"the machine's {what} {name} is of a kind that this driver cannot connect",
        hint="use a file as a disk and user-mode networking",
        failure_class=FailureClass.PERMANENT,
    )
