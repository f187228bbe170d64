"""The UEFI for QEMU's machines: OVMF, where distributions put it. Used by `driver` and `offer`. Blocking, short."""

from collections.abc import Iterable
from pathlib import Path

from nacre.agent.hypervisors.launch import FirmwareFiles

# Debian and Ubuntu, Fedora, Arch, Homebrew.
FOLDERS = (
    Path("/usr/share/OVMF"),
    Path("/usr/share/edk2/ovmf"),
    Path("/usr/share/edk2/x64"),
    Path("/opt/homebrew/share/qemu"),
    Path("/usr/local/share/qemu"),
)
# What is run, and what the variables of a new machine begin as; the sizes of the two belong together.
_PLAIN = (
    ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
    ("OVMF_CODE.fd", "OVMF_VARS.fd"),
    ("OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd"),
    ("edk2-x86_64-code.fd", "edk2-i386-vars.fd"),
)
# With the keys of those who sign boot loaders for everybody, so that only what is signed is started.
_SECURE = (
    ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),
    ("OVMF_CODE.secboot.fd", "OVMF_VARS.ms.fd"),
    ("OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"),
)


def find(folders: Iterable[Path], *, secure_boot: bool) -> FirmwareFiles | None:
    """Return the first pair of files that is there; None if there is none."""
    for folder in folders:
        for code, variables in _SECURE if secure_boot else _PLAIN:
            if (folder / code).exists() and (folder / variables).exists():
                return FirmwareFiles(code=folder / code, variables=folder / variables, secure_boot=secure_boot)
    return None
