"""The executor with the fake hypervisor: real processes, real records, no control plane."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from nacre.agent.host import locks
from nacre.agent.hypervisors import registry
from nacre.agent.hypervisors.base import Guest, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch
from nacre.agent.vms.presence import Presence
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.nodes import HypervisorInfo
from nacre.model.vms import Desired, ExitReason, Phase, PublishedPort, RestartPolicy
from support.intents import IMAGE, newer, node_intent, vm_intent
from support.node import Node
from support.patience import within
from support.platform import free_port
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


def ready(node: Node, vm: str) -> bool:
    log = node.root / "vms" / vm / "console.log"
    return log.exists() and "ready" in log.read_text()


async def test_a_machine_is_started_and_everything_on_the_way_is_told(node):
    intent = vm_intent()
    node.want(intent)
    seen = await node.shows(intent.id, Phase.RUNNING)
    assert node.phases(intent.id) == [Phase.PREPARING, Phase.STARTING, Phase.RUNNING]
    assert seen.run is not None
    assert seen.run.accelerator == "none"
    assert len(node.pids()) == 1


async def test_a_stopped_machine_needs_nothing_but_to_be_known(node):
    intent = vm_intent(desired=Desired.STOPPED, reboot_nonce=3)
    node.want(intent)
    seen = await node.shows(intent.id, Phase.STOPPED)
    assert (seen.reboot_nonce, seen.run) == (3, None)
    assert node.pids() == []
    await until(lambda: node.record(intent.id).generation == 1)


async def test_stopping_asks_the_guest_and_starting_again_is_a_new_life(node):
    intent = vm_intent()
    node.want(intent)
    first = await node.shows(intent.id, Phase.RUNNING)
    node.want(off := newer(intent, Desired.STOPPED))
    seen = await node.shows(intent.id, Phase.STOPPED, 2)
    assert seen.run is not None
    assert seen.run.exit_reason is ExitReason.STOPPED
    node.want(newer(off, Desired.RUNNING))
    again = await node.shows(intent.id, Phase.RUNNING, 3)
    assert again.run is not None
    assert first.run is not None
    assert again.run.id != first.run.id
    assert len(node.pids()) == 1


async def test_a_guest_that_does_not_listen_is_switched_off_in_time(node):
    intent = vm_intent(kernel_args="fake.deaf", stop_timeout_s=0.2)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    node.want(newer(intent, Desired.STOPPED))
    seen = await node.shows(intent.id, Phase.STOPPED, 2)
    assert seen.run is not None
    assert seen.run.exit_reason is ExitReason.KILLED


async def test_force_interrupts_a_graceful_stop(node):
    intent = vm_intent(kernel_args="fake.deaf", stop_timeout_s=600)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    node.want(off := newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPING, 2)
    node.want(newer(off, force_stop=True))
    await node.shows(intent.id, Phase.STOPPED, 3, timeout=5)


async def test_wanting_it_again_ends_a_graceful_stop_that_is_not_obeyed(node):
    intent = vm_intent(kernel_args="fake.deaf", stop_timeout_s=600)
    node.want(intent)
    first = await node.shows(intent.id, Phase.RUNNING)
    node.want(off := newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPING, 2)
    node.want(newer(off, Desired.RUNNING))
    again = await node.shows(intent.id, Phase.RUNNING, 3, timeout=5)
    assert again.run == first.run


async def test_pause_resume_reset_and_reboot(node):
    intent = vm_intent()
    node.want(intent)
    first = await node.shows(intent.id, Phase.RUNNING)
    node.want(intent := newer(intent, Desired.PAUSED))
    await node.shows(intent.id, Phase.PAUSED, 2)
    node.want(intent := newer(intent, Desired.RUNNING))
    await node.shows(intent.id, Phase.RUNNING, 3)
    node.want(intent := newer(intent, reset_nonce=1))
    seen = await until(lambda: (each := node.newest(intent.id)) and each.reset_nonce == 1 and each)
    assert seen.run == first.run
    log = node.root / "vms" / intent.id / "console.log"
    assert log.read_text().count("booting") == 2
    node.want(newer(intent, reboot_nonce=1))
    seen = await until(
        lambda: (each := node.newest(intent.id)) and each.reboot_nonce == 1 and each.phase is Phase.RUNNING and each
    )
    assert seen.run.id != first.run.id
    assert len(node.pids()) == 1


async def test_a_crashed_guest_is_started_again_by_itself_with_growing_pauses(node):
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    loop = asyncio.get_running_loop()
    took: list[float] = []
    for restarts in (1, 2, 3):
        began = loop.time()
        os.kill(node.pid(intent.id), signal.SIGKILL)
        seen = await until(lambda n=restarts: (each := node.newest(intent.id)) and each.restarts == n and each)
        await node.shows(intent.id, Phase.RUNNING)
        took.append(loop.time() - began)
        assert seen.restarts == restarts
    assert Phase.CRASHED in node.phases(intent.id)
    assert took[2] > took[0] + 0.5  # 0.25, 0.5 and 1 s of pause
    assert len(node.pids()) == 1


async def test_a_crash_is_told_within_a_moment(node):
    intent = vm_intent(restart=RestartPolicy.NEVER)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    began = asyncio.get_running_loop().time()
    os.kill(node.pid(intent.id), signal.SIGKILL)
    seen = await node.shows(intent.id, Phase.CRASHED)
    assert asyncio.get_running_loop().time() - began < 5
    assert seen.failure is not None
    assert (seen.failure.code, seen.failure.failure_class) == ("vm_crashed", FailureClass.PERMANENT)
    node.want(newer(intent))
    again = await node.shows(intent.id, Phase.RUNNING, 2)
    assert again.failure is None


async def test_a_guest_that_powers_itself_off_stays_off_and_is_no_crash(node):
    intent = vm_intent(kernel_args="fake.poweroff=0.1")
    node.want(intent)
    seen = await node.shows(intent.id, Phase.STOPPED)
    assert seen.run is not None
    assert seen.run.exit_reason is ExitReason.GUEST_SHUTDOWN
    assert (seen.failure, seen.restarts) == (None, 0)
    node.executor.look_again()
    await asyncio.sleep(0.3)
    assert node.pids() == []
    node.want(newer(intent))
    await until(lambda: node.phases(intent.id).count(Phase.RUNNING) == 2)


async def test_with_the_policy_always_a_power_off_is_followed_by_a_start(node):
    intent = vm_intent(kernel_args="fake.poweroff=0.1", restart=RestartPolicy.ALWAYS)
    node.want(intent)
    await until(lambda: node.phases(intent.id).count(Phase.RUNNING) >= 2)


async def test_deleting_leaves_nothing_but_a_tombstone_that_goes_when_nobody_names_it(node):
    intent = vm_intent(disk_bytes=1 << 20)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    node.want(newer(intent, Desired.ABSENT))
    await node.shows(intent.id, Phase.ABSENT, 2)
    assert node.pids() == []
    assert list((node.root / "vms").iterdir()) == list((node.root / "run").iterdir()) == []
    assert node.record(intent.id).deleted
    node.want()
    await until(lambda: not RecordsOf(node))


def RecordsOf(node: Node) -> list[str]:  # noqa: N802
    return list(node.records.load_all())


async def test_what_is_not_named_any_more_is_held_and_left_alone(node):
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    node.want()
    await asyncio.sleep(0.1)
    (held,) = node.executor.held()
    assert (held.id, held.name, held.running) == (intent.id, intent.name, True)
    assert len(node.pids()) == 1


async def test_too_many_deletions_at_once_are_refused_until_somebody_allows_them(node):
    intents = [vm_intent() for _ in range(5)]
    node.want(*intents)
    for intent in intents:
        await node.shows(intent.id, Phase.RUNNING)
    gone = [newer(intent, Desired.ABSENT) for intent in intents]
    node.want(*gone, teardown_allowed=False)
    await asyncio.sleep(0.2)
    assert len(node.executor.refused) == len(node.pids()) == 5
    node.want(*gone)
    for intent in intents:
        await node.shows(intent.id, Phase.ABSENT, 2)
    assert node.pids() == []
    assert not node.executor.refused


async def test_a_guest_outlives_the_agent_and_is_adopted(node):
    intent = vm_intent()
    node.want(intent)
    first = await node.shows(intent.id, Phase.RUNNING)
    pid = node.pid(intent.id)
    await node.restart()
    assert processes.is_alive(pid, processes.start_time(pid) or 0)
    assert node.newest(intent.id) == first
    node.want(newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, 2)
    assert node.pids() == []


async def test_a_paused_guest_is_adopted_as_paused(node):
    intent = vm_intent(desired=Desired.PAUSED)
    node.want(intent)
    await node.shows(intent.id, Phase.PAUSED)
    node.told.clear()
    await node.restart()
    assert node.newest(intent.id).phase is Phase.PAUSED


async def test_an_end_while_nobody_watched_is_a_crash_unless_we_had_begun_it(node):
    for ending, reason in ((None, ExitReason.CRASHED), (ExitReason.KILLED, ExitReason.KILLED)):
        intent = vm_intent()
        node.want(intent)
        await node.shows(intent.id, Phase.RUNNING)
        pid = node.pid(intent.id)
        await node.executor.close()
        record = msgspec.structs.replace(node.record(intent.id), ending=ending)
        node.records.save(record)
        await processes.kill(pid, processes.start_time(pid) or 0)
        await node.restart()
        seen = node.newest(intent.id)
        assert seen.run.exit_reason is reason


async def test_after_a_reboot_of_the_host_a_machine_that_should_run_runs_again(node):
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    pid = node.pid(intent.id)
    await node.executor.close()
    await processes.kill(pid, processes.start_time(pid) or 0)
    record = node.record(intent.id)
    assert record.run is not None
    handle = record.run.handle | {"boot_id": "an earlier boot"}
    node.records.save(msgspec.structs.replace(record, run=msgspec.structs.replace(record.run, handle=handle)))
    await node.restart()
    assert node.newest(intent.id).run.exit_reason is ExitReason.HOST_REBOOT
    node.want(intent)
    again = await node.shows(intent.id, Phase.RUNNING)
    assert again.restarts == 0


@pytest.mark.parametrize("lost", ["record", "run", "handle"])
async def test_a_guest_that_no_record_tells_of_is_adopted_and_never_started_twice(node, lost):
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    pid = node.pid(intent.id)
    await node.executor.close()
    record = node.record(intent.id)
    match lost:
        case "record":
            node.records.remove(intent.id)
        case "run":
            node.records.save(msgspec.structs.replace(record, run=None))
        case _:
            run = record.run
            assert run is not None
            starting = {"run": run.info.id, "hypervisor": "fake", "boot_id": processes.boot_id()}
            ended = msgspec.structs.replace(run.info, exited_at=run.info.started_at, exit_reason=ExitReason.STOPPED)
            node.records.save(
                msgspec.convert(
                    msgspec.to_builtins(msgspec.structs.replace(record, run=msgspec.structs.replace(run, info=ended)))
                    | {"starting": starting},
                    type(record),
                )
            )
    await node.restart()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    await until(lambda: node.record(intent.id).run is not None)
    assert node.pids() == [pid] == [node.pid(intent.id)]
    node.want(newer(intent, Desired.ABSENT))
    await node.shows(intent.id, Phase.ABSENT, 2)
    assert node.pids() == []


async def test_a_start_that_never_came_to_a_process_is_begun_anew(node):
    intent = vm_intent()
    await node.executor.close()
    node.records.save(
        msgspec.convert(
            {
                "id": intent.id,
                "intent": msgspec.to_builtins(intent),
                "starting": {"run": "run-x", "hypervisor": "fake", "boot_id": processes.boot_id()},
                "found_at": "2030-01-01T00:00:00Z",
            },
            type(await _any_record(node)),
        )
    )
    await node.restart()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    assert len(node.pids()) == 1


async def _any_record(node: Node):
    from nacre.agent.records import Record

    return Record(id=vm_intent().id, found_at=node.host.clock.now())


async def test_a_locked_machine_is_not_started_but_looked_for(node):
    intent = vm_intent()
    place = node.root / "vms" / intent.id
    place.mkdir()
    lock = locks.take(place / "lock")
    try:
        node.want(intent)
        seen = await until(lambda: (each := node.newest(intent.id)) and each.failure and each)
        assert seen.failure.code == "machine_locked"
        assert seen.failure.next_try_at is not None
        assert node.pids() == []
    finally:
        os.close(lock)
    await node.shows(intent.id, Phase.RUNNING)
    assert node.newest(intent.id).failure is None


async def test_a_process_that_cannot_be_taken_over_is_ended_when_the_machine_is_to_go(node):
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    await node.executor.close()
    node.records.save(msgspec.structs.replace(node.record(intent.id), run=None))
    for socket in (node.root / "run" / intent.id).glob("*.sock"):
        socket.unlink()
    await node.restart()
    node.want(intent)
    await until(lambda: (each := node.newest(intent.id)) and each.failure and each.failure.code == "machine_locked")
    assert len(node.pids()) == 1
    node.want(newer(intent, Desired.ABSENT))
    await node.shows(intent.id, Phase.ABSENT, 2)
    assert node.pids() == []


async def test_a_start_that_fails_is_a_failure_with_a_hint_that_goes_when_it_works(node):
    port = PublishedPort(guest_port=80, host_port=free_port())
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", port.host_port)
    intent = vm_intent(publish=(port,))
    node.want(intent)
    seen = await until(lambda: (each := node.newest(intent.id)) and each.failure and each)
    assert seen.failure.code == "port_in_use"
    assert seen.failure.hint
    assert seen.failure.failure_class is FailureClass.TRANSIENT
    assert node.pids() == []
    server.close()
    await server.wait_closed()
    seen = await node.shows(intent.id, Phase.RUNNING)
    assert seen.failure is None


async def test_a_failure_after_the_last_step_is_past_when_nothing_is_left_to_do(node, monkeypatch):
    intent = vm_intent(desired=Desired.STOPPED)
    node.want(intent)
    await node.shows(intent.id, Phase.STOPPED)
    await until(lambda: node.record(intent.id).generation == 1)
    node.told.clear()
    machine = node.executor._machines[intent.id]
    removals = iter([OSError(22, "Invalid argument")])

    def remove(_vm):
        for error in removals:
            raise error

    monkeypatch.setattr(node.host.cgroups, "remove", remove)
    machine.presence = Presence.UNKNOWN
    node.executor.look_again()
    await until(lambda: node.told)
    assert next(removals, None) is None
    assert node.newest(intent.id).failure is None


async def test_a_hypervisor_that_is_not_enabled_waits_for_an_operator(node):
    intent = vm_intent(hypervisor="qemu")
    node.want(intent)
    seen = await until(lambda: (each := node.newest(intent.id)) and each.failure and each)
    assert (seen.failure.code, seen.failure.failure_class) == ("hypervisor_not_enabled", FailureClass.BLOCKED)
    node.want(newer(intent, Desired.ABSENT))
    await node.shows(intent.id, Phase.ABSENT, 2)


async def test_stopping_interrupts_a_start_and_leaves_no_process(node):
    gate = asyncio.Event()
    inner = registry.load("fake", node.root / "state")

    class Slow:
        name = "fake"

        async def probe(self) -> HypervisorInfo:
            return await inner.probe()

        async def start(self, launch: Launch) -> Guest:
            guest = await inner.start(launch)
            try:
                await gate.wait()
            except BaseException:
                await guest.kill()
                raise
            return guest

        async def adopt(self, launch: Launch, handle: Handle | None) -> Guest | None:
            return await inner.adopt(launch, handle)

    node.driver = Slow()
    await node.restart()
    intent = vm_intent()
    node.want(intent)
    await until(lambda: len(node.pids()) == 1)
    node.want(newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, 2)
    assert node.pids() == []
    assert node.record(intent.id).starting is None


async def test_what_is_permanently_wrong_is_tried_once_per_generation(node):
    tries: list[str] = []

    class Refusing:
        name = "fake"

        async def probe(self) -> HypervisorInfo:
            return HypervisorInfo(name="fake", available=True)

        async def start(self, launch: Launch) -> Guest:
            tries.append(launch.run)
            raise DriverError("no", "no", hint="no", failure_class=FailureClass.PERMANENT)

        async def adopt(self, launch: Launch, handle: Handle | None) -> Guest | None:
            return None

    node.driver = Refusing()
    await node.restart()
    intent = vm_intent()
    node.want(intent)
    seen = await until(lambda: (each := node.newest(intent.id)) and each.failure and each)
    assert seen.failure.next_try_at is None
    node.executor.look_again()
    await asyncio.sleep(0.2)
    assert len(tries) == 1
    node.want(newer(intent))
    await until(lambda: len(tries) == 2)


async def test_images_under_machines_are_needed_and_others_are_not(node):
    assert node.executor.needed_images() == frozenset()
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    node.executor.want(node_intent())
    assert node.executor.needed_images() == {IMAGE}


async def test_the_console_is_dead_when_the_machine_stays_off_and_alive_over_a_reboot(node):
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    await until(lambda: ready(node, intent.id))
    heard = bytearray()
    async with node.consoles.viewer(intent.id, 65536) as viewer:

        async def look() -> None:
            async for data in viewer:
                heard.extend(data)

        looking = asyncio.create_task(look())
        node.want(intent := newer(intent, reboot_nonce=1))
        await until(lambda: heard.count(b"ready") == 2)
        node.want(newer(intent, Desired.STOPPED))
        async with within(10):
            await looking


async def test_nothing_is_left_open_after_many_lives(node):
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        node.want(intent := newer(intent, Desired.STOPPED, force_stop=True))
        await node.shows(intent.id, Phase.STOPPED, intent.generation)
        node.want(intent := newer(intent, Desired.RUNNING, force_stop=False))
        await node.shows(intent.id, Phase.RUNNING, intent.generation)
    await until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before + 1)
