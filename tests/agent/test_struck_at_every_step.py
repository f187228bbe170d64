"""Struck at any step of what is done to a machine that runs: old or new, never a third, and the guest never notices.

Real QEMU, and a guest that finds out by itself whether its disks are as it left them. Its agent is killed before its
n-th effect on the disk or order to QEMU, for every n; the next one still wants the same, or does not any more. Or it is
not killed but told at that moment that nothing of it is wanted. Or the guest's process is what is killed. With
`NACRE_EVERY_STEP` n is every number; without it one of the first three, another for each, and every eighteenth from it.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import pytest

from nacre.agent.storage.layers import read
from nacre.model.checkpoints import CheckpointSource, Restoration
from nacre.model.units import MIB
from nacre.model.vms import Desired
from nacre.model.volumes import SourceKind, VolumeAttachment, VolumeSource, Wish
from nacre.protocol.messages import NodeIntent
from support import counter
from support.intents import newer, vm_intent
from support.struck import (
    COPY,
    DATA,
    Bench,
    bench,
    checkpoint,
    counting,
    kept_layer,
    prints,
    snapshot,
    ticks,
    volume_intent,
)
from support.thorough import EVERY_STEP

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]


FIRSTS, STRIDE = (1, 1) if EVERY_STEP else (3, 18)


def nothing(bench: Bench) -> None:
    """Nothing is to be done."""
    del bench


def always(bench: Bench) -> bool:
    """It is so."""
    del bench
    return True


@dataclass(frozen=True)
class Act:
    """Something that is done to a machine, and how it is taken back."""

    ask: Callable[[Bench], None]
    withdraw: Callable[[Bench], None]
    check: Callable[[Bench], None] = nothing
    """What is there when all of it is done. Raises AssertionError."""
    back: Callable[[Bench], bool] = always
    """Whether nothing of it is left, when it was taken back."""
    before: Callable[[Bench], None] = nothing
    """What it needs."""
    survives: bool = True
    """Whether the process of the guest is the same afterwards."""


def name_of(bench: Bench, *, new: bool = False) -> int:
    """The number of what this round is about."""
    if new:
        bench.number = next(bench.numbers)
    return bench.number


# Snapshots and clones of a volume


def take(bench: Bench) -> None:
    bench.change_volume(snapshots=(snapshot(name_of(bench, new=True)),))


def untake(bench: Bench) -> None:
    bench.change_volume(snapshots=(snapshot(name_of(bench), Wish.ABSENT),))


def taken(bench: Bench) -> None:
    assert counter.newest(kept_layer(bench.folder(), snapshot(name_of(bench)).id)) > 0


def flat(bench: Bench) -> bool:
    """What the snapshot kept is merged: at most the lowest layer is left below the one that is written."""
    return len(bench.layers(bench.folder())) <= 2


def clone(bench: Bench) -> None:
    name_of(bench, new=True)
    bench.volumes[COPY] = volume_intent(COPY, source=VolumeSource(kind=SourceKind.VOLUME, volume=DATA))


def unclone(bench: Bench) -> None:
    if COPY in bench.volumes:
        bench.change_volume(COPY, desired=Wish.ABSENT)


def cloned(bench: Bench) -> None:
    (lowest, *_) = [name for name in bench.layers(bench.folder(COPY)) if name != bench.layers(bench.folder(COPY))[0]]
    assert counter.newest(bench.folder(COPY) / lowest) > 0


def drop(bench: Bench) -> None:
    untake(bench)


def another(bench: Bench) -> None:
    """Have a snapshot to be dropped."""
    take(bench)
    bench.want()
    bench.surely(bench.settled, "a snapshot")
    bench.counts_on()


# Sizes


def grow(bench: Bench) -> None:
    bench.change_volume(size_bytes=(1 + name_of(bench, new=True)) * MIB)


def ungrow(bench: Bench) -> None:
    """A user cannot take that back: volumes never shrink."""
    bench.change_volume(size_bytes=bench.volumes[DATA].size_bytes)


def grow_root(bench: Bench) -> None:
    bench.respec(disk_bytes=(1 + name_of(bench, new=True)) * MIB)


def more_cpus(bench: Bench) -> None:
    bench.respec(cpus=1 + name_of(bench, new=True))


def more_memory(bench: Bench) -> None:
    bench.respec(memory_bytes=64 * MIB + name_of(bench, new=True) * 128 * MIB)


def unrespec(bench: Bench) -> None:
    """Going back is not possible while it runs, so somebody only asks again."""
    bench.change()


def sized(bench: Bench) -> None:
    bench.surely(lambda: has_all(bench), "it has what it should have")  # that it was accepted is told before


def has_all(bench: Bench) -> bool:
    """Whether the process has the CPUs, the memory and the disk that are wanted."""
    run, spec = bench.record().run, bench.vms[bench.origin].spec
    assert run is not None
    assert run.info.config is not None
    there = (run.info.cpus, run.info.memory_bytes, run.info.config.disk_bytes, run.info.config.refused)
    return there == (spec.cpus, spec.memory_bytes, spec.disk_bytes, ())


# Checkpoints


def keep(bench: Bench, *, memory: bool = False) -> None:
    bench.change(checkpoints=(checkpoint(name_of(bench, new=True), memory=memory),))
    bench.change_volume(checkpoints=(checkpoint(name_of(bench)).id,))


def keep_memory(bench: Bench) -> None:
    keep(bench, memory=True)


def unkeep(bench: Bench) -> None:
    bench.change(checkpoints=(checkpoint(name_of(bench), desired=Wish.ABSENT),))
    bench.change_volume(checkpoints=())


def kept(bench: Bench) -> None:
    wanted = checkpoint(name_of(bench)).id
    on_root, on_volume = [counter.newest(kept_layer(folder, wanted)) for folder in (bench.root_folder, bench.folder())]
    assert on_root - on_volume in {0, 1}, "disks of two moments"


def both_flat(bench: Bench) -> bool:
    return flat(bench) and len(bench.layers(bench.root_folder)) <= 2


# Restores, and machines made from checkpoints


def with_checkpoint(bench: Bench) -> None:
    """Have a checkpoint to be restored, with memory, and let the guest go on."""
    if not bench.vms[bench.origin].checkpoints:
        keep_memory(bench)
        bench.want()
        bench.surely(bench.settled, "a checkpoint")
    bench.counts_on()


def restore(bench: Bench, *, memory: bool = True) -> None:
    (one,) = bench.vms[bench.origin].checkpoints
    bench.change(restore=Restoration(nonce=name_of(bench, new=True), checkpoint=one.id, memory=memory))


def restore_disks(bench: Bench) -> None:
    restore(bench, memory=False)


def only_disks(bench: Bench) -> None:
    """It was started from what the disks were."""
    assert counter.newest(bench.root_folder / bench.layers(bench.root_folder)[1]) > 0


def derive(bench: Bench) -> None:
    (one,) = bench.vms[bench.origin].checkpoints
    name_of(bench, new=True)
    origin = bench.vms[bench.origin]
    bench.volumes[COPY] = volume_intent(COPY)
    twin = vm_intent(spec=origin.spec, force_stop=True, volumes=(VolumeAttachment(volume=COPY),))
    source = CheckpointSource(vm=origin.id, checkpoint=one.id)
    bench.vms[twin.id] = msgspec.structs.replace(twin, image=origin.image, source=source)


def underive(bench: Bench) -> None:
    for vm, intent in bench.vms.items():
        if vm != bench.origin:
            bench.vms[vm] = newer(intent, Desired.ABSENT, volumes=())
    unclone(bench)


def derived(bench: Bench) -> None:
    (twin,) = [vm for vm in bench.vms if vm != bench.origin]
    bench.surely(lambda: ticks(bench.printed(twin)) > 2, "the twin counts")
    assert prints(bench.printed(twin)) == (1, False)


ACTS = {
    "snapshot": Act(take, untake, taken, flat),
    "drop and merge": Act(drop, drop, before=another, back=flat),
    "clone": Act(clone, unclone, cloned, flat),
    "grow": Act(grow, ungrow),
    "grow the root disk": Act(grow_root, unrespec, sized),
    "add CPUs": Act(more_cpus, unrespec, sized),
    "add memory": Act(more_memory, unrespec, sized),
    "checkpoint": Act(keep, unkeep, kept, both_flat),
    "checkpoint with memory": Act(keep_memory, unkeep, kept, both_flat),
    "restore with memory": Act(restore, unrespec, before=with_checkpoint, survives=False),
    "restore disks": Act(restore_disks, unrespec, only_disks, before=with_checkpoint, survives=False),
    "machine from a checkpoint": Act(derive, underive, derived, before=with_checkpoint),
}


@pytest.fixture
def node() -> Iterator[Bench]:
    with bench() as made:
        counting(made)
        yield made


@pytest.mark.parametrize("name", list(ACTS))
def test_who_is_killed_at_any_step_leaves_old_or_new_and_the_guest_as_it_was(node: Bench, name: str) -> None:
    act, life = ACTS[name], identity(node)
    for number in steps(name):
        prepared(node, act)
        act.ask(node)
        node.agent.start(number)
        node.want()
        done = node.until(node.settled, name)
        when = f"{name}, killed before {number}: {node.agent.struck}"
        readable(node)
        node.agent.stop()
        node.agent.start()
        if not done and number % 2:
            act.withdraw(node)
        node.want()
        node.surely(node.settled, when)
        if done or not number % 2:
            act.check(node)
        undone(node, act, when)
        assert identity(node) == life or not act.survives, when
        if done:
            assert number > FIRSTS, "nothing was ever killed"
            return


@pytest.mark.parametrize("name", list(ACTS))
def test_what_is_not_wanted_any_more_at_any_step_is_old_or_new(node: Bench, name: str) -> None:
    act, life = ACTS[name], identity(node)
    for number in steps(name, 1):
        prepared(node, act)
        act.ask(node)
        asked = node.intent()
        act.withdraw(node)
        node.agent.start(number, instead=node.intent())
        node.agent.want(asked)
        when = f"{name}, withdrawn before {number}"
        node.until(lambda asked=asked: node.settled() or all_as(node, asked), when)
        if not node.agent.struck:
            act.check(node)  # what is accepted is told before it is done, and may still be struck
        struck = node.agent.struck
        node.agent.stop()
        node.agent.start()
        undone(node, act, f"{when}: {struck}")
        assert identity(node) == life or not act.survives, when
        if not struck:
            assert number > FIRSTS, "nothing was ever withdrawn"
            return


@pytest.mark.parametrize("name", list(ACTS))
def test_a_guest_whose_process_is_killed_at_any_step_starts_again_from_old_or_new(node: Bench, name: str) -> None:
    act = ACTS[name]
    node.failed_will_do = True
    for number in steps(name, 2):
        node.change()  # as a user does; otherwise it is started again later each time
        prepared(node, act)
        act.ask(node)
        node.agent.start(number, killed=False)
        node.want()
        when = f"{name}, the process killed before {number}"
        node.surely(lambda: node.agent.struck or node.settled(), when)
        struck = node.agent.struck
        if struck and (there := node.pid(missing=0)):  # a restore has ended it already
            os.kill(there, 9)
        node.surely(lambda: node.pid(missing=0), f"{when}: {struck}: it runs again")
        node.surely(node.settled, f"{when}: {struck}")
        undone(node, act, f"{when}: {struck}")
        if not struck:
            assert number > FIRSTS, "nothing was ever killed"
            return


def steps(name: str, offset: int = 0) -> Iterator[int]:
    """The effects before which it is struck."""
    first = 1 + (list(ACTS).index(name) + offset) % FIRSTS
    return itertools.count(first, STRIDE)


def identity(node: Bench) -> tuple[int, str]:
    """Which process it is, and which life."""
    run = node.record().run
    assert run is not None
    return node.pid(), run.info.id


def prepared(node: Bench, act: Act) -> None:
    """Have what an act needs."""
    if act.before is nothing:
        return
    node.agent.start()
    node.want()
    act.before(node)
    node.agent.stop()


def all_as(node: Bench, asked: NodeIntent) -> bool:
    """Whether it came to the end of what was asked for first, without being told otherwise."""
    newest = node.vms, node.volumes
    node.vms, node.volumes = {vm.id: vm for vm in asked.vms}, {one.id: one for one in asked.volumes}
    try:
        return not node.agent.struck and node.settled()
    finally:
        node.vms, node.volumes = newest


def readable(node: Bench) -> None:
    """Whoever was killed when: each disk has a manifest that leads to files, or is not there."""
    for folder in (node.root / "volumes").iterdir():
        if not folder.name.startswith("."):
            assert read(folder) is not None
            assert node.layers(folder)


def undone(node: Bench, act: Act, when: str) -> None:
    """Take everything back, and find that nothing is left of it, in files, in the process and in the guest."""
    act.withdraw(node)
    node.want()
    node.surely(lambda: node.settled() and act.back(node), when)
    gone = {*node.vms, *node.volumes} - {node.origin, DATA}
    for name in gone:
        node.vms.pop(name, None)
        node.volumes.pop(name, None)
    node.want()
    node.surely(lambda: gone <= node.agent.forgotten, when)
    node.counts_on()
    node.check_tidy()
    node.check_opened()
    node.agent.stop()
