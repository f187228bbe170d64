"""The executor about leases and moves, with real guards and fake guests: nothing starts late, nothing is lost."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from nacre.agent.hypervisors.guarding import write_lease
from nacre.agent.vms import copies as copies_module
from nacre.agent.vms import retire as retire_module
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.copies import CopyRef, RetiredVm
from nacre.model.vms import Desired, ExitReason, HaPolicy, Phase, VmIntent
from nacre.protocol.messages import NodeIntent
from support.guards import LONG_S, grant, guard_pids
from support.intents import IMAGE, newer, vm_intent
from support.node import Node
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


def safe(**changes: object) -> VmIntent:
    return vm_intent(**({"ha": HaPolicy.RESTART, "fence": 1} | changes))


def told(node: Node, *vms: VmIntent, retired: tuple[RetiredVm, ...] = (), discard: tuple[CopyRef, ...] = ()) -> None:
    node.executor.want(NodeIntent(vms=vms, images=(IMAGE,), retired=retired, discard=discard))


def run(node: Node) -> Path:
    return node.root / "run"


def stopped(pid: int) -> bool:
    return processes.is_stopped(pid, processes.start_time(pid) or 0)


async def started(node: Node, **changes: object) -> tuple[VmIntent, Path]:
    """A machine that runs under a guard, and its lease."""
    intent = safe(**changes)
    lease = grant(run(node), intent)
    told(node, intent)
    await node.shows(intent.id, Phase.RUNNING)
    return intent, lease


async def frozen(node: Node, intent: VmIntent, lease: Path) -> None:
    write_lease(lease, 0.0)
    await until(lambda: (each := node.newest(intent.id)) and each.failure is not None)


# Leases


async def test_a_machine_with_a_lease_runs_under_a_guard_and_says_so(node):
    intent, _ = await started(node)
    seen = node.newest(intent.id)
    assert seen.run.guarded
    assert seen.fence == 1
    assert len(guard_pids(node.root)) == 1
    assert node.executor.guards == 1
    told(node, newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, 2)
    await until(lambda: guard_pids(node.root) == [] and node.executor.guards == 0)


async def test_a_machine_that_needs_no_lease_has_no_guard(node):
    told(node, intent := vm_intent())
    seen = await node.shows(intent.id, Phase.RUNNING)
    assert not seen.run.guarded
    assert guard_pids(node.root) == []


async def test_without_a_lease_it_waits_and_starts_at_once_when_there_is_one(node):
    told(node, intent := safe())
    failure = await until(lambda: (each := node.newest(intent.id)) and each.failure)
    assert (failure.code, failure.failure_class) == ("lease_missing", FailureClass.WAITING)
    assert failure.hint
    assert node.pids() == []
    node.executor._machines[intent.id].retry_at = node.host.clock.monotonic() + 3600
    grant(run(node), intent)
    node.executor.leased(intent.id)
    seen = await node.shows(intent.id, Phase.RUNNING)
    assert seen.failure is None


async def test_the_lease_of_another_placement_is_of_no_use(node):
    intent = safe(fence=2)
    grant(run(node), msgspec.structs.replace(intent, fence=1))
    told(node, intent)
    await until(lambda: (each := node.newest(intent.id)) and each.failure)
    assert node.pids() == []


async def test_a_frozen_guest_is_told_of_and_goes_on_with_the_next_lease(node):
    intent, lease = await started(node)
    (pid,) = node.pids()
    await frozen(node, intent, lease)
    seen = node.newest(intent.id)
    assert (seen.phase, seen.failure.code, seen.failure.failure_class) == (
        Phase.RUNNING,
        "fenced",
        FailureClass.WAITING,
    )
    assert seen.failure.hint
    assert stopped(pid)
    assert node.executor.frozen == 1
    write_lease(lease, node.host.clock.boottime() + LONG_S)
    await until(lambda: node.newest(intent.id).failure is None)
    assert node.pids() == [pid]
    assert node.executor.frozen == 0


async def test_nothing_is_asked_of_a_frozen_guest_and_all_is_done_when_it_goes_on(node):
    intent, lease = await started(node)
    first = node.newest(intent.id).run
    await frozen(node, intent, lease)
    told(node, paused := newer(intent, Desired.PAUSED, reset_nonce=1))
    await until(lambda: node.newest(intent.id).generation == 2)
    assert node.newest(intent.id).reset_nonce == 0
    write_lease(lease, node.host.clock.boottime() + LONG_S)
    seen = await node.shows(intent.id, Phase.PAUSED, 2)
    assert (seen.reset_nonce, seen.run) == (1, first)
    assert paused.desired is Desired.PAUSED


async def test_a_graceful_stop_waits_for_a_frozen_guest_and_force_does_not(node):
    intent, lease = await started(node, stop_timeout_s=600.0)
    await frozen(node, intent, lease)
    told(node, off := newer(intent, Desired.STOPPED))
    await until(lambda: node.newest(intent.id).generation == 2)
    assert len(node.pids()) == 1
    told(node, newer(off, force_stop=True))
    seen = await node.shows(intent.id, Phase.STOPPED, 3)
    assert seen.run.exit_reason is ExitReason.KILLED
    assert seen.failure is None


async def test_a_guest_that_freezes_while_it_is_asked_to_stop_is_not_switched_off_for_it(node):
    intent, lease = await started(node, stop_timeout_s=1.0, kernel_args="fake.deaf")
    told(node, newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPING, 2)
    write_lease(lease, 0.0)
    failure = await until(lambda: node.newest(intent.id).failure)
    assert failure.code == "fenced"
    assert len(node.pids()) == 1
    write_lease(lease, node.host.clock.boottime() + LONG_S)
    await node.shows(intent.id, Phase.STOPPED, 2)


@pytest.mark.parametrize("is_frozen", [False, True])
async def test_a_new_agent_takes_guarded_guests_over_frozen_or_not(node, is_frozen):
    intent, lease = await started(node)
    (pid,) = node.pids()
    if is_frozen:
        await frozen(node, intent, lease)
    node.told.clear()
    began = asyncio.get_running_loop().time()
    await node.restart()
    assert asyncio.get_running_loop().time() - began < 4
    told(node, intent)
    await until(lambda: node.executor.guards == 1)
    seen = await until(lambda: (each := node.newest(intent.id)) and (each.failure is not None) is is_frozen and each)
    assert seen.phase is Phase.RUNNING
    write_lease(lease, node.host.clock.boottime() + LONG_S)
    await until(lambda: node.newest(intent.id).failure is None and not stopped(pid))
    assert node.pids() == [pid]


async def test_a_guest_whose_guard_is_killed_is_started_again_under_another(node):
    intent, _ = await started(node)
    (guard,) = guard_pids(node.root)
    os.kill(guard, signal.SIGKILL)
    await until(lambda: node.newest(intent.id).restarts == 1)
    await node.shows(intent.id, Phase.RUNNING)
    assert guard_pids(node.root) != [guard]
    assert len(node.pids()) == 1


# Moves


def kept(node: Node, intent: VmIntent) -> Path:
    return node.root / "copies" / f"{intent.id}.{intent.fence}"


@pytest.mark.parametrize("state", ["running", "frozen", "stopped", "plain"])
async def test_what_has_moved_away_is_switched_off_and_its_folder_kept(node, state):
    intent = safe() if state != "plain" else vm_intent(fence=1)
    lease = grant(run(node), intent)
    told(node, intent)
    await node.shows(intent.id, Phase.RUNNING)
    (disk := node.root / "vms" / intent.id / "root.qcow2").write_text("precious")
    if state == "frozen":
        await frozen(node, intent, lease)
    if state == "stopped":
        told(node, newer(intent, Desired.STOPPED))
        await node.shows(intent.id, Phase.STOPPED, 2)
    told(node, retired=(RetiredVm(id=intent.id, fence=1),))
    await until(lambda: node.copied)
    assert node.pids() == guard_pids(node.root) == []
    assert (kept(node, intent) / disk.name).read_text() == "precious"
    assert not (kept(node, intent) / "lock").exists()
    assert not disk.parent.exists()
    assert list(run(node).iterdir()) == []
    assert node.records.load_all() == {}
    assert node.executor.held() == ()
    (copy,) = node.executor.copies()
    assert (copy.id, copy.fence, copy.exists) == (intent.id, 1, True)
    assert node.executor.needed_images() == {IMAGE}


async def test_of_what_was_never_here_that_is_said(node):
    stranger = vm_intent()
    told(node, retired=(RetiredVm(id=stranger.id, fence=4),))
    (copy,) = node.executor.copies()
    assert (copy.id, copy.fence, copy.exists) == (stranger.id, 4, False)


async def test_as_long_as_it_is_here_nothing_is_said_of_it(node, monkeypatch):
    intent, _ = await started(node)
    may_go_on = asyncio.Event()
    real = retire_module.in_thread

    async def slow(*words):
        await may_go_on.wait()
        return await real(*words)

    monkeypatch.setattr(retire_module, "in_thread", slow)
    told(node, retired=(RetiredVm(id=intent.id, fence=1),))
    await until(lambda: node.pids() == [])
    assert node.executor.copies() == ()
    may_go_on.set()
    await until(lambda: node.copied)
    assert len(node.executor.copies()) == 1


async def test_a_machine_that_comes_back_starts_anew_beside_its_old_disk(node):
    intent, _ = await started(node)
    marker = node.root / "vms" / intent.id / "old"
    marker.write_text("x")
    back = newer(intent, fence=3)
    grant(run(node), back)
    told(node, back)
    seen = await node.shows(intent.id, Phase.RUNNING, 2)
    assert seen.fence == 3
    assert len(node.pids()) == 1
    assert not marker.exists()
    assert (kept(node, intent) / "old").exists()
    assert node.record(intent.id).intent.fence == 3


async def test_a_copy_goes_only_when_it_is_named(node):
    intent, _ = await started(node)
    told(node, newer(intent, fence=3, desired=Desired.STOPPED), retired=(RetiredVm(id=intent.id, fence=1),))
    await until(lambda: node.copied)
    told(node, discard=(CopyRef(id=intent.id, fence=2),))
    await until(lambda: len(node.executor.copies()) == 2)
    assert kept(node, intent).exists()
    told(node, discard=(CopyRef(id=intent.id, fence=1),))
    await until(lambda: {(copy.fence, copy.exists) for copy in node.executor.copies()} >= {(1, False)})
    assert not kept(node, intent).exists()


async def test_what_is_to_be_discarded_before_it_was_let_go_of_is_let_go_of_first(node):
    intent, _ = await started(node)
    told(node, discard=(CopyRef(id=intent.id, fence=1),))
    await until(lambda: not (node.root / "vms" / intent.id).exists())
    await until(lambda: [copy.exists for copy in node.executor.copies()] == [False])
    assert node.pids() == []
    assert not kept(node, intent).exists()


async def test_copies_outlive_the_agent(node):
    intent, _ = await started(node)
    told(node, retired=(RetiredVm(id=intent.id, fence=1),))
    await until(lambda: node.copied)
    await node.restart()
    assert [copy.exists for copy in node.executor.copies()] == [True]
    assert node.executor.held() == ()


async def test_a_copy_in_the_way_is_not_written_over(node):
    intent, _ = await started(node)
    kept(node, intent).mkdir(parents=True)
    (kept(node, intent) / "old").write_text("x")
    told(node, retired=(RetiredVm(id=intent.id, fence=1),))
    failure = await until(lambda: (each := node.newest(intent.id)) and each.failure)
    assert (failure.code, failure.failure_class) == ("copy_in_the_way", FailureClass.BLOCKED)
    assert (node.root / "vms" / intent.id).exists()
    assert node.pids() == []
    kept(node, intent).rename(node.root / "elsewhere")
    await until(lambda: node.copied)


@pytest.mark.parametrize("steps", range(9))
async def test_an_agent_that_dies_after_any_step_of_letting_go_is_followed_by_one_that_ends_it(
    node, monkeypatch, steps
):
    """Every effect of `retire` on the disk is counted; after `steps` of them there is no agent any more."""
    intent, _ = await started(node)
    (node.root / "vms" / intent.id / "root.qcow2").write_text("precious")
    left = steps
    died = asyncio.Event()

    def counted(real):
        def one(*words, **named):
            nonlocal left
            if left == 0:
                died.set()
                raise OSError(5, "the agent is dead")
            left -= 1
            return real(*words, **named)

        return one

    monkeypatch.setattr(node.records, "save", counted(node.records.save))
    monkeypatch.setattr(node.records, "remove", counted(node.records.remove))
    monkeypatch.setattr(copies_module, "write_atomically", counted(copies_module.write_atomically))
    monkeypatch.setattr(copies_module, "sync_folder", counted(copies_module.sync_folder))
    monkeypatch.setattr(retire_module, "remove_traces", counted(retire_module.remove_traces))
    void = (RetiredVm(id=intent.id, fence=1),)
    told(node, retired=void)
    await until(lambda: died.is_set() or node.copied)
    monkeypatch.undo()
    await node.restart()
    told(node, retired=void)
    await until(lambda: node.records.load_all() == {})
    assert [copy.exists for copy in node.executor.copies()] == [True]
    assert node.pids() == guard_pids(node.root) == []
    assert (kept(node, intent) / "root.qcow2").read_text() == "precious"
    assert list((node.root / "vms").iterdir()) == []
    assert list(run(node).glob("vm-*")) == []
    assert node.executor.held() == ()
