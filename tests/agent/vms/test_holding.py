"""What waits while somebody else has a machine's disk, for hours perhaps: it says so, and can be ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from nacre.agent.hypervisors.fake import FakeGuest
from nacre.agent.storage.roots import disk_of
from nacre.agent.vms import holding
from nacre.model.convergence import FailureClass
from nacre.model.vms import Desired, ExitReason, Phase, VmIntent
from nacre.model.volumes import Wish
from support.intents import newer, vm_intent
from support.kept import DATA, SIZE, check_tidy, checkpoint, kept, parts, told, with_volume
from support.node import Node
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]

AT_ONCE_S = 10.0
"""What waits for a disk would wait for ever here."""


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(holding, "SILENT_S", 0.05)
    made = Node()
    yield await made.begin()
    await made.close()


@pytest.fixture
def plugs(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Have guests that take disks while they run, once this is set, and let go of them."""
    may = asyncio.Event()

    async def takes(_guest: FakeGuest, *_words: object) -> None:
        await may.wait()

    for name in ("attach_disk", "detach_disk", "attach_nic", "detach_nic"):
        monkeypatch.setattr(FakeGuest, name, takes, raising=False)
    return may


def busy(node: Node, disk: str = DATA) -> AbstractAsyncContextManager[None]:
    """Somebody has a disk, as who merges layers of it."""
    return node.pools.held([disk])  # type: ignore[list-item]


async def says(node: Node, intent: VmIntent, what: str) -> None:
    """Wait until a machine says what it waits for."""

    def so() -> bool:
        newest = node.newest(intent.id)
        failure = None if newest is None or newest.generation != intent.generation else newest.failure
        return failure is not None and failure.code == holding.BUSY and what in failure.message

    await until(so, timeout=AT_ONCE_S)
    failure = node.newest(intent.id).failure
    assert (failure.failure_class, bool(failure.hint)) == (FailureClass.WAITING, True)


async def running(node: Node, intent: VmIntent) -> VmIntent:
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    return intent


async def test_a_start_says_for_which_volume_it_waits_and_goes_on_when_it_is_free(node: Node) -> None:
    intent = await with_volume(node, vm_intent(disk_bytes=SIZE))
    async with busy(node):
        node.want(intent)
        await says(node, intent, "volume data")
        assert node.newest(intent.id).phase is Phase.PREPARING
    seen = await node.shows(intent.id, Phase.RUNNING)
    assert seen.failure is None


async def test_a_start_that_waits_for_its_root_disk_says_so_and_can_be_taken_back(node: Node) -> None:
    intent = vm_intent(disk_bytes=SIZE)
    async with busy(node, disk_of(intent.id)):
        node.want(intent)
        await says(node, intent, "its root disk")
        node.want(intent := newer(intent, Desired.STOPPED))
        seen = await node.shows(intent.id, Phase.STOPPED, intent.generation, timeout=AT_ONCE_S)
        assert seen.failure is None


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.ABSENT])
async def test_an_attachment_that_waits_is_in_nobodys_way(node: Node, plugs, desired: Desired, force: bool) -> None:
    plugs.set()
    intent = await running(node, vm_intent())
    async with busy(node):
        node.want(intent := newer(await with_volume(node, intent)))
        await says(node, intent, "volume data")
        node.want(intent := newer(intent, desired, force_stop=force))
        phase = Phase.STOPPED if desired is Desired.STOPPED else Phase.ABSENT
        await node.shows(intent.id, phase, intent.generation, timeout=AT_ONCE_S)
        assert node.pids() == []


async def test_an_attachment_that_waits_can_be_taken_back(node: Node, plugs) -> None:
    plugs.set()
    intent = await running(node, vm_intent())
    async with busy(node):
        attached = newer(await with_volume(node, intent))
        node.want(attached)
        await says(node, attached, "volume data")
        node.want(intent := newer(attached, volumes=()))
        await told(node, intent.id, lambda seen: seen.generation == intent.generation and seen.failure is None)
    assert node.record(intent.id).run.info.volumes == ()


async def test_a_guest_that_does_not_take_a_volume_can_be_switched_off_and_is_known_to_have_it(node, plugs) -> None:
    intent = await running(node, vm_intent())
    node.want(intent := newer(await with_volume(node, intent)))
    await until(lambda: node.record(intent.id).plugging == (DATA,))
    assert node.executor.user_of(DATA) is not None
    node.want(intent := newer(intent, Desired.STOPPED, force_stop=True))
    await node.shows(intent.id, Phase.STOPPED, intent.generation, timeout=AT_ONCE_S)
    assert node.executor.user_of(DATA) is None
    node.want(intent := newer(intent, Desired.RUNNING))
    seen = await node.shows(intent.id, Phase.RUNNING, intent.generation)
    assert seen.run.volumes == (DATA,)


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("memory", [True, False])
async def test_a_checkpoint_that_waits_lets_the_machine_be_switched_off_first(node, memory, force) -> None:
    intent = await running(node, await with_volume(node, vm_intent(disk_bytes=SIZE)))
    async with busy(node):
        node.want(intent := newer(intent, checkpoints=(checkpoint(1, volumes=(DATA,), memory=memory),)))
        await says(node, intent, "volume data")
        node.want(intent := newer(intent, Desired.STOPPED, force_stop=force))
        await until(lambda: node.pids() == [], timeout=AT_ONCE_S)
        assert node.newest(intent.id).checkpoints == ()
    seen = await kept(node, intent.id, 1, intent.generation)
    assert (None if seen.failure is None else seen.failure.code) == ("memory_not_saved" if memory else None)
    seen = await node.shows(intent.id, Phase.STOPPED, intent.generation)
    assert seen.run.exit_reason is (ExitReason.KILLED if force else ExitReason.STOPPED)
    check_tidy(node, intent.id)


async def test_a_checkpoint_is_taken_before_the_machine_is_asked_to_stop(node: Node) -> None:
    intent = await running(node, vm_intent(disk_bytes=SIZE))
    node.want(intent := newer(intent, Desired.STOPPED, checkpoints=(checkpoint(1, memory=True),)))
    seen = await kept(node, intent.id, 1, intent.generation)
    assert (seen.failure, seen.memory_bytes > 0) == (None, True)
    await node.shows(intent.id, Phase.STOPPED, intent.generation)


async def test_force_ends_a_checkpoint_that_is_being_taken_and_leaves_nothing_half(node, monkeypatch) -> None:
    intent = await running(node, await with_volume(node, vm_intent(disk_bytes=SIZE)))
    began = asyncio.Event()

    async def slow(_guest, _directory) -> None:
        began.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(FakeGuest, "save", slow)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1, volumes=(DATA,), memory=True),)))
    await began.wait()
    node.want(intent := newer(intent, Desired.STOPPED, force_stop=True))
    await until(lambda: node.pids() == [], timeout=AT_ONCE_S)
    seen = await kept(node, intent.id, 1, intent.generation)
    assert seen.failure is not None
    assert (seen.failure.code, parts(node, intent.id)) == ("memory_not_saved", set())
    check_tidy(node, intent.id)


async def test_a_checkpoint_that_waits_to_be_deleted_lets_the_machine_be_switched_off_first(node: Node) -> None:
    intent = await running(node, vm_intent(disk_bytes=SIZE))
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),)))
    await kept(node, intent.id, 1, intent.generation)
    async with busy(node, disk_of(intent.id)):
        node.want(intent := newer(intent, checkpoints=(checkpoint(1, desired=Wish.ABSENT),)))
        await says(node, intent, "its root disk")
        node.want(intent := newer(intent, Desired.STOPPED))
        await until(lambda: node.pids() == [], timeout=AT_ONCE_S)
    await told(node, intent.id, lambda seen: seen.phase is Phase.STOPPED and not seen.checkpoints)
    check_tidy(node, intent.id)


async def test_what_does_not_wait_for_long_says_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "SILENT_S", 60.0)
    intent = await with_volume(node, vm_intent(disk_bytes=SIZE))
    async with busy(node):
        node.want(intent)
        await until(lambda: intent.id in node.executor.machines and node.executor.machines[intent.id].waits)
    await node.shows(intent.id, Phase.RUNNING)
    assert all(seen.failure is None for seen in node.told)
