"""Checkpoints on a node, from an intent to files and back: real disks, real processes of the fake hypervisor."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from nacre.agent.volumes.writing import GuestWriter
from nacre.model.checkpoints import CheckpointSource, Restoration
from nacre.model.consistency import Consistency
from nacre.model.convergence import FailureClass
from nacre.model.vms import Desired, Phase
from nacre.model.volumes import Wish
from support.intents import newer, vm_intent
from support.kept import (
    DATA,
    SIZE,
    check_tidy,
    checkpoint,
    disks,
    kept,
    layers,
    parts,
    root_path,
    told,
    volume_path,
    with_volume,
)
from support.node import Node
from support.volumes import content, fill
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


async def off(node, intent):
    """Start a machine once, so that its disk is made, and stop it."""
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    node.want(intent := newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, intent.generation)
    return intent


async def restored(node, intent, nonce):
    node.want(intent)
    return await told(
        node, intent.id, lambda seen: seen.restore_nonce == nonce and seen.generation == intent.generation
    )


async def test_a_machine_that_is_off_is_kept_and_put_back(node):
    intent = await off(node, vm_intent(disk_bytes=SIZE))
    fill(root_path(node, intent.id), "a")
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),)))
    seen = await kept(node, intent.id, 1, intent.generation)
    assert (seen.failure, seen.consistency) == (None, Consistency.FILESYSTEM)
    assert (seen.size_bytes, seen.disk_bytes, seen.memory_bytes) == (SIZE, SIZE, 0)
    fill(root_path(node, intent.id), "b")
    back = newer(intent, restore=Restoration(nonce=1, checkpoint=checkpoint(1).id))
    await restored(node, back, 1)
    assert content(root_path(node, intent.id))[0] == "a"
    node.want(running := newer(back, Desired.RUNNING))
    await node.shows(intent.id, Phase.RUNNING, running.generation)
    assert not (node.root / "vms" / intent.id / "root.qcow2").exists()
    check_tidy(node, intent.id)


async def test_all_disks_of_a_running_machine_are_kept_and_it_goes_on(node):
    intent = await with_volume(node, vm_intent(disk_bytes=SIZE))
    node.want(intent)
    first = await node.shows(intent.id, Phase.RUNNING)
    fill(root_path(node, intent.id), "a")
    fill(volume_path(node), "a")
    node.want(intent := newer(intent, checkpoints=(checkpoint(1, volumes=(DATA,)),)))
    seen = await kept(node, intent.id, 1, intent.generation)
    assert (seen.failure, seen.consistency, seen.size_bytes) == (None, Consistency.CRASH, 2 * SIZE)
    again = await node.shows(intent.id, Phase.RUNNING, intent.generation)
    assert again.run == first.run
    fill(root_path(node, intent.id), "b")
    fill(volume_path(node), "b")
    assert disks(node, intent.id) == "bb"
    await restored(node, newer(intent, restore=Restoration(nonce=1, checkpoint=checkpoint(1).id)), 1)
    seen = await told(node, intent.id, lambda seen: seen.phase is Phase.RUNNING and seen.run != first.run)
    assert disks(node, intent.id) == "aa"
    assert len(node.pids()) == 1
    check_tidy(node, intent.id)


async def test_a_machine_goes_on_with_what_it_had_in_mind(node):
    intent = vm_intent(kernel_args="fake.tick=0.02", disk_bytes=SIZE)
    node.want(intent)
    first = await node.shows(intent.id, Phase.RUNNING)
    log = node.root / "vms" / intent.id / "console.log"
    await until(lambda: "tick 5\n" in log.read_text())
    node.want(intent := newer(intent, checkpoints=(checkpoint(1, memory=True),)))
    seen = await kept(node, intent.id, 1, intent.generation)
    assert (seen.failure, seen.consistency) == (None, Consistency.MEMORY)
    assert seen.memory_bytes > 0
    saved = int(log.read_text().rpartition("tick ")[2])
    back = newer(intent, restore=Restoration(nonce=1, checkpoint=checkpoint(1).id, memory=True))
    node.want(back)
    await told(node, intent.id, lambda seen: seen.phase is Phase.RUNNING and seen.run not in {None, first.run})
    booted = log.read_text().count("booting")
    await until(lambda: int(log.read_text().rpartition("tick ")[2].split()[0]) > saved + 5)
    assert booted == 1
    # A pause is what was asked for this time, and from the same checkpoint again.
    paused = newer(back, Desired.PAUSED, restore=Restoration(nonce=2, checkpoint=checkpoint(1).id, memory=True))
    await restored(node, paused, 2)
    await node.shows(intent.id, Phase.PAUSED, paused.generation)
    check_tidy(node, intent.id)


async def test_a_checkpoint_that_is_deleted_leaves_no_layers(node):
    intent = await off(node, vm_intent(disk_bytes=SIZE))
    numbers = (1, 2, 3)
    for number in numbers:
        fill(root_path(node, intent.id), "abc"[number - 1], offset=number * 65536)
        node.want(intent := newer(intent, checkpoints=(*intent.checkpoints, checkpoint(number))))
        await kept(node, intent.id, number, intent.generation)
    assert layers(node, intent.id) == 4
    node.want(intent := newer(intent, checkpoints=tuple(checkpoint(n, desired=Wish.ABSENT) for n in numbers)))
    await told(node, intent.id, lambda seen: seen.generation == intent.generation and not seen.checkpoints)
    await until(lambda: layers(node, intent.id) == 2)
    assert content(root_path(node, intent.id))[1:4] == "abc"
    assert not (node.root / "vms" / intent.id / "checkpoints").exists()
    check_tidy(node, intent.id)


async def test_layers_of_a_running_machine_are_merged(node):
    intent = vm_intent(disk_bytes=SIZE)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    for number in (1, 2):
        node.want(intent := newer(intent, checkpoints=(*intent.checkpoints, checkpoint(number))))
        await kept(node, intent.id, number, intent.generation)
    node.want(intent := newer(intent, checkpoints=tuple(checkpoint(n, desired=Wish.ABSENT) for n in (1, 2))))
    await until(lambda: layers(node, intent.id) == 2)
    check_tidy(node, intent.id)


async def test_who_is_interrupted_while_layers_are_merged_goes_on_with_that(node, monkeypatch):
    intent = vm_intent(disk_bytes=SIZE)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    for number in (1, 2):
        node.want(intent := newer(intent, checkpoints=(*intent.checkpoints, checkpoint(number))))
        await kept(node, intent.id, number, intent.generation)
    began, may_end = asyncio.Event(), asyncio.Event()
    merge = GuestWriter.merge

    async def slow(writer, layer, taker):
        began.set()
        await may_end.wait()
        await merge(writer, layer, taker)

    monkeypatch.setattr(GuestWriter, "merge", slow)
    node.want(intent := newer(intent, checkpoints=tuple(checkpoint(n, desired=Wish.ABSENT) for n in (1, 2))))
    await began.wait()
    may_end.set()
    node.want(newer(intent))
    await until(lambda: layers(node, intent.id) == 2)
    check_tidy(node, intent.id)


async def test_a_machine_from_a_checkpoint_is_one_of_its_own_and_outlives_its_origin(node):
    origin = await off(node, vm_intent(disk_bytes=SIZE))
    fill(root_path(node, origin.id), "a")
    node.want(origin := newer(origin, checkpoints=(checkpoint(1),)))
    await kept(node, origin.id, 1, origin.generation)
    fill(root_path(node, origin.id), "b")
    source = CheckpointSource(vm=origin.id, checkpoint=checkpoint(1).id)
    clone = vm_intent(disk_bytes=2 * SIZE, source=source)
    node.want(origin, clone)
    await node.shows(clone.id, Phase.RUNNING)
    assert content(root_path(node, clone.id))[0] == "a"
    assert (await node.host.roots.look(clone.id)).size_bytes == 2 * SIZE
    fill(root_path(node, clone.id), "c")
    assert content(root_path(node, origin.id))[0] == "b"
    node.want(newer(origin, Desired.ABSENT), clone)
    await node.shows(origin.id, Phase.ABSENT, origin.generation + 1)
    node.want(clone, teardown_allowed=True)
    await until(lambda: not (node.root / "vms" / origin.id).exists())
    assert content(root_path(node, clone.id))[0] == "c"
    node.want(again := newer(clone, reboot_nonce=1))
    await told(node, clone.id, lambda seen: seen.reboot_nonce == 1 and seen.phase is Phase.RUNNING)
    assert content(root_path(node, again.id))[0] == "c"
    check_tidy(node, clone.id)


async def test_nothing_blank_is_made_instead_of_a_checkpoint_that_is_gone(node):
    origin = vm_intent().id
    clone = vm_intent(disk_bytes=SIZE, source=CheckpointSource(vm=origin, checkpoint=checkpoint(1).id))
    node.want(clone)
    seen = await told(node, clone.id, lambda seen: seen.failure is not None)
    assert (seen.failure.code, seen.failure.failure_class) == ("checkpoint_missing", FailureClass.BLOCKED)
    assert not root_path(node, clone.id).exists()


@pytest.mark.parametrize("changed", ["volume", "memory", "nothing"])
async def test_what_cannot_be_put_back_changes_nothing_and_the_machine_goes_on(node, changed):
    intent = await with_volume(node, vm_intent(disk_bytes=SIZE))
    node.want(intent)
    first = await node.shows(intent.id, Phase.RUNNING)
    fill(root_path(node, intent.id), "a")
    node.want(intent := newer(intent, checkpoints=(checkpoint(1, volumes=(DATA,), memory=True),)))
    await kept(node, intent.id, 1, intent.generation)
    fill(root_path(node, intent.id), "b")
    changes = {
        "volume": ({"volumes": ()}, "checkpoint_volume_detached"),
        "memory": ({"spec": vm_intent(disk_bytes=SIZE, memory_bytes=128 << 20).spec}, "machine_differs"),
        "nothing": ({}, "checkpoint_missing"),
    }
    change, code = changes[changed]
    number = 2 if changed == "nothing" else 1
    back = newer(intent, restore=Restoration(nonce=1, checkpoint=checkpoint(number).id, memory=True), **change)
    node.want(back)
    seen = await told(node, intent.id, lambda seen: seen.failure is not None)
    assert (seen.failure.code, seen.failure.failure_class) == (code, FailureClass.PERMANENT)
    assert (seen.restore_nonce, seen.phase) == (1, Phase.RUNNING)
    assert seen.run.id == first.run.id
    assert content(root_path(node, intent.id))[0] == "b"
    node.want(again := newer(back))
    await told(node, intent.id, lambda seen: seen.generation == again.generation and seen.failure is None)


async def test_a_checkpoint_that_cannot_be_taken_says_why_and_is_not_tried_again(node):
    intent = await off(node, vm_intent(disk_bytes=SIZE))
    node.want(intent := newer(intent, checkpoints=(checkpoint(1, memory=True), checkpoint(2, volumes=(DATA,)))))
    for number, code in ((1, "memory_not_saved"), (2, "volume_not_ready")):
        seen = await kept(node, intent.id, number, intent.generation)
        assert seen.failure is not None
        assert (seen.failure.code, bool(seen.failure.hint)) == (code, True)
    assert parts(node, intent.id) == set()
    await node.restart()
    node.want(intent := newer(intent, Desired.RUNNING))
    seen = await node.shows(intent.id, Phase.RUNNING, intent.generation)
    assert [one.failure is None for one in seen.checkpoints] == [False, False]
    assert seen.failure is None
    node.want(intent := newer(intent, checkpoints=tuple(checkpoint(n, desired=Wish.ABSENT) for n in (1, 2))))
    await told(node, intent.id, lambda seen: seen.generation == intent.generation and not seen.checkpoints)
    check_tidy(node, intent.id)


async def test_what_was_asked_for_before_is_not_done_again_to_a_machine_that_is_new_here(node):
    intent = vm_intent(restore=Restoration(nonce=3, checkpoint=checkpoint(1).id))
    node.want(intent)
    seen = await node.shows(intent.id, Phase.RUNNING)
    assert (seen.restore_nonce, seen.failure) == (3, None)
