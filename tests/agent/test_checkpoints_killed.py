"""An agent that is killed at any step of a checkpoint, a restore or a clone: the next one finds old or new, no litter.

A process with an executor of its own is killed just before its n-th effect on the disk, for every n. Then another agent
comes, which either still wants the same or does not any more.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nacre.agent.vms import rootdisk
from nacre.model.checkpoints import CheckpointSource, Restoration
from nacre.model.ids import VmId
from nacre.model.vms import VmIntent
from nacre.model.volumes import Wish
from support.intents import newer, vm_intent
from support.kept import SIZE, check_tidy, disks, machine, parts, root_path
from support.killing import ORIGIN, WANTED, each_kill, prepared, wanted, with_checkpoint
from support.node import Node
from support.volumes import content

pytestmark = [pytest.mark.host, pytest.mark.timeout(590)]

CLONE = vm_intent(disk_bytes=SIZE, source=CheckpointSource(vm=ORIGIN, checkpoint=WANTED.id))


async def cloned(node: Node, intent: VmIntent) -> None:
    """Make the disk of a machine from a checkpoint of another."""
    node.host.place(CLONE.id).mkdir(exist_ok=True)
    image = await node.host.images.fetch(intent.image)
    await rootdisk.ready(machine(node, CLONE), CLONE, image, node.host)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    made = Path(tempfile.mkdtemp(prefix="nacre-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_checkpoint_is_there_or_not(place):
    first = place / "first"
    first.mkdir()
    before = asyncio.run(prepared(first))
    intent = newer(before, checkpoints=(WANTED,))
    for number, root in each_kill(place, first, wanted, intent):
        node = Node(root=root)
        assert disks(node, intent.id) == "aa", number
        if number % 2:
            asyncio.run(wanted(node, intent))
            assert parts(node, intent.id) == {WANTED.id}, number
        else:
            gone = newer(intent, checkpoints=(msgspec.structs.replace(WANTED, desired=Wish.ABSENT),))
            asyncio.run(wanted(node, gone))
            assert parts(node, intent.id) == set(), number
        assert disks(node, intent.id) == "aa", number
        check_tidy(node, intent.id)


def test_a_machine_is_put_back_as_a_whole(place):
    first = place / "first"
    first.mkdir()
    before = asyncio.run(with_checkpoint(first))
    intent = newer(before, restore=Restoration(nonce=1, checkpoint=WANTED.id))
    for number, root in each_kill(place, first, wanted, intent):
        node = Node(root=root)
        record = node.records.load_all()[intent.id]
        if record.restore_nonce == 1:
            assert disks(node, intent.id) == "aa", number
        asyncio.run(wanted(node, intent))
        assert disks(node, intent.id) == "aa", number
        check_tidy(node, intent.id)


def test_a_checkpoint_goes_as_a_whole(place):
    first = place / "first"
    first.mkdir()
    before = asyncio.run(with_checkpoint(first))
    intent = newer(before, checkpoints=(msgspec.structs.replace(WANTED, desired=Wish.ABSENT),))
    for number, root in each_kill(place, first, wanted, intent):
        node = Node(root=root)
        asyncio.run(wanted(node, intent))
        assert parts(node, intent.id) == set(), number
        assert disks(node, intent.id) == "bb", number
        check_tidy(node, intent.id)


def test_the_disk_of_a_new_machine_is_whole_or_not_there(place):
    first = place / "first"
    first.mkdir()
    intent = asyncio.run(with_checkpoint(first))
    for number, root in each_kill(place, first, cloned, intent):
        node = Node(root=root)
        for vm in (intent.id, CLONE.id):
            check_begun(node, vm)
        asyncio.run(cloned(node, intent))
        assert content(root_path(node, CLONE.id))[0] == "a", number
        assert disks(node, intent.id) == "bb", number
        for vm in (intent.id, CLONE.id):
            check_tidy(node, vm)


def check_begun(node: Node, vm: VmId) -> None:
    """What has the name of a root disk is one."""
    if (node.root / "vms" / vm / "root").exists():
        assert content(root_path(node, vm))[0] in {"a", "b"}
