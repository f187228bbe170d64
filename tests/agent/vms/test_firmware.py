"""What machines without BIOS start from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import FirmwareFiles
from nacre.agent.hypervisors.qemu import firmware as ovmf
from nacre.agent.vms import firmware
from nacre.model.convergence import FailureClass
from nacre.model.hardware import BootOptions, Firmware

UEFI = BootOptions(firmware=Firmware.UEFI)
SECURE = BootOptions(firmware=Firmware.UEFI, secure_boot=True)


class Driver:
    """A driver with the UEFI that a folder has."""

    name = "qemu"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def uefi(self, *, secure_boot: bool) -> FirmwareFiles | None:
        return ovmf.find([self._folder], secure_boot=secure_boot)


@pytest.fixture
def driver(tmp_path: Path) -> Any:
    folder = tmp_path / "ovmf"
    folder.mkdir()
    for name in ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"):
        (folder / name).write_text(name)
    return Driver(folder)


def test_a_machine_that_starts_by_bios_has_no_files(driver: Any, tmp_path: Path) -> None:
    assert firmware.files(BootOptions(), driver, tmp_path) is None


def test_variables_are_copied_once_and_belong_to_the_machine(driver: Any, tmp_path: Path) -> None:
    found = firmware.files(UEFI, driver, tmp_path)
    assert found is not None
    assert found.variables is not None
    assert (found.code.name, found.variables.read_text()) == ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")
    found.variables.write_text("what the guest has written")
    again = firmware.files(UEFI, driver, tmp_path)
    assert again == found
    assert found.variables.read_text() == "what the guest has written"
    assert found.variables.stat().st_mode & 0o777 == 0o600


def test_secure_boot_begins_with_keys_and_has_variables_of_its_own(driver: Any, tmp_path: Path) -> None:
    plain, secure = firmware.files(UEFI, driver, tmp_path), firmware.files(SECURE, driver, tmp_path)
    assert plain is not None
    assert secure is not None
    assert secure.variables is not None
    assert secure.secure_boot
    assert secure.variables.read_text() == "OVMF_VARS_4M.ms.fd"
    assert plain.variables != secure.variables


def test_a_node_without_it_or_a_driver_without_uefi_says_what_to_do(tmp_path: Path) -> None:
    drivers: list[Any] = [Driver(tmp_path), SimpleNamespace(name="fake")]
    for each in drivers:
        with pytest.raises(DriverError) as refused:
            firmware.files(UEFI, each, tmp_path)
        assert (refused.value.code, refused.value.failure_class) == ("firmware_missing", FailureClass.BLOCKED)
        assert "ovmf" in refused.value.hint
