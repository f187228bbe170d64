"""A machine that began while a clone shared layers of its volume may merge them when the clone is gone. Real QEMU.

Its process has a user of its own, who may only read what is shared.
"""

import os
from collections.abc import Iterator

import pytest

from nacre.model.volumes import SourceKind, VolumeSource, Wish
from support.struck import COPY, DATA, Bench, bench, counting, snapshot, volume_intent

pytestmark = [pytest.mark.host, pytest.mark.timeout(240)]


@pytest.fixture
def node() -> Iterator[Bench]:
    with bench() as made:
        counting(made)
        made.agent.start()
        yield made
        made.agent.stop()


def settle(node: Bench, what: str) -> None:
    node.want()
    node.surely(node.settled, what)


def test_what_a_clone_shared_is_merged_when_it_is_gone(node: Bench) -> None:
    snapshots = tuple(snapshot(number) for number in (1, 2, 3))
    for number in range(len(snapshots)):
        node.change_volume(snapshots=snapshots[: number + 1])
        settle(node, "a snapshot more")
        node.counts_on()
    node.volumes[COPY] = volume_intent(COPY, source=VolumeSource(kind=SourceKind.VOLUME, volume=DATA))
    settle(node, "a clone")

    life = node.pid()
    os.kill(life, 9)
    node.surely(lambda: node.pid(missing=life) != life, "it runs again")
    settle(node, "it runs again")

    node.change_volume(COPY, desired=Wish.ABSENT)
    settle(node, "the clone is gone")
    del node.volumes[COPY]
    node.change_volume(snapshots=(snapshots[0], snapshot(2, Wish.ABSENT), snapshots[2]))
    node.want()
    node.surely(lambda: node.settled() and len(node.layers(node.folder())) == 3, "only what is kept stays under it")
    node.counts_on()
    node.check_tidy()
    node.check_opened()
