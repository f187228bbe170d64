"""An agent that is killed at any step of sending a disk: nothing is lost, nothing lies about, it can be sent again."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nacre.model.vms import VmIntent
from support.exporting import exported, exports, left, letter
from support.kept import check_tidy, disks, parts
from support.killing import WANTED, each_kill, with_checkpoint
from support.node import Node

pytestmark = [pytest.mark.host, pytest.mark.timeout(590)]


async def sent(node: Node, intent: VmIntent) -> None:
    """Begin as an agent does, send the disk of the checkpoint, and look at what has come."""
    source = exports(node)
    await source.begin()
    assert left(node) == []
    came = await exported(source, intent.id, WANTED.id)
    assert letter(came, node.root) == "a"


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="nacre-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_disk_is_sent_whole_by_the_agent_that_comes_next(place: Path) -> None:
    first = place / "first"
    first.mkdir()
    intent = asyncio.run(with_checkpoint(first))
    littered = 0
    for number, root in each_kill(place, first, sent, intent):
        node = Node(root=root)
        littered += bool(left(node))
        assert disks(node, intent.id) == "bb", number
        asyncio.run(sent(node, intent))
        assert left(node) == [], number
        assert (disks(node, intent.id), parts(node, intent.id)) == ("bb", {WANTED.id}), number
        check_tidy(node, intent.id)
    assert littered, "no agent was killed with a copy on the disk"
