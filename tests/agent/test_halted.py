"""Guests that their hypervisor has stopped for good: they stay so until somebody decides. With the fake hypervisor."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from nacre.agent.acting import is_resumed
from nacre.model.convergence import FailureClass
from nacre.model.vms import Desired, ExitReason, Phase, VmIntent, VmObserved
from support.intents import newer, vm_intent
from support.node import Node
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


async def panicked(node: Node, **changes: object) -> VmIntent:
    """A machine whose guest's kernel has panicked."""
    intent = vm_intent(**changes)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    await panic(node, intent)
    seen = await halted(node, intent, 1)
    assert seen.failure is not None
    assert "panicked" in seen.failure.message
    return intent


async def panic(node: Node, intent: VmIntent) -> None:
    async with node.consoles.viewer(intent.id, 0) as viewer:

        async def typed() -> bool:
            await viewer.send(b"panic\n")
            newest = node.newest(intent.id)
            return newest is not None and newest.phase is Phase.PAUSED

        await until(typed)


async def halted(node: Node, intent: VmIntent, generation: int) -> VmObserved:
    """What is told of a machine that stands still. A resume by itself would come within half a second."""
    await node.shows(intent.id, Phase.PAUSED, generation)
    for _ in range(4):
        node.executor.look_again()
        assert not await node.executor.machines[intent.id].wait_off(0.25)
    seen = await node.shows(intent.id, Phase.PAUSED, generation)
    assert seen.failure is not None
    failure = seen.failure
    assert (failure.code, failure.failure_class) == ("guest_halted", FailureClass.BLOCKED)
    assert failure.generation == generation
    assert all(f"nacre vm {verb}" in failure.hint for verb in ("reset", "reboot", "resume"))
    return seen


async def runs(node: Node, intent: VmIntent) -> VmObserved:
    seen = await node.shows(intent.id, Phase.RUNNING, intent.generation)
    await until(lambda: (newest := node.newest(intent.id)) is not None and newest.failure is None)
    return seen


async def test_it_is_resumed_when_somebody_asks_for_just_that(node):
    intent = await panicked(node)
    node.want(asked := newer(intent))
    await runs(node, asked)


async def test_another_change_does_not_let_it_go_on(node):
    intent = await panicked(node)
    spec = msgspec.structs.replace(intent.spec, stop_timeout_s=7.0)
    node.want(changed := newer(intent, spec=spec))
    await halted(node, intent, 2)
    node.want(again := newer(changed))
    await runs(node, again)


async def test_a_pause_leaves_it_as_it_is_and_a_resume_lets_it_go_on(node):
    intent = await panicked(node)
    node.want(paused := newer(intent, Desired.PAUSED))
    await until(lambda: (seen := node.newest(intent.id)).generation == 2 and seen.failure is None)
    assert (await node.shows(intent.id, Phase.PAUSED, 2)).failure is None
    node.want(resumed := newer(paused, Desired.RUNNING))
    await runs(node, resumed)
    await panic(node, resumed)
    await halted(node, intent, 3)


async def test_a_reset_ends_it(node):
    intent = await panicked(node)
    node.want(pressed := newer(intent, reset_nonce=1))
    seen = await runs(node, pressed)
    await until(lambda: node.newest(intent.id).reset_nonce == 1)
    assert seen.run is not None
    assert seen.restarts == 0


async def test_a_reboot_and_a_stop_do_not_wait_for_a_guest_that_hears_nothing(node):
    intent = await panicked(node, stop_timeout_s=600.0)
    first = node.pid(intent.id)
    node.want(rebooted := newer(intent, reboot_nonce=1))
    await runs(node, rebooted)
    assert node.pid(intent.id) != first
    await panic(node, intent)
    await halted(node, intent, 2)
    node.want(off := newer(rebooted, Desired.STOPPED))
    seen = await node.shows(intent.id, Phase.STOPPED, 3)
    assert seen.run is not None
    assert seen.run.exit_reason is ExitReason.KILLED
    node.want(on := newer(off, Desired.RUNNING))
    await runs(node, on)


async def test_another_agent_finds_it_as_it_is(node):
    intent = await panicked(node)
    await node.restart()
    node.want(intent)
    await halted(node, intent, 1)
    node.want(asked := newer(intent))
    await runs(node, asked)


def test_what_asks_for_nothing_else_asks_for_going_on():
    intent = vm_intent()
    paused = newer(intent, Desired.PAUSED)
    assert is_resumed(intent, newer(intent))
    assert is_resumed(paused, newer(paused, Desired.RUNNING))
    assert not is_resumed(intent, paused)
    assert not is_resumed(intent, newer(intent, reset_nonce=1))
    assert not is_resumed(None, intent)
