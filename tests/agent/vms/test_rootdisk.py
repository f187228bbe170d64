"""What the root disk of a machine is, as the next node of the machine is told. Real disks, the fake hypervisor."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from nacre.agent.vms import rootdisk
from nacre.model.checkpoints import Restoration
from nacre.model.vms import Desired, Phase
from nacre.model.volumes import Wish
from support.intents import newer, vm_intent
from support.kept import SIZE, checkpoint, kept, root_path, told
from support.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.host]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


async def test_a_disk_is_as_large_as_the_guest_sees_it_whatever_lies_under_it(node):
    intent = vm_intent(disk_bytes=SIZE)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    assert await rootdisk.sizes(intent.id, node.host) == {"root": SIZE}
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),)))
    await kept(node, intent.id, 1, intent.generation)
    assert await rootdisk.sizes(intent.id, node.host) == {"root": SIZE}
    larger = msgspec.structs.replace(intent.spec, disk_bytes=2 * SIZE)
    node.want(intent := newer(intent, Desired.STOPPED, spec=larger))
    await node.shows(intent.id, Phase.STOPPED, intent.generation)
    back = Restoration(nonce=1, checkpoint=checkpoint(1).id)
    node.want(intent := newer(intent, Desired.RUNNING, restore=back))
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1, desired=Wish.ABSENT),)))
    await told(node, intent.id, lambda seen: seen.generation == intent.generation and not seen.checkpoints)
    assert not (node.root / "vms" / intent.id / "root.qcow2").exists()
    assert root_path(node, intent.id).exists()
    assert await rootdisk.sizes(intent.id, node.host) == {"root": 2 * SIZE}


async def test_a_machine_without_a_disk_has_none(node):
    intent = vm_intent()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    assert await rootdisk.sizes(intent.id, node.host) == {}
