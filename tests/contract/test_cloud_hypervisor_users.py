"""Machines under Cloud Hypervisor whose processes are users of their own: all that they do as root they do as these."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.abilities import MigrationState, MigrationTerms
from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.cloud_hypervisor import events, paths
from nacre.agent.hypervisors.launch import Confinement, Launch
from nacre.lib import processes
from nacre.model.hardware import ConsoleMode, DeviceOptions
from support.machines import Watch, ready
from support.vmm.cloud_hypervisor_lab import disk, leftovers, typed

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give machines users of their own"),
    pytest.mark.parametrize("lab", ["cloud-hypervisor"], indirect=True),
]

ONE, TWO = 60131, 60132


def confined(lab, user: int, **changes: object) -> Launch:
    """A machine whose user may do what the agent lets it: own its sockets and disks, and come through its folder."""
    lab.root.chmod(0o755)
    for name in ("trace", "strays"):
        (lab.root / name).touch()
        (lab.root / name).chmod(0o666)
    (lab.root / "state").mkdir(exist_ok=True)
    root = disk(lab, f"root-{user}")
    launch = lab.launch(disks=(root,), confinement=Confinement(uid=user, gid=user), **changes)
    for path in (launch.run_directory, root.path):
        os.chown(path, user, user)
    os.chown(launch.directory, -1, user)
    launch.directory.chmod(0o710)
    (launch.directory / paths.CONSOLE_LOG).touch()
    os.chown(launch.directory / paths.CONSOLE_LOG, user, user)
    return launch


async def started(lab, user: int, **changes: object):
    launch = confined(lab, user, **changes)
    guest = lab.keep(await lab.driver.start(launch))
    await ready(guest)
    return launch, guest


@pytest.mark.parametrize("guarded", [False, True])
async def test_its_process_is_the_user_and_nothing_else(lab, guarded):
    devices = DeviceOptions(console=ConsoleMode.FILE)
    launch, guest = await started(lab, ONE, devices=devices, lease=lab.lease() if guarded else None)
    said = Path(f"/proc/{guest.handle.pid}/status").read_text()
    assert f"Uid:\t{ONE}\t{ONE}\t{ONE}\t{ONE}" in said
    assert f"Gid:\t{ONE}\t{ONE}\t{ONE}\t{ONE}" in said
    assert "NoNewPrivs:\t1" in said
    assert (launch.directory / paths.VIRTIO_LOG).stat().st_uid == ONE
    await typed(guest, "echo inside")
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(replace(launch, confinement=None), guest.handle))
    assert await again.state() is GuestState.RUNNING
    await again.kill()
    assert leftovers(launch) == []


async def test_what_it_saves_is_ours_and_another_user_goes_on_with_it(lab):
    _, guest = await started(lab, ONE)
    await typed(guest, "fake.tick")
    await guest.pause()
    directory = lab.root / "checkpoint"
    directory.mkdir()
    await guest.save(directory)
    assert {path.stat().st_uid for path in (directory, *directory.iterdir())} == {os.geteuid()}
    await guest.kill()
    launch = confined(lab, TWO)
    launch = replace(launch, disks=(replace(launch.disks[0], id=f"root-{ONE}"),))
    again = lab.keep(await lab.driver.restore(launch, directory))
    await again.resume()
    assert processes.owner(again.handle.pid) == TWO
    assert all(path.stat().st_uid == os.geteuid() for path in directory.iterdir())


async def test_a_machine_moves_from_one_user_to_another(lab):
    launch, guest = await started(lab, ONE)
    target = replace(confined(lab, TWO), vm=launch.vm, disks=launch.disks)
    os.chown(launch.disks[0].path, -1, TWO)
    launch.disks[0].path.chmod(0o660)
    socket = target.run_directory / "arrival"
    taken = lab.keep(await lab.driver.receive(target, socket))
    leaving, arriving = Watch(guest), Watch(taken)
    await guest.migrate(socket, MigrationTerms())
    await leaving.until(GuestState.GONE)
    assert (await guest.migration()).state is MigrationState.MOVED
    await arriving.until(GuestState.RUNNING)
    assert processes.owner(taken.handle.pid) == TWO


async def test_events_are_read_from_a_file_and_from_nothing_else(lab, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text('{"event": "booted"}\n\n')
    assert [event.name for event in events.read(victim)] == ["booted"]
    (tmp_path / "link").symlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "nothing"):
        assert events.read(tmp_path / name) == []
