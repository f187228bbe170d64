"""Machines under Firecracker that are saved and go on, and what is not restored."""

import asyncio
import os
import socket

import pytest

from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.launch import VhostUserDisk
from nacre.model.convergence import FailureClass
from support.vmm.faults import Fault
from support.vmm.firecracker_lab import config, folder, is_free, laboratory, leftovers, noted, refused, remembers
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lab(monkeypatch):
    async for made in laboratory(monkeypatch):
        yield made


async def test_a_machine_goes_on_where_it_was_saved_with_other_disks_and_taps(lab):
    _, guest = await noted(lab, disks=(lab.disk(), lab.disk("data-1")), nics=(lab.nic(),))
    saved = folder(lab)
    await guest.save(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["manifest.json", "memory", "state"]
    assert {path.stat().st_mode & 0o777 for path in saved.iterdir()} == {0o600}
    assert await guest.state() is GuestState.PAUSED
    await guest.kill()
    launch = lab.launch(disks=(lab.disk("a"), lab.disk("b")), nics=(lab.nic("other", "tap9"),))
    again = lab.keep(await lab.driver.restore(launch, saved))
    found = await config(again)
    assert found["network-interfaces"][0]["host_dev_name"] == "tap9"
    assert (launch.run_directory / "disks" / "data_2d1").resolve() == lab.root / "b.raw"
    await remembers(again)
    await again.kill()
    assert leftovers(launch) == []
    assert (saved / "memory").exists()


async def test_a_running_machine_is_not_saved(lab):
    _, guest, _ = await lab.started()
    await refused(guest.save(folder(lab)), "not_paused")


async def test_while_it_is_saved_a_machine_counts_as_paused(lab):
    _, guest = await noted(lab)
    lab.spoil(Fault(kind="slow", path="/snapshot/create", seconds=0.5))
    saving = asyncio.create_task(guest.save(folder(lab)))
    await until(lambda: "snapshot/create" in lab.trace.read_text())
    assert await guest.state() is GuestState.PAUSED
    await saving


async def test_another_release_does_not_go_on_with_it(lab, monkeypatch):
    _, guest = await noted(lab)
    saved = folder(lab)
    await guest.save(saved)
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.16.0")
    os.utime(lab.root / "bin" / "firecracker", ns=(1, 1))
    launch = lab.launch()
    error = await refused(lab.driver.restore(launch, saved), "checkpoint_incompatible")
    assert "1.17.0" in error.message
    assert "1.16.0" in error.message
    assert leftovers(launch) == []


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda saved: (saved / "state").write_bytes(b"{}\n0"), "checkpoint_unusable"),
        (lambda saved: (saved / "memory").unlink(), "checkpoint_unusable"),
        (lambda saved: (saved / "manifest.json").write_text("{"), "checkpoint_unusable"),
        (lambda saved: (saved / "manifest.json").unlink(), "checkpoint_unusable"),
    ],
)
async def test_what_is_not_whole_is_not_restored_and_leaves_nothing(lab, spoil, code):
    _, guest = await noted(lab)
    saved = folder(lab)
    await guest.save(saved)
    spoil(saved)
    launch = lab.launch()
    await refused(lab.driver.restore(launch, saved), code)
    assert leftovers(launch) == []
    os.close(launch.lock_fd)
    lab.locks.remove(launch.lock_fd)
    assert is_free(launch)


async def test_a_machine_that_has_become_another_is_not_restored(lab):
    _, guest = await noted(lab)
    saved = folder(lab)
    await guest.save(saved)
    await refused(lab.driver.restore(lab.launch(disks=()), saved), "checkpoint_unlike")
    await refused(lab.driver.restore(lab.launch(nics=(lab.nic(),)), saved), "checkpoint_unlike")


async def test_a_machine_with_a_disk_that_another_process_serves_is_not_saved(lab):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(lab.root / "far.sock"))
        server.listen()
        _, guest = await noted(lab, disks=(VhostUserDisk(id="far", socket=lab.root / "far.sock"),))
        error = await refused(guest.save(folder(lab)), "device_not_saved")
    assert error.failure_class is FailureClass.PERMANENT
