"""What a machine without BIOS starts from: the driver's UEFI, and variables of its own. Called by `start`.

Variables are copied once and kept between lives: in them the guest has written what it starts from. Those of machines
with secure boot, which begin with keys in them, are others.
"""

import os
import shutil
from pathlib import Path

from nacre.agent.hypervisors.abilities import HasFirmware
from nacre.agent.hypervisors.base import Hypervisor
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import FirmwareFiles
from nacre.lib.files import sync_folder
from nacre.model.convergence import FailureClass
from nacre.model.hardware import BootOptions, Firmware

VARIABLES = "firmware-variables.fd"
SECURE_VARIABLES = "firmware-variables-secure.fd"


def files(boot: BootOptions, driver: Hypervisor, place: Path) -> FirmwareFiles | None:
    """Return what a machine starts from; None for BIOS. Blocking. May be repeated. Raises DriverError and OSError."""
    if boot.firmware is not Firmware.UEFI:
        return None
    source = driver.uefi(secure_boot=boot.secure_boot) if isinstance(driver, HasFirmware) else None
    if source is None:
        kind = "UEFI with secure boot" if boot.secure_boot else "UEFI"
        raise DriverError(
            "firmware_missing",
            f"the node has no {kind} for {driver.name}",
            hint="install it on the node (for QEMU on Debian, Ubuntu: apt-get install ovmf), or start by BIOS",
            failure_class=FailureClass.BLOCKED,
        )
    if source.variables is None:
        return source
    own = place / (SECURE_VARIABLES if boot.secure_boot else VARIABLES)
    if not own.exists():
        _copy(source.variables, own)
    return FirmwareFiles(code=source.code, variables=own, secure_boot=source.secure_boot)


def _copy(template: Path, own: Path) -> None:
    """Make the machine's own variables. A file with the right name is a whole one."""
    draft = own.with_name(f"{own.name}.partial")
    shutil.copyfile(template, draft)
    draft.chmod(0o600)
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    draft.replace(own)
    sync_folder(own.parent)
