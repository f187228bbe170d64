"""Agents that are killed just before their n-th effect on the disk, in a process of their own, for every n.

What is there before: a machine that is off, with a disk and a volume, and then with a checkpoint of both.
"""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from nacre.model.vms import Desired, Phase, VmIntent
from nacre.model.volumes import Wish
from support.intents import newer, vm_intent
from support.kept import DATA, SIZE, checkpoint, root_path, volume_path, with_volume
from support.node import Node
from support.volumes import fill, strike_at
from support.waiting import until

WANTED = checkpoint(1, volumes=(DATA,))
ORIGIN = vm_intent().id

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
