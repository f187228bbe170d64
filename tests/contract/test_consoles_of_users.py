"""Consoles of machines whose processes are users of their own: none of them keeps a machine from starting."""

import os
import shutil
from dataclasses import replace

import pytest

from nacre.agent.hypervisors.launch import Confinement, Launch
from nacre.lib import processes
from nacre.model.hardware import ConsoleMode, DeviceOptions

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give machines users of their own"),
    pytest.mark.parametrize("lab", ["qemu", "cloud-hypervisor"], indirect=True),
]

USER = 60133


def confined(lab, devices: DeviceOptions, **changes: object) -> Launch:
    """A machine whose folder stays ours, while its log and the folder of its sockets are its user's."""
    lab.root.chmod(0o755)
    for name in ("trace", "strays"):
        (lab.root / name).touch()
        (lab.root / name).chmod(0o666)
    launch = lab.launch(devices=devices, confinement=Confinement(uid=USER, gid=USER), **changes)
    (launch.directory / "console.log").touch(0o600)
    for path in (launch.run_directory, launch.directory / "console.log"):
        os.chown(path, USER, USER)
    os.chown(launch.directory, -1, USER)
    launch.directory.chmod(0o710)
    if lab.emulated:
        return launch
    for name in ("kernel", "initrd"):
        shutil.copyfile(getattr(launch, name), lab.root / name)
    return replace(launch, kernel=lab.root / "kernel", initrd=lab.root / "initrd")


def is_kept(lab, mode: ConsoleMode) -> bool:
    """Whether what a virtio console prints is written down."""
    if lab.driver.name == "qemu":
        return mode not in {ConsoleMode.OFF, ConsoleMode.NULL}
    return mode is ConsoleMode.FILE


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("mode", list(ConsoleMode))
async def test_a_machine_starts_with_every_kind_of_virtio_console(lab, mode, guarded):
    if lab.driver.name == "cloud-hypervisor" and mode is ConsoleMode.SOCKET:
        pytest.skip("Cloud Hypervisor connects a virtio console to no socket")
    launch = confined(lab, DeviceOptions(console=mode), lease=lab.lease() if guarded else None)
    guest = lab.keep(await lab.driver.start(launch))
    assert processes.owner(guest.handle.pid) == USER
    log = launch.directory / "virtio-console.log"
    assert log.exists() is is_kept(lab, mode)
    if log.exists():
        assert (log.stat().st_uid, log.stat().st_mode & 0o777) == (USER, 0o600)


@pytest.mark.parametrize("mode", list(ConsoleMode))
async def test_a_machine_starts_with_every_kind_of_serial_port(lab, mode):
    launch = confined(lab, DeviceOptions(serial=mode))
    guest = lab.keep(await lab.driver.start(launch))
    assert processes.owner(guest.handle.pid) == USER
