"""The board, the CPUs and the process itself. Pure."""

from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.command_line.surroundings import TCG, Surroundings
from nacre.model.hardware import Graphics
from nacre.model.units import MIB
from nacre.model.vms import MachineType

_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_BOARDS = {
    MachineType.Q35: "q35",
    MachineType.PC: "pc",
    # ACPI for the power button and for finding devices; PCIe so that the devices are the same as elsewhere. PIT and PIC
    # stay on: without them it hangs under TCG.
    MachineType.MICROVM: "microvm,acpi=on,pcie=on,rtc=on,isa-serial=on",
}
# What Windows asks a hypervisor for. Known to KVM only.
_HYPERV = (
    "hv_relaxed,hv_vapic,hv_spinlocks=0x1fff,hv_vpindex,hv_runtime,hv_synic,hv_stimer,hv_time,hv_frequencies,"
    "hv_tlbflush,hv_ipi"
)


def board(launch: Launch, shape: Shape | None, more: list[str]) -> str:
    """Return the value of `-machine`. `more` is what other parts ask of it."""
    name = _BOARDS[launch.machine]
    if shape is not None and launch.machine is not MachineType.MICROVM:
        name = shape.board
    # QEMU would let the host merge equal pages unless told otherwise: guests could learn of each other's.
    parts = [name, f"mem-merge={'on' if launch.memory.mergeable else 'off'}"]
    if launch.kernel is None and launch.devices.graphics is Graphics.NONE:
        parts.append("graphics=off")  # lets the firmware and the boot loader speak on the serial port
    return ",".join([*parts, *more])


def accelerator(name: str, memory_bytes: int) -> str:
    """Return the value of `-accel`."""
    if name != TCG:
        return name
    # Translated code may fill up to a GiB by default. An eighth of the guest's memory is enough to lose no speed.
    return f"tcg,thread=multi,tb-size={min(512, max(32, memory_bytes // MIB // 8))}"


def cpus(launch: Launch, qemu: Surroundings, shape: Shape | None) -> list[str]:
    """Return the words of the CPUs."""
    model = launch.cpu.model or "max"
    # Under TCG they mean nothing: a machine that has lost its accelerator is slow, but still runs.
    if launch.cpu.hyperv and qemu.accelerator == "kvm":
        model = f"{model},{_HYPERV}"
    count = shape.cpus if shape is not None else launch.cpus
    parts = [str(count)]
    most = launch.cpu.max or launch.cpus
    if most > count:
        parts.append(f"maxcpus={most}")
    if (topology := launch.cpu.topology) is not None:
        parts += [f"sockets={topology.packages}", f"dies={topology.dies}"]
        parts += [f"cores={topology.cores}", f"threads={topology.threads}"]
    return ["-cpu", model, "-smp", ",".join(parts)]


def sandbox(qemu: Surroundings) -> list[str]:
    """Return the words by which QEMU gives up what it does not need. If it is to be another user, it is so already."""
    return ["-sandbox", _SANDBOX] if qemu.sandbox else []
