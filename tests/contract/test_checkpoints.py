"""What every driver promises that saves memory and goes on from it: checked on the fake and on every real one here."""

import shutil
from dataclasses import replace

import pytest

from nacre.agent.hypervisors.abilities import CanCheckpoint, CanRestore
from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.model.capabilities import Capability, offers
from nacre.model.convergence import FailureClass
from nacre.model.ids import RunId
from support.machines import printed, ready

pytestmark = [pytest.mark.anyio, pytest.mark.host]

AGAIN = RunId("run-01m7ysnyghpha2pa88yjx222cq")


@pytest.fixture
async def saved(lab):
    """A guest that was saved, and what it was started with. Its process has ended."""
    if not isinstance(lab.driver, CanRestore):
        pytest.skip(f"{lab.driver.name} does not go on from saved memory")
    launch, guest, _ = await lab.started()
    await ready(guest)
    assert isinstance(guest, CanCheckpoint)
    folder = launch.directory / "state"
    folder.mkdir()
    await guest.pause()
    await guest.save(folder)
    assert await guest.state() is GuestState.PAUSED
    await guest.kill()
    return replace(launch, run=AGAIN), folder


async def test_a_guest_goes_on_where_it_was_saved_once_it_is_told_to(lab, saved):
    launch, folder = saved
    again = lab.keep(await lab.driver.restore(launch, folder))
    assert await again.state() is GuestState.PAUSED
    before = printed(again).count("NACRE-TINY ready")
    await again.resume()
    assert await again.state() is GuestState.RUNNING
    assert printed(again).count("NACRE-TINY ready") == before == 1


async def test_from_the_same_memory_it_goes_on_again_and_again(lab, saved):
    launch, folder = saved
    for _ in range(2):
        again = lab.keep(await lab.driver.restore(launch, folder))
        await again.resume()
        await again.kill()


async def test_only_a_guest_that_stands_still_is_saved(lab):
    if not isinstance(lab.driver, CanRestore):
        pytest.skip(f"{lab.driver.name} does not go on from saved memory")
    launch, guest, _ = await lab.started()
    folder = launch.directory / "state"
    folder.mkdir()
    with pytest.raises(DriverError) as caught:
        await guest.save(folder)
    assert caught.value.hint
    assert await guest.state() is GuestState.RUNNING


async def test_what_is_not_there_is_unusable_and_leaves_no_process(lab, saved):
    launch, folder = saved
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(DriverError) as caught:
        await lab.driver.restore(launch, folder)
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert list(launch.run_directory.iterdir()) == []


async def test_who_saves_and_goes_on_says_so(lab):
    offered = offers(await lab.driver.offer(), Capability.CHECKPOINT)
    assert offered is isinstance(lab.driver, CanRestore)
