"""A machine whose root disk was made and is not there: nothing is made anew, and it goes on when the disk is back."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.records import Record
from nacre.agent.storage.layers import MANIFEST
from nacre.agent.vms import rootdisk
from nacre.model.checkpoints import Restoration
from nacre.model.convergence import FailureClass
from nacre.model.vms import Desired, Phase, VmIntent
from support.intents import newer, vm_intent
from support.kept import SIZE, check_tidy, checkpoint, kept, machine, root_path, told
from support.node import Node
from support.volumes import content, fill
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


async def off(node: Node, **changes: object) -> VmIntent:
    """A machine that has run, with something on its disk."""
    intent = vm_intent(disk_bytes=SIZE, **changes)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    node.want(intent := newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, intent.generation)
    fill(root_path(node, intent.id), "a")
    return intent


def unmount(node: Node) -> Path:
    """Have nothing where the folders of machines are mounted, as after a reboot, and return where they are."""
    away = node.root / "away"
    (node.root / "vms").rename(away)
    (node.root / "vms").mkdir()
    return away


def mount(node: Node) -> None:
    """Have them there again."""
    (node.root / "vms").rmdir()  # nobody has made anything in it
    (node.root / "away").rename(node.root / "vms")


async def missing(node: Node, intent: VmIntent) -> None:
    """Wait until it is told that the disk is not there."""
    seen = await told(
        node,
        intent.id,
        lambda seen: seen.generation == intent.generation and seen.failure and seen.failure.attempts > 1,
    )
    assert (seen.failure.code, seen.failure.failure_class) == ("disk_missing", FailureClass.BLOCKED)
    assert "mounted" in seen.failure.hint


@pytest.mark.parametrize("agent", ["new", "older"])
async def test_it_is_not_made_anew_and_the_machine_starts_once_it_is_back(node: Node, agent: str) -> None:
    intent = await off(node)
    assert node.record(intent.id).root_made
    unmount(node)
    if agent == "older":  # which did not write down that it was made
        node.records.save(msgspec.structs.replace(node.record(intent.id), root_made=None))
    await node.restart()
    node.want(intent := newer(intent, Desired.RUNNING))
    await missing(node, intent)
    assert list((node.root / "vms").iterdir()) == []
    mount(node)
    seen = await node.shows(intent.id, Phase.RUNNING, intent.generation)
    assert seen.failure is None
    assert content(root_path(node, intent.id))[0] == "a"


async def test_that_it_goes_while_the_agent_runs_is_seen_as_well(node: Node) -> None:
    intent = await off(node)
    unmount(node)
    node.want(intent := newer(intent, Desired.RUNNING))
    await missing(node, intent)
    mount(node)
    await node.shows(intent.id, Phase.RUNNING, intent.generation)


async def test_layers_without_what_says_how_they_belong_together_are_no_disk(node: Node) -> None:
    intent = await off(node)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),)))
    await kept(node, intent.id, 1, intent.generation)
    place = node.root / "vms" / intent.id
    (place / "root.qcow2").unlink(missing_ok=True)
    (place / "root" / MANIFEST).unlink()
    node.want(intent := newer(intent, Desired.RUNNING))
    await missing(node, intent)
    assert not (place / "root.qcow2").exists()


async def test_its_checkpoints_are_not_taken_again_and_are_there_when_it_is_back(node: Node) -> None:
    intent = await off(node)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),)))
    before = await kept(node, intent.id, 1, intent.generation)
    fill(root_path(node, intent.id), "b")
    unmount(node)
    await node.restart()
    node.want(intent := newer(intent))
    await missing(node, intent)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1), checkpoint(2))))
    await missing(node, intent)
    back = Restoration(nonce=1, checkpoint=checkpoint(1).id)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),), restore=back))
    await missing(node, intent)
    assert list((node.root / "vms").iterdir()) == []
    assert node.newest(intent.id).restore_nonce == 0
    mount(node)
    seen = await told(node, intent.id, lambda seen: seen.restore_nonce == 1 and seen.failure is None)
    assert seen.checkpoints == (before,)
    assert content(root_path(node, intent.id))[0] == "a"
    check_tidy(node, intent.id)


@pytest.mark.parametrize("runs", [True, False])
async def test_the_machine_can_be_stopped_and_deleted(node: Node, runs: bool) -> None:
    intent = await off(node)
    if runs:
        node.want(intent := newer(intent, Desired.RUNNING))
        await node.shows(intent.id, Phase.RUNNING, intent.generation)
    unmount(node)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),)))
    await missing(node, intent)
    node.want(intent := newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, intent.generation)
    await until(lambda: node.pids() == [])
    node.want(intent := newer(intent, Desired.ABSENT))
    await node.shows(intent.id, Phase.ABSENT, intent.generation)
    assert list((node.root / "vms").iterdir()) == []
    node.want()
    await until(lambda: intent.id not in node.executor.machines)


async def test_a_machine_that_was_deleted_is_made_as_a_new_one(node: Node) -> None:
    intent = await off(node)
    node.want(intent := newer(intent, Desired.ABSENT))
    await node.shows(intent.id, Phase.ABSENT, intent.generation)
    node.want(intent := newer(intent, Desired.RUNNING))
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    assert content(root_path(node, intent.id))[0] == "\0"


async def test_it_is_on_record_only_once_it_is_there(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    intent = vm_intent(disk_bytes=SIZE)
    ensure, fails = type(node.host.storage).ensure, [True]

    async def broken(self, *words, **named):
        if fails:
            raise OSError(5, "broken")
        return await ensure(self, *words, **named)

    monkeypatch.setattr(type(node.host.storage), "ensure", broken)
    node.want(intent)
    await told(node, intent.id, lambda seen: seen.failure is not None and seen.failure.code == "node_error")
    await node.restart()
    node.want(intent)
    await told(node, intent.id, lambda seen: seen.failure is not None and seen.failure.attempts > 1)
    assert not node.record(intent.id).root_made
    fails.clear()
    await node.shows(intent.id, Phase.RUNNING)
    assert node.record(intent.id).root_made


async def test_one_that_was_made_before_that_was_on_record_is_kept(node: Node) -> None:
    intent = await off(node)
    await node.executor.close()
    node.records.save(Record(id=intent.id, intent=intent, found_at=node.host.clock.now()))
    await node.restart()
    node.want(intent := newer(intent, Desired.RUNNING))
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    assert content(root_path(node, intent.id))[0] == "a"
    assert node.record(intent.id).root_made


async def test_a_machine_without_a_root_disk_needs_none_and_may_be_given_one(node: Node) -> None:
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    node.want(intent := newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, intent.generation)
    unmount(node)
    node.want(intent := newer(intent, Desired.RUNNING))
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    node.want(intent := newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, intent.generation)
    spec = msgspec.structs.replace(intent.spec, disk_bytes=SIZE)
    node.want(intent := newer(intent, Desired.RUNNING, spec=spec))
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    assert root_path(node, intent.id).exists()


async def test_one_that_goes_while_the_image_is_fetched_is_not_replaced(node: Node) -> None:
    intent = await off(node)
    unmount(node)
    found = machine(node, intent)
    found.note(root_made=True)
    image = await node.host.images.fetch(intent.image)
    node.host.place(intent.id).mkdir()
    with pytest.raises(DriverError) as caught:
        await rootdisk.ready(found, intent, image, node.host)
    assert caught.value.code == "disk_missing"
    assert list(node.host.place(intent.id).iterdir()) == []
