"""An agent that is killed at any step of a checkpoint, a restore or a clone: the next one finds old or new, no litter.

A process with an executor of its own is killed just before its n-th effect on the disk, for every n. Then another agent
comes, which either still wants the same or does not any more.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nacre.agent.vms import rootdisk
from nacre.model.checkpoints import CheckpointSource, Restoration
from nacre.model.ids import VmId
from nacre.model.vms import Desired, Phase, VmIntent
from nacre.model.volumes import Wish
from support.intents import newer, vm_intent
from support.kept import DATA, SIZE, check_tidy, checkpoint, disks, parts, root_path, volume_path, with_volume
from support.node import Node
from support.volumes import content, fill, strike_at
from support.waiting import until

pytestmark = [pytest.mark.host, pytest.mark.timeout(590)]

WANTED = checkpoint(1, volumes=(DATA,))
ORIGIN = vm_intent().id
CLONE = vm_intent(disk_bytes=SIZE, source=CheckpointSource(vm=ORIGIN, checkpoint=WANTED.id))

Act = Callable[[Node, VmIntent], Awaitable[None]]


async def wanted(node: Node, intent: VmIntent) -> None:
    """Have an agent do all that is wanted of a machine that is off, and leave."""
    await node.pools.sweep()  # as the executor of volumes does when an agent begins
    await node.begin()
    node.want(intent)

    def settled() -> bool:
        seen = node.newest(intent.id)
        if seen is None or seen.generation != intent.generation or seen.phase is not Phase.STOPPED:
            return False
        there = {one.id for one in seen.checkpoints}
        nonce = 0 if intent.restore is None else intent.restore.nonce
        kept = all((one.id in there) is (one.desired is Wish.PRESENT) for one in intent.checkpoints)
        return kept and seen.restore_nonce >= nonce and not node.executor.machines[intent.id].checkpoints.mergeable

    await until(settled, timeout=60)
    await node.executor.close()
    node.consoles.close()


async def cloned(node: Node, intent: VmIntent) -> None:
    """Make the disk of a machine from a checkpoint of another."""
    node.host.place(CLONE.id).mkdir(exist_ok=True)
    image = await node.host.images.fetch(intent.image)
    await rootdisk.ready(CLONE, image, node.host)


async def prepared(root: Path) -> VmIntent:
    """A machine that is off, with a disk and a volume."""
    node = Node(root=root)
    intent = await with_volume(node, vm_intent(ORIGIN, Desired.STOPPED, disk_bytes=SIZE))
    node.host.place(intent.id).mkdir()
    await node.host.storage.ensure(node.host.place(intent.id), "root", base=None, size_bytes=SIZE)
    await wanted(node, intent)
    fill(root_path(node, intent.id), "a")
    fill(volume_path(node), "a")
    return intent


async def with_checkpoint(root: Path) -> VmIntent:
    """The same, with a checkpoint, and changed since."""
    intent = newer(await prepared(root), checkpoints=(WANTED,))
    node = Node(root=root)
    await wanted(node, intent)
    fill(root_path(node, intent.id), "b")
    fill(volume_path(node), "b")
    return intent


def killed(root: Path, act: Act, intent: VmIntent, number: int) -> bool:
    """Let a process do it and be killed before its n-th effect. False if it came to the end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            node = Node(root=root)
            strike_at(number)
            asyncio.run(act(node, intent))  # type: ignore[arg-type]
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0
    return os.WIFSIGNALED(ended)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    made = Path(tempfile.mkdtemp(prefix="nacre-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def each_kill(place: Path, first: Path, act: Act, intent: VmIntent) -> Iterator[tuple[int, Path]]:
    """Yield a copy of a node for every effect before which its agent was killed."""
    number = 1
    while True:
        root = place / str(number)
        shutil.copytree(first, root)
        if not killed(root, act, intent, number):
            assert number > 5, "nothing was ever killed"
            return
        yield number, root
        shutil.rmtree(root)
        number += 1


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
