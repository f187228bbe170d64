"""What the guest starts from: a kernel, or firmware that finds one. Pure."""

from dataclasses import dataclass

from nacre.agent.hypervisors.launch import FirmwareFiles, Launch
from nacre.agent.hypervisors.qemu.command_line.surroundings import TCG, Surroundings
from nacre.agent.hypervisors.qemu.command_line.words import blockdev
from nacre.model.vms import MachineType

CODE = "firmware-code"
VARIABLES = "firmware-variables"


@dataclass(frozen=True, kw_only=True)
class Boot:
    """The words, and what they ask of the board."""

    words: list[str]
    board: list[str]


def boot(launch: Launch, qemu: Surroundings) -> Boot:
    """Return what starts the guest."""
    firmware = _firmware(launch.firmware) if launch.firmware is not None else Boot(words=[], board=[])
    if launch.kernel is None:
        return Boot(words=[*firmware.words, "-boot", "strict=on"], board=firmware.board)
    words = [*firmware.words, "-kernel", str(launch.kernel)]
    if launch.initrd is not None:
        words += ["-initrd", str(launch.initrd)]
    arguments = launch.kernel_args
    tsc_khz = qemu.tsc_khz if qemu.accelerator == TCG else None
    if launch.machine is MachineType.MICROVM and tsc_khz is not None and "tsc_early_khz=" not in arguments:
        # A microvm has no timer to measure the time stamp counter by except the PIT, which under TCG is too late on a
        # busy host; the kernel then waits for ever. Told the rate (the guest sees the host's counter), it need not.
        arguments = f"{arguments} tsc_early_khz={tsc_khz}".strip()
    return Boot(words=[*words, "-append", arguments] if arguments else words, board=firmware.board)


def _firmware(files: FirmwareFiles) -> Boot:
    """UEFI in two flash chips: its code, and the variables of this machine."""
    code = {"driver": "file", "filename": str(files.code)}
    words = blockdev({"driver": "raw", "node-name": CODE, "read-only": True, "file": code})
    board = [f"pflash0={CODE}"]
    if files.variables is not None:
        variables = {"driver": "file", "filename": str(files.variables)}
        words += blockdev({"driver": "raw", "node-name": VARIABLES, "read-only": False, "file": variables})
        board.append(f"pflash1={VARIABLES}")
    if files.secure_boot:
        # Only the firmware itself, in the CPU's management mode, may write the variables.
        board.append("smm=on")
        words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return Boot(words=words, board=board)
