"""Guests that are saved, go on from what was saved, and move to another host: a counter in their memory tells.

Never do two processes run one guest: at every look at both there is at most one that runs.
"""

import asyncio
import os
import subprocess
from dataclasses import replace

import pytest

from nacre.agent.hypervisors.abilities import (
    CanCheckpoint,
    CanClose,
    CanMigrate,
    CanReceive,
    CanRestore,
    CanTakeBack,
    CanTakeOver,
    HasShape,
    MigrationState,
    MigrationTerms,
)
from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Arrival, DiskFile
from nacre.agent.hypervisors.qemu import checkpoints
from nacre.agent.hypervisors.qemu.layering import written
from nacre.agent.hypervisors.qemu.live import LiveGuest
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.hardware import CpuOptions, MemoryOptions
from nacre.model.ids import RunId
from nacre.model.units import GIB, MIB
from support.machines import Watch
from support.struck import pids_under
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]

STEP = "i=$((i+1)); echo $i >/tmp/next; mv /tmp/next /tmp/count; usleep 50000"
COUNTING = f"(i=0; while :; do {STEP}; done) >/dev/null 2>&1 & true"
SLOWLY = MigrationTerms(bandwidth_bytes=2 * MIB)


async def refusal(action) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await action
    assert caught.value.hint
    return caught.value


async def count(shell) -> int:
    await shell.until("ls /tmp", "count")
    return int(await shell.run("cat /tmp/count"))


async def counts_on(shell, beyond: int) -> None:
    """The counter has not begun anew, and it runs."""
    now = await count(shell)
    assert now >= beyond

    async def more():
        return await count(shell) > now

    await until(more)


def disk(launch, name) -> DiskFile:
    path = launch.directory / f"{name}.qcow2"
    if not path.exists():
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    return DiskFile(id=name, path=path, format="qcow2")


class Couple:
    """A guest, and a second host for it: other folders, and another process."""

    def __init__(self, lab, launch):
        self.lab = lab
        self.launch = launch
        self.socket = lab.root / "move.sock"
        self.both_ran = False
        self._watching = None

    async def begin(self):
        self.guest, self.shell = await self.lab.booted(self.launch)
        await self.shell.run(COUNTING)
        self.counted = await count(self.shell)
        return self

    async def open(self, copied=(), shared=(), held=False):
        """The other host listens."""
        there = self.lab.launch(memory_bytes=self.launch.memory_bytes)
        disks = tuple(disk(there, name) for name in copied) + tuple(shared)
        arrival = Arrival(shape=await self.guest.shape(), disks=tuple(copied))
        keep = {"directory": there.directory, "run_directory": there.run_directory, "lock_fd": there.lock_fd}
        self.there = replace(self.launch, **keep, disks=disks, arrival=arrival)
        receive = self.lab.driver.receive_held if held else self.lab.driver.receive
        self.other = self.lab.keep(await receive(self.there, self.socket))
        self.watch = Watch(self.other)
        self._watching = asyncio.create_task(self._watch())
        assert await self.other.state() is GuestState.STARTING

    async def _watch(self):
        while True:
            # In this order: once it runs there, it must not run here any more.
            self.both_ran |= await self._runs(self.other) and await self._runs(self.guest)
            await asyncio.sleep(0.01)

    async def _runs(self, guest):
        try:
            return (await guest._talk.execute("query-status"))["status"] == "running"
        except DriverError:
            return False

    async def moved(self, guest=None):
        """Wait until it is there."""
        guest = guest or self.guest

        async def there():
            progress = await guest.migration()
            assert progress.state in {MigrationState.COPYING, MigrationState.POSTCOPY, MigrationState.MOVED}, progress
            return progress.state is MigrationState.MOVED

        await until(there)

        async def running():
            return await self.other.state() is GuestState.RUNNING

        await until(running)
        shell = await self.lab.shell(self.other)
        await counts_on(shell, self.counted)
        self.end()
        return shell

    async def copying(self):
        """Wait until some of it has been sent."""

        async def some():
            progress = await self.guest.migration()
            return progress.state is MigrationState.COPYING and progress.transferred_bytes > 0

        await until(some)

    def end(self):
        if self._watching is not None:
            self._watching.cancel()
        assert not self.both_ran


# Checkpoints


async def test_a_guest_goes_on_from_its_checkpoint_with_all_that_it_got_meanwhile(lab):
    launch = lab.tiny(memory_bytes=256 * MIB, memory=MemoryOptions(max_bytes=GIB), cpu=CpuOptions(max=2))
    launch = replace(launch, disks=(disk(launch, "root"),))
    guest, shell = await lab.booted(launch)
    assert isinstance(lab.driver, CanRestore)
    assert isinstance(guest, CanCheckpoint)
    await guest.attach_disk(disk(launch, "gone"))
    await guest.attach_disk(disk(launch, "extra"))
    await guest.detach_disk("gone", 20)  # leaves a place empty between others
    await guest.resize_memory(384 * MIB)
    await guest.resize_cpus(2)
    await shell.until("cat /proc/partitions", "vdc")
    await shell.run(COUNTING)
    await shell.run("echo kept >/data/file; sync")
    counted = await count(shell)
    generation = (await guest._talk.execute("query-vm-generation-id"))["guid"]
    folder = launch.directory / "checkpoint"
    folder.mkdir()
    assert (await refusal(guest.save(folder))).code == "guest_not_paused"
    await guest.pause()
    for _ in range(2):
        await guest.save(folder)
    assert await guest.state() is GuestState.PAUSED
    await guest.kill()
    launch = replace(launch, disks=(*launch.disks, disk(launch, "extra")), run=RunId("run-01m7ysnyghpha2pa88yjx222cq"))
    launch = replace(launch, cpus=2, memory_bytes=384 * MIB)  # as it was asked to be by now
    again = lab.keep(await lab.driver.restore(launch, folder))
    assert await again.state() is GuestState.PAUSED
    await again.resume()
    shell = await lab.shell(again)
    await counts_on(shell, counted)
    assert await shell.run("cat /data/file") == "kept"
    assert (await again.sizes()).memory_bytes == 384 * MIB
    assert (await again.sizes()).cpus == 2
    assert (await again._talk.execute("query-vm-generation-id"))["guid"] != generation
    await again.detach_disk("extra", 20)


async def test_a_guest_that_was_saved_may_go_on_itself(lab):
    guest, shell = await lab.booted(lab.tiny())
    await shell.run(COUNTING)
    folder = lab.root / "checkpoint"
    folder.mkdir()
    await guest.pause()
    await guest.save(folder)
    assert (await guest.migration()).state is MigrationState.NONE
    other = lab.root / "other"
    other.mkdir()
    assert (await refusal(guest.save(other))).code == "guest_saved_before"
    await guest.resume()
    await counts_on(shell, await count(shell))
    await guest.pause()
    await guest.save(other)
    assert {path.name for path in other.iterdir()} == {"memory", "shape.json"}


@pytest.mark.parametrize("damage", ["cut", "no-shape", "no-memory", "garbage"])
async def test_a_checkpoint_that_is_damaged_is_refused_and_leaves_no_process(lab, damage):
    launch = lab.launch()
    guest = lab.keep(await lab.driver.start(launch))
    folder = launch.directory / "checkpoint"
    folder.mkdir()
    await guest.pause()
    await guest.save(folder)
    await guest.kill()
    match damage:
        case "cut":
            os.truncate(folder / "memory", (folder / "memory").stat().st_size // 2)
        case "no-shape":
            (folder / "shape.json").unlink()
        case "no-memory":
            (folder / "memory").unlink()
        case _:
            (folder / "memory").write_bytes(b"nonsense" * 10_000)
    error = await refusal(lab.driver.restore(launch, folder))
    assert error.code == "checkpoint_unusable"
    assert error.failure_class is FailureClass.PERMANENT
    assert str(lab.root) not in error.message
    assert list(launch.run_directory.iterdir()) == []


async def test_a_process_that_is_killed_while_it_reads_a_checkpoint_says_nothing_of_that(lab, monkeypatch):
    launch = lab.launch()
    guest = lab.keep(await lab.driver.start(launch))
    folder = launch.directory / "checkpoint"
    folder.mkdir()
    await guest.pause()
    await guest.save(folder)
    await guest.kill()
    load = checkpoints.load

    async def struck(talk, directory):
        (pid,) = pids_under(launch.run_directory)
        os.kill(pid, 9)
        await load(talk, directory)

    monkeypatch.setattr(checkpoints, "load", struck)
    error = await refusal(lab.driver.restore(launch, folder))
    assert (error.code, error.failure_class) == ("hypervisor_killed", FailureClass.TRANSIENT)
    monkeypatch.undo()
    guest = lab.keep(await lab.driver.restore(launch, folder))
    assert await guest.state() is GuestState.PAUSED


async def test_a_guest_saved_under_another_accelerator_is_not_started(lab):
    launch = lab.launch()
    guest = lab.keep(await lab.driver.start(launch))
    folder = launch.directory / "checkpoint"
    folder.mkdir()
    await guest.pause()
    await guest.save(folder)
    await guest.kill()
    shape = folder / "shape.json"
    shape.write_text(shape.read_text().replace('"accelerator":"tcg"', '"accelerator":"kvm"'))
    error = await refusal(lab.driver.restore(launch, folder))
    assert (error.code, error.failure_class) == ("accelerator_differs", FailureClass.BLOCKED)


# Moves


@pytest.mark.parametrize("postcopy", [False, True])
async def test_a_guest_moves_and_what_is_left_never_runs_again(lab, postcopy):
    couple = await Couple(lab, lab.tiny()).begin()
    guest = couple.guest
    assert isinstance(guest, CanMigrate)
    assert isinstance(guest, HasShape)
    assert isinstance(lab.driver, CanReceive)
    await couple.open()
    for _ in range(2):
        await guest.migrate(couple.socket, MigrationTerms(postcopy=postcopy))
    await couple.moved()
    progress = await guest.migration()
    assert progress.downtime_ms is not None
    assert progress.transferred_bytes > 10 * MIB
    assert await guest.state() is GuestState.PAUSED
    await guest.cancel_migration()
    assert (await refusal(guest.resume())).code == "guest_moved"
    assert (await refusal(guest.reset())).code == "guest_moved"
    assert (await refusal(guest.migrate(couple.socket, MigrationTerms()))).code == "guest_moved"
    # Another agent that knows nothing of the move is not misled either.
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(couple.launch, guest.handle))
    assert (await again.migration()).state is MigrationState.MOVED
    assert (await refusal(again.resume())).code == "guest_moved"
    await again.kill()
    assert await couple.other.state() is GuestState.RUNNING


async def test_a_guest_moves_with_disks_that_both_hosts_see(lab):
    launch = lab.tiny()
    launch = replace(launch, disks=(disk(launch, "root"),))
    couple = await Couple(lab, launch).begin()
    await couple.shell.run("echo written >/data/file; sync")
    await couple.open(shared=launch.disks)
    await couple.guest.migrate(couple.socket, MigrationTerms())
    shell = await couple.moved()
    assert await shell.run("cat /data/file") == "written"
    assert "0" in await shell.run("echo more >>/data/file; sync; echo $?")


async def test_a_guest_moves_with_the_content_of_its_disks(lab):
    launch = lab.tiny()
    launch = replace(launch, disks=(disk(launch, "root"),))
    couple = await Couple(lab, launch).begin()
    await couple.guest.attach_disk(disk(launch, "extra"))
    await couple.shell.until("cat /proc/partitions", "vdb")
    await couple.shell.run(
        "echo written >/data/file; sync; dd if=/dev/urandom of=/dev/vdb bs=1M count=4 conv=fsync 2>&1"
    )
    sums = await couple.shell.run("md5sum /dev/vdb")
    await couple.open(copied=("root", "extra"))
    await couple.guest.migrate(couple.socket, MigrationTerms(disks=("root", "extra")))
    shell = await couple.moved()
    await shell.run("echo 3 >/proc/sys/vm/drop_caches")
    assert await shell.run("md5sum /dev/vdb") == sums
    assert await shell.run("echo more >>/data/file; sync; cat /data/file") == "written\nmore"
    assert await couple.guest._talk.execute("query-jobs") == []
    assert not [name for name in await couple.guest._talk.nodes() if name.endswith("-remote")]

    async def closed():
        return not (await couple.other._talk.execute("query-block-exports"))

    await until(closed)
    await couple.other.detach_disk("extra", 20)
    left = await shell.run("ls -d /sys/class/net/eth* /sys/block/vd*")
    assert left.split() == ["/sys/block/vda", "/sys/class/net/eth0"], "that, and nothing else"
    await couple.other.attach_disk(couple.there.disks[1])
    await shell.until("cat /proc/partitions", "vdb")


@pytest.mark.parametrize("merging", [False, True])
async def test_a_guest_moves_with_all_layers_of_a_disk(lab, merging):
    launch = lab.tiny()
    root = disk(launch, "root")
    couple = await Couple(lab, replace(launch, disks=(root,))).begin()
    for number, name in enumerate(("second", "third")):
        await couple.shell.run(f"echo {number} >/data/{number}; sync")
        layer = replace(root, path=root.path.with_name(f"{name}.qcow2"))
        below = root.path.name if name == "second" else "second.qcow2"
        words = ["create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", "qcow2", str(layer.path), "16M"]
        subprocess.run(["qemu-img", *words], check=True)
        await couple.guest.switch_disk("root", layer)
    await couple.shell.run("echo 2 >/data/2; sync")
    if merging:  # slowly, so that it is under way when the machine goes
        above = await written(couple.guest._talk, "root")
        await couple.guest._talk.execute(
            "block-stream", {"device": above.node_name, "job-id": "merge-root", "speed": 1}
        )
    await couple.open(copied=("root",))
    await couple.guest.migrate(couple.socket, MigrationTerms(disks=("root",)))
    shell = await couple.moved()
    await shell.run("echo 3 >/proc/sys/vm/drop_caches")
    assert await shell.run("cat /data/0 /data/1 /data/2") == "0\n1\n2"
    assert await couple.guest._talk.execute("query-jobs") == []


async def test_a_move_that_is_cancelled_leaves_the_guest_here_and_it_can_move_later(lab):
    launch = lab.tiny()
    launch = replace(launch, disks=(disk(launch, "root"),))
    couple = await Couple(lab, launch).begin()
    await couple.open(copied=("root",))
    await couple.guest.migrate(couple.socket, replace(SLOWLY, disks=("root",)))
    await couple.copying()
    for _ in range(2):
        await couple.guest.cancel_migration()
    assert (await couple.guest.migration()).state is MigrationState.CANCELLED
    assert await couple.guest.state() is GuestState.RUNNING
    await couple.watch.until(GuestState.GONE)
    await counts_on(couple.shell, couple.counted)
    couple.end()
    couple.socket = lab.root / "move2.sock"
    await couple.open(copied=("root",))
    await couple.guest.migrate(couple.socket, MigrationTerms(disks=("root",)))
    await couple.moved()


async def test_a_move_to_nobody_fails_at_once_and_the_guest_runs_on(lab):
    guest, shell = await lab.booted(lab.tiny())
    error = await refusal(guest.migrate(lab.root / "nobody.sock", MigrationTerms()))
    assert error.code == "migration_failed"
    assert str(lab.root) not in error.message
    assert (await guest.migration()).state is MigrationState.FAILED
    assert await guest.state() is GuestState.RUNNING
    assert await shell.run("echo alive") == "alive"


@pytest.mark.parametrize("copied", [(), ("root",)])
async def test_when_the_other_host_s_process_dies_the_guest_runs_on_here(lab, copied):
    launch = lab.tiny()
    launch = replace(launch, disks=tuple(disk(launch, name) for name in copied))
    couple = await Couple(lab, launch).begin()
    await couple.open(copied=copied)
    await couple.guest.migrate(couple.socket, replace(SLOWLY, disks=copied))
    await couple.copying()
    await processes.kill(couple.other.handle.pid, couple.other.handle.start_time)

    async def failed():
        return (await couple.guest.migration()).state is MigrationState.FAILED

    await until(failed)
    assert await couple.guest.state() is GuestState.RUNNING
    await counts_on(couple.shell, couple.counted)
    couple.end()


async def test_a_guest_that_runs_there_already_and_is_lost_there_does_not_run_here_again(lab):
    couple = await Couple(lab, lab.tiny()).begin()
    await couple.open()
    await couple.guest.migrate(couple.socket, replace(SLOWLY, postcopy=True))

    async def gone():
        return (await couple.guest.migration()).state is MigrationState.POSTCOPY

    await until(gone)
    await couple.guest.cancel_migration()
    assert (await couple.guest.migration()).state is MigrationState.POSTCOPY
    await processes.kill(couple.other.handle.pid, couple.other.handle.start_time)
    await couple.watch.until(GuestState.GONE)
    for _ in range(20):
        assert not await couple._runs(couple.guest)
        await asyncio.sleep(0.05)
    assert (await refusal(couple.guest.resume())).code in {"guest_moved", "hypervisor_refused"}
    assert not await couple._runs(couple.guest)
    couple.end()


async def test_when_this_host_s_process_dies_half_a_guest_does_not_run_there(lab):
    couple = await Couple(lab, lab.tiny()).begin()
    await couple.open()
    await couple.guest.migrate(couple.socket, SLOWLY)
    await couple.copying()
    await couple.guest.kill()
    await couple.watch.until(GuestState.GONE)
    assert not any(event.state is GuestState.RUNNING for event in couple.watch.events)
    couple.end()


@pytest.mark.parametrize("ending", ["another agent goes on", "another agent cancels", "the other host dies"])
async def test_a_move_whose_agent_dies_before_the_last_step(lab, monkeypatch, ending):
    """The guest stands still between both hosts, its disks not complete: whoever comes next decides."""
    launch = lab.tiny()
    launch = replace(launch, disks=(disk(launch, "root"),))
    couple = await Couple(lab, launch).begin()
    await couple.open(copied=("root",))
    terms = MigrationTerms(disks=("root",))
    guest = couple.guest

    async def dies(*_):
        """Stands for an agent that is killed once it has told QEMU to send."""
        await asyncio.sleep(3600)

    monkeypatch.setattr(LiveGuest, "_carry", dies)
    await guest.migrate(couple.socket, terms)
    monkeypatch.undo()

    async def mirrored():
        return [job["status"] for job in await guest._talk.execute("query-jobs")] == ["ready"]

    await until(mirrored)
    await guest._talk.execute("migrate", {"uri": f"unix:{couple.socket}"})

    async def waits():
        return (await guest._talk.execute("query-migrate"))["status"] == "pre-switchover"

    await until(waits)
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(couple.launch, guest.handle))
    couple.guest = again
    assert (await again.migration()).state is MigrationState.COPYING
    if ending == "another agent goes on":
        await again.migrate(couple.socket, terms)
        await couple.moved(again)
        return
    if ending == "the other host dies":
        await processes.kill(couple.other.handle.pid, couple.other.handle.start_time)
    await again.cancel_migration()
    assert await again.state() is GuestState.RUNNING
    await counts_on(couple.shell, couple.counted)
    await couple.watch.until(GuestState.GONE)
    couple.end()


async def test_a_guest_that_is_held_when_it_has_come_runs_when_it_is_told_to(lab):
    launch = lab.tiny()
    launch = replace(launch, disks=(disk(launch, "root"),))
    couple = await Couple(lab, launch).begin()
    await couple.open(copied=("root",), held=True)
    await couple.guest.migrate(couple.socket, MigrationTerms(disks=("root",)))

    async def moved():
        return (await couple.guest.migration()).state is MigrationState.MOVED

    await until(moved)

    async def held():
        return await couple.other.state() is GuestState.PAUSED

    await until(held)
    assert not await couple._runs(couple.guest)
    await couple.other.resume()
    shell = await lab.shell(couple.other)
    await counts_on(shell, couple.counted)
    couple.end()


@pytest.mark.parametrize("again", [False, True])
async def test_a_guest_that_was_sent_and_is_lost_there_can_be_taken_back(lab, again):
    launch = lab.tiny()
    launch = replace(launch, disks=(disk(launch, "root"),))
    couple = await Couple(lab, launch).begin()
    await couple.open(copied=("root",), held=True)
    guest = couple.guest
    await guest.migrate(couple.socket, MigrationTerms(disks=("root",)))

    async def moved():
        return (await guest.migration()).state is MigrationState.MOVED

    await until(moved)
    await processes.kill(couple.other.handle.pid, couple.other.handle.start_time)
    if again:  # by an agent that was not there
        await guest.detach()
        guest = couple.guest = lab.keep(await lab.driver.adopt(couple.launch, guest.handle))
    assert isinstance(guest, CanTakeBack)
    for _ in range(2):
        await guest.take_back()
    assert await guest.state() is GuestState.RUNNING
    assert (await guest.migration()).state is MigrationState.NONE
    await counts_on(couple.shell, couple.counted)
    assert "0" in await couple.shell.run("echo more >>/data/file; sync; echo $?")
    couple.end()
    couple.socket = lab.root / "move2.sock"
    await couple.open(copied=("root",))
    await guest.migrate(couple.socket, MigrationTerms(disks=("root",)))
    await couple.moved()


# Disks that both hosts reach


def is_free(shared) -> bool:
    """Whether nobody has the file open to write: QEMU locks what it writes."""
    return subprocess.run(["qemu-img", "info", str(shared.path)], check=False, capture_output=True).returncode == 0


async def sent_and_held(lab):
    """A guest with a disk of its own and one that both hosts reach, which stands still on both."""
    launch = lab.tiny()
    (lab.root / "shared").mkdir()
    shared = disk(replace(launch, directory=lab.root / "shared"), "data")
    couple = await Couple(lab, replace(launch, disks=(disk(launch, "root"), shared))).begin()
    await couple.shell.run("echo before | dd of=/dev/vdb bs=512 conv=notrunc,fsync 2>/dev/null")
    assert not is_free(shared)
    await couple.open(copied=("root",), shared=(shared,), held=True)
    await couple.guest.migrate(couple.socket, MigrationTerms(disks=("root",)))

    async def stands_still():
        gone = (await couple.guest.migration()).state is MigrationState.MOVED
        return gone and await couple.other.state() is GuestState.PAUSED

    await until(stands_still)
    assert is_free(shared)
    return couple, shared


@pytest.mark.parametrize("again", [False, True])
async def test_a_disk_that_both_hosts_reach_is_the_receivers_when_it_is_told_so_and_the_guest_may_stay_paused(
    lab, again
):
    couple, shared = await sent_and_held(lab)
    other = couple.other
    if again:  # by an agent that was not there
        await other.detach()
        other = couple.other = lab.keep(await lab.driver.adopt(replace(couple.there, disks=()), other.handle))
    assert isinstance(other, CanTakeOver)
    for _ in range(2):
        await other.take_over()
        assert not is_free(shared)
        assert await other.state() is GuestState.PAUSED
    with pytest.raises(DriverError):
        await couple.guest.take_back()  # two never write, whoever is mistaken
    assert not await couple._runs(couple.guest)
    layer = DiskFile(id="data", path=shared.path.with_name("layer.qcow2"), format="qcow2")
    words = ["create", "-q", "-u", "-f", "qcow2", "-b", shared.path.name, "-F", "qcow2", str(layer.path), "16M"]
    subprocess.run(["qemu-img", *words], check=True)
    await other.switch_disk("data", layer)
    await other.resume()
    shell = await lab.shell(other)
    await counts_on(shell, couple.counted)
    await shell.until("head -c 6 /dev/vdb", "before")
    await shell.run("echo after | dd of=/dev/vdb bs=512 conv=notrunc,fsync 2>/dev/null")
    couple.end()


async def test_resuming_is_enough_to_have_it(lab):
    couple, shared = await sent_and_held(lab)
    await couple.other.resume()
    assert not is_free(shared)
    shell = await lab.shell(couple.other)
    await shell.until("head -c 6 /dev/vdb", "before")
    await counts_on(shell, couple.counted)
    couple.end()
    assert isinstance(couple.guest, CanClose)
    await couple.guest.close()
    assert await couple.guest.state() is GuestState.GONE
    assert not is_free(shared)
    await shell.run("echo after | dd of=/dev/vdb bs=512 conv=notrunc,fsync 2>/dev/null")


async def test_the_sender_takes_it_back_although_the_receiver_is_still_there(lab):
    couple, shared = await sent_and_held(lab)
    await couple.guest.take_back()
    assert not is_free(shared)
    assert await couple.other.state() is GuestState.PAUSED
    await counts_on(couple.shell, couple.counted)
    assert "0" in await couple.shell.run("echo more | dd of=/dev/vdb bs=512 conv=notrunc,fsync 2>/dev/null; echo $?")
    couple.end()
