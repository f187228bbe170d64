"""Machines under Cloud Hypervisor are saved, go on elsewhere, and move while they run."""

import asyncio
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.abilities import (
    MigrationProgress,
    MigrationState,
    MigrationTerms,
)
from nacre.agent.hypervisors.base import Guest, GuestState
from nacre.agent.hypervisors.cloud_hypervisor import config, paths
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.units import MIB
from nacre.model.vms import ExitReason
from support.machines import Watch, printed, ready
from support.vmm.cloud_hypervisor_lab import disk, failing, info, leftovers, nic, typed
from support.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.host,
    pytest.mark.usefixtures("faults"),
    pytest.mark.parametrize("lab", ["cloud-hypervisor"], indirect=True),
]


async def saved(lab, guest: Guest, name: str = "checkpoint") -> Path:
    directory = lab.root / name
    directory.mkdir()
    await guest.pause()
    await guest.save(directory)
    return directory


async def test_a_guest_goes_on_where_it_was_saved_even_as_another_machine(lab):
    launch, guest, _ = await lab.started(disks=(disk(lab),), nics=(nic(),))
    await ready(guest)
    await typed(guest, "note remember me")
    directory = await saved(lab, guest)
    assert await guest.state() is GuestState.PAUSED
    await guest.kill()
    clone = lab.launch(disks=(disk(lab),), nics=(nic(device="tap9"),))
    again = lab.keep(await lab.driver.restore(clone, directory))
    assert await again.state() is GuestState.PAUSED
    said = (await info(again))["config"]
    assert said["net"][0]["tap"] == "tap9"
    assert said["platform"]["system_uuid"] == config.uuid_of(clone.vm)
    assert said["platform"]["system_uuid"] != config.uuid_of(launch.vm)
    await again.resume()
    await typed(again, "notes")
    await until(lambda: "remember me" in printed(again))
    assert not (clone.run_directory / paths.RESTORING).exists()
    watch = Watch(again)
    await again.reset()
    await ready(again)
    await again.detach()
    found = lab.keep(await lab.driver.adopt(clone, again.handle))
    await found.kill()
    assert leftovers(clone) == []
    del watch


async def test_only_a_paused_guest_is_saved_and_nothing_is_overwritten(lab):
    _, guest, _ = await lab.started()
    with pytest.raises(DriverError) as caught:
        await guest.save(lab.root)
    assert caught.value.code == "wrong_state"
    directory = await saved(lab, guest)
    with pytest.raises(DriverError):
        await guest.save(directory)


async def test_while_it_is_saved_its_state_is_known(lab, faults, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.cloud_hypervisor.guest._ANSWER_S", 0.1)
    _, guest, _ = await lab.started()
    failing(faults, "vm.snapshot", "slow", seconds=0.5)
    await guest.pause()
    (lab.root / "checkpoint").mkdir()
    saving = asyncio.create_task(guest.save(lab.root / "checkpoint"))
    await asyncio.sleep(0)
    while not saving.done():
        assert await guest.state() is GuestState.PAUSED
        await asyncio.sleep(0.02)
    await saving


@pytest.mark.parametrize("damage", ["config.json", "state.json", "memory-ranges", ""])
async def test_a_checkpoint_with_parts_missing_is_an_error_and_leaves_nothing(lab, damage):
    _, guest, _ = await lab.started()
    directory = await saved(lab, guest)
    if damage:
        (directory / damage).unlink()
    else:
        (directory / "config.json").write_text("{half")
    launch = lab.launch()
    with pytest.raises(DriverError) as caught:
        await lab.driver.restore(launch, directory)
    assert caught.value.hint
    assert leftovers(launch) == []


@dataclass
class Move:
    """A guest, and the process that waits for it."""

    here: Guest
    watch: Watch
    there: Guest
    arrival: Watch
    there_launch: Launch
    socket: Path

    async def at(self, state: MigrationState) -> MigrationProgress:
        async def reached() -> MigrationProgress | None:
            found = await self.here.migration()
            return found if found.state is state else None

        return await until(reached)


async def moving(lab, **changes) -> Move:
    launch, here, watch = await lab.started(disks=(disk(lab),), nics=(nic(),), **changes)
    await ready(here)
    there_launch = replace(lab.launch(disks=launch.disks, nics=launch.nics), vm=launch.vm)
    socket = lab.root / "receiver"
    there = lab.keep(await lab.driver.receive(there_launch, socket))
    return Move(here, watch, there, Watch(there), there_launch, socket)


async def test_a_guest_moves_and_runs_in_one_place(lab):
    move = await moving(lab)
    await typed(move.here, "note remember me")
    assert await move.there.state() is GuestState.STARTING
    assert (await move.here.migration()).state is MigrationState.NONE
    await move.here.migrate(move.socket, MigrationTerms())
    gone = await move.watch.until(GuestState.GONE)
    assert gone.exit_reason is ExitReason.KILLED
    assert "another node" in gone.detail
    found = await move.here.migration()
    assert found.state is MigrationState.MOVED
    assert found.transferred_bytes > 20 * MIB
    assert found.downtime_ms is not None
    assert found.downtime_ms < 5000
    await move.arrival.until(GuestState.RUNNING)
    assert await move.there.state() is GuestState.RUNNING
    await typed(move.there, "notes")
    await until(lambda: "remember me" in printed(move.there))
    await move.there.reset()
    await ready(move.there)
    await move.there.detach()
    again = lab.keep(await lab.driver.adopt(move.there_launch, None))
    assert await again.state() is GuestState.RUNNING
    assert not any(event.state is GuestState.PAUSED for event in move.watch.events)


async def test_a_paused_guest_arrives_paused(lab):
    move = await moving(lab)
    await move.here.pause()
    await move.here.migrate(move.socket, MigrationTerms())
    await move.arrival.until(GuestState.PAUSED)
    assert await move.there.state() is GuestState.PAUSED


async def test_a_move_takes_its_time_and_may_be_called_off(lab):
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms(bandwidth_bytes=4 * MIB))
    await move.here.migrate(move.socket, MigrationTerms())  # it is on its way already
    await until(lambda: move.here._line.transferred > MIB)
    on_the_way = await move.at(MigrationState.COPYING)
    assert 0 < on_the_way.transferred_bytes < 20 * MIB
    assert on_the_way.remaining_bytes > 0
    for _ in range(2):
        await move.here.cancel_migration()
        assert (await move.here.migration()).state is MigrationState.CANCELLED
    assert await move.here.state() is GuestState.RUNNING
    await typed(move.here, "echo still here")
    gone = await move.arrival.until(GuestState.GONE)
    assert "did not arrive" in gone.detail
    assert leftovers(move.there_launch) == []


async def test_a_receiver_that_dies_leaves_the_guest_where_it_is_and_another_may_take_it(lab):
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms(bandwidth_bytes=8 * MIB))
    await until(lambda: move.here._line.transferred > MIB)
    os.kill(move.there.handle.pid, signal.SIGKILL)
    assert (await move.at(MigrationState.FAILED)).detail
    assert await move.here.state() is GuestState.RUNNING
    move.socket.unlink()
    next_launch = replace(
        lab.launch(disks=move.there_launch.disks, nics=move.there_launch.nics), vm=move.there_launch.vm
    )
    there = lab.keep(await lab.driver.receive(next_launch, move.socket))
    watch = Watch(there)
    await move.here.migrate(move.socket, MigrationTerms())
    await watch.until(GuestState.RUNNING)


async def test_a_sender_that_dies_is_not_waited_for(lab):
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms(bandwidth_bytes=4 * MIB))
    await until(lambda: move.here._line.transferred > MIB)
    await move.here.kill()
    gone = await move.arrival.until(GuestState.GONE)
    assert "did not arrive" in gone.detail


async def test_nobody_receives(lab):
    _, guest, _ = await lab.started()
    await guest.migrate(lab.root / "nowhere", MigrationTerms())

    async def failed() -> bool:
        return (await guest.migration()).state is MigrationState.FAILED

    await until(failed)
    assert await guest.state() is GuestState.RUNNING


@pytest.mark.parametrize("terms", [MigrationTerms(postcopy=True), MigrationTerms(disks=("data",))])
async def test_moves_that_cannot_be_are_refused(lab, terms):
    _, guest, _ = await lab.started()
    with pytest.raises(DriverError) as caught:
        await guest.migrate(lab.root / "nowhere", terms)
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert (await guest.migration()).state is MigrationState.NONE


async def test_an_agent_that_is_killed_calls_the_move_off(lab):
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms(bandwidth_bytes=4 * MIB))
    await until(lambda: move.here._line.transferred > MIB)
    launch = move.here._launch
    await move.here.detach()
    again = lab.keep(await lab.driver.adopt(launch, move.here.handle))

    async def failed() -> bool:
        return (await again.migration()).state is MigrationState.FAILED

    await until(failed)
    assert await again.state() is GuestState.RUNNING


async def test_a_process_that_waits_for_nobody_any_more_is_ended_when_it_is_found(lab, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.cloud_hypervisor.driver._ANSWER_S", 0.2)
    launch = lab.launch()
    guest = await lab.driver.receive(launch, lab.root / "receiver")
    await guest.detach()
    assert await lab.driver.adopt(launch, None) is None
    assert not processes.is_alive(guest.handle.pid, guest.handle.start_time)
    assert leftovers(launch) == []


async def test_a_socket_that_is_taken_cannot_be_received_on(lab):
    (lab.root / "receiver").touch()
    launch = lab.launch()
    with pytest.raises(DriverError):
        await lab.driver.receive(launch, lab.root / "receiver")
    assert leftovers(launch) == []


async def test_a_machine_that_came_is_kept_even_if_nobody_said_so(lab, faults):
    failing(faults, "vm.receive-migration", "silent")
    move = await moving(lab)
    await move.here.migrate(move.socket, MigrationTerms())
    await move.arrival.until(GuestState.RUNNING)
    await typed(move.there, "echo here")
