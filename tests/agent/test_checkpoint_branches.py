"""Layers of a root disk that the guest does not read are merged without it while it runs on. Real QEMU."""

from collections.abc import Iterator

import pytest

from nacre.agent.storage.layers import chain, read, tree
from nacre.model.checkpoints import Restoration
from nacre.model.vms import Desired
from nacre.model.volumes import Wish
from support import counter
from support.struck import Bench, bench, checkpoint, counting, kept_layer

pytestmark = [pytest.mark.host, pytest.mark.timeout(240)]


@pytest.fixture
def node() -> Iterator[Bench]:
    with bench() as made:
        counting(made, volume=False)
        made.agent.start()
        yield made
        made.agent.stop()


def settle(node: Bench, what: str) -> None:
    node.want()
    node.surely(node.settled, what)


def branch(node: Bench, top: str) -> list[str]:
    """What a checkpoint's root disk is made of."""
    manifest = read(node.root_folder)
    assert manifest is not None
    return chain(tree(node.root_folder, manifest), kept_layer(node.root_folder, top).name)


def test_a_branch_that_was_left_by_a_restore_is_merged_while_the_machine_runs(node: Bench) -> None:
    kept = tuple(checkpoint(number, volumes=()) for number in (1, 2, 3))
    for number in range(len(kept)):
        node.change(checkpoints=kept[: number + 1])
        settle(node, "a checkpoint more")
        node.counts_on()
    node.change(desired=Desired.STOPPED, restore=Restoration(nonce=1, checkpoint=kept[0].id))
    settle(node, "it is put back")
    node.change(desired=Desired.RUNNING)
    settle(node, "it runs again")
    assert len(branch(node, kept[2].id)) == 3

    life, saw = node.pid(), counter.newest(kept_layer(node.root_folder, kept[2].id))
    node.change(checkpoints=(kept[0], checkpoint(2, volumes=(), desired=Wish.ABSENT), kept[2]))
    node.want()
    node.surely(lambda: node.settled() and len(branch(node, kept[2].id)) == 2, "what nobody needs is merged")
    assert counter.newest(kept_layer(node.root_folder, kept[2].id)) == saw
    assert node.pid() == life
    node.counts_on()
    node.check_tidy()
    node.check_opened()
