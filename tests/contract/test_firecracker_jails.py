"""Machines under Firecracker in jails: like any other, cleared away, and no way out for what breaks out."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.host import locks
from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.firecracker import folders
from nacre.agent.hypervisors.firecracker.places import Places
from nacre.agent.hypervisors.launch import Confinement
from nacre.lib import processes
from nacre.model.vms import ExitReason
from support.machines import printed, ready
from support.vmm.firecracker_lab import folder, is_free, laboratory, leftovers, noted, refused, remembers, type_on
from support.waiting import until

pytestmark = pytest.mark.anyio

USER = os.geteuid() or 60124


@pytest.fixture
async def lab(monkeypatch):
    async for made in laboratory(monkeypatch):
        yield made


def confined(lab) -> Confinement:
    (lab.root / "jails").mkdir(exist_ok=True)
    lab.root.chmod(0o755)
    return Confinement(uid=USER, gid=USER, jail=lab.root / "jails")


def jail_of(lab, launch) -> Path:
    return lab.root / "jails" / "firecracker" / launch.vm


@pytest.fixture(params=[0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_a_machine_lives_in_a_jail_like_any_other(lab):
    launch, guest, watch = await lab.started(confinement=confined(lab), nics=(lab.nic(),))
    root = jail_of(lab, launch) / "root"
    assert sorted(path.name for path in (root / "disks").iterdir()) == ["root"]
    assert (root / "disks" / "root").stat().st_ino == (lab.root / "root.raw").stat().st_ino
    assert (lab.root / "root.raw").stat().st_uid == USER
    assert Path(f"/proc/{guest.handle.pid}/cwd").resolve() == root
    assert f"Uid:\t{USER}" in Path(f"/proc/{guest.handle.pid}/status").read_text()
    await guest.attach_disk(lab.disk("more"))
    await guest.resize_disk("more", 2 << 20)
    assert (await guest.counters()).disks
    await type_on(guest, "echo inside\n")
    await until(lambda: printed(guest).count("inside") == 2)
    await guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED
    assert not jail_of(lab, launch).exists()
    assert leftovers(launch) == []
    assert (lab.root / "root.raw").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
async def test_a_machine_with_a_guard_is_its_user_from_the_beginning(lab):
    launch, guest, _ = await lab.started(confinement=confined(lab), lease=lab.lease(), nics=(lab.nic(),))
    root = jail_of(lab, launch) / "root"
    said = Path(f"/proc/{guest.handle.pid}/status").read_text()
    assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in said
    assert f"Gid:\t{USER}\t{USER}\t{USER}\t{USER}" in said
    assert "NoNewPrivs:\t1" in said
    assert Path(f"/proc/{guest.handle.pid}/cwd").resolve() == root
    assert launch.run_directory.stat().st_uid == os.geteuid()
    await guest.attach_disk(lab.disk("more"))
    await type_on(guest, "echo inside\n")
    await until(lambda: printed(guest).count("inside") == 2)
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(replace(launch, confinement=None), guest.handle))
    os.kill(again.guard.pid, signal.SIGKILL)
    await until(lambda: not processes.is_alive(guest.handle.pid, guest.handle.start_time))
    await again.kill()
    assert not jail_of(lab, launch).exists()
    assert leftovers(launch) == []


async def test_a_link_to_a_jail_that_is_not_ours_is_not_believed(lab):
    launch = lab.launch()
    (launch.run_directory / "jail").symlink_to(lab.root)
    assert Places.found(launch).jail is not None
    os.chown(launch.run_directory / "jail", 60124, 60124, follow_symlinks=False)
    assert Places.found(launch).jail is None


async def test_the_lock_is_held_from_within_the_jail(lab):
    launch, guest, _ = await lab.started(confinement=confined(lab))
    os.close(launch.lock_fd)
    lab.locks.remove(launch.lock_fd)
    assert [pid for pid, _ in locks.holders(launch.directory / "lock")] == [guest.handle.pid]
    assert not is_free(launch)
    await guest.kill()
    assert is_free(launch)


async def test_a_machine_in_a_jail_is_adopted_and_cleared_away(lab):
    launch, guest, _ = await lab.started(confinement=confined(lab))
    await guest.detach()
    away = replace(launch, confinement=None)
    for handle in (guest.handle, None):
        again = lab.keep(await lab.driver.adopt(away, handle))
        assert await again.state() is GuestState.RUNNING
        await again.detach()
    again = lab.keep(await lab.driver.adopt(away, None))
    await again.kill()
    assert not jail_of(lab, launch).exists()
    assert leftovers(launch) == []


async def test_what_a_dead_life_left_in_a_jail_is_cleared_away_by_the_next(lab):
    launch, guest, _ = await lab.started(confinement=confined(lab))
    await guest.detach()
    os.kill(guest.handle.pid, signal.SIGKILL)
    await until(lambda: not processes.is_alive(guest.handle.pid, guest.handle.start_time))
    for path in launch.run_directory.iterdir():
        if path.name != "disks":
            path.unlink()
    assert jail_of(lab, launch).exists()
    again = lab.keep(await lab.driver.start(launch))
    await ready(again, times=2)


async def test_a_machine_is_saved_in_a_jail_and_goes_on_in_another(lab):
    _, guest = await noted(lab, confinement=confined(lab))
    saved = folder(lab)
    await guest.save(saved)
    await guest.kill()
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "memory", "state"]
    launch = lab.launch(confinement=confined(lab))
    await remembers(lab.keep(await lab.driver.restore(launch, saved)))


async def test_a_jailer_that_fails_leaves_nothing(lab):
    jailer = lab.root / "bin" / "jailer"
    jailer.write_text("#!/bin/sh\necho no luck >&2\nexit 1\n")
    launch = lab.launch(confinement=confined(lab))
    await refused(lab.driver.start(launch), "hypervisor_start_failed")
    assert not jail_of(lab, launch).exists()
    assert leftovers(launch) == []
    assert "no luck" in (launch.directory / "hypervisor.log").read_text()
    assert (launch.directory / "lock").read_text() == ""


# A process that has been taken over owns the root of its jail and may put anything there


async def test_links_in_a_jail_do_not_lead_the_agent_out_of_it(lab):
    launch, guest, _ = await lab.started(confinement=confined(lab))
    root = jail_of(lab, launch) / "root"
    victim = lab.root / "victim"
    victim.write_bytes(b"mine\n" * (1 << 19))
    before = victim.stat()
    for name in ("metrics", "firecracker.log"):
        (root / name).unlink()
        (root / name).symlink_to(victim)
    await refused(guest.counters(), "machine_file_unusable")
    (root / "disks").rename(root / "aside")
    (root / "disks").symlink_to(lab.root)
    victim.rename(lab.root / "root")
    await refused(guest.resize_disk("root", 8 << 20), "machine_file_unusable")
    await refused(guest.attach_disk(lab.disk("more")), "machine_file_unusable")
    assert not (lab.root / "more").exists()
    after = (lab.root / "root").stat()
    assert (after.st_size, after.st_uid, after.st_mode) == (before.st_size, before.st_uid, before.st_mode)
    await guest.kill()
    assert not jail_of(lab, launch).exists()
    assert (lab.root / "root").stat().st_size == before.st_size


async def test_the_folder_of_disks_is_not_for_the_process_to_change(lab):
    launch, _, _ = await lab.started(confinement=confined(lab))
    disks = (jail_of(lab, launch) / "root" / "disks").stat()
    assert disks.st_uid == os.geteuid()
    assert disks.st_mode & 0o777 == 0o755
    assert jail_of(lab, launch).stat().st_uid == os.geteuid()


async def test_what_is_saved_in_a_jail_is_a_file_and_belongs_to_the_agent_then(lab):
    _, guest = await noted(lab, confinement=confined(lab))
    saved = folder(lab)
    await guest.save(saved)
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in saved.iterdir()} == {(os.geteuid(), 0o600)}


async def test_a_link_in_place_of_what_was_saved_is_not_taken(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    room = tmp_path / "room"
    room.mkdir()
    (room / "state").symlink_to(victim)
    os.mkfifo(room / "memory")
    with folders.held(room) as held:
        for name in ("state", "memory"):
            with pytest.raises(OSError, match=r"symbolic|no file|Too many"):
                folders.take(held, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OSError, match=r"Not a directory|symbolic|Too many"), folders.held(tmp_path, "victim"):
        pass
