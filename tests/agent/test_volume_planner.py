"""The next step of a volume, from what is wanted and what is there."""

from dataclasses import replace

import msgspec
import pytest

from nacre.agent import volume_planner as planner
from nacre.agent.storage.base import VolumeState
from nacre.agent.volume_planner import Known, decide, refused
from nacre.lib.clock import ManualClock
from nacre.model.convergence import FailureClass
from nacre.model.ids import ProjectId, SnapshotId, VolumeId
from nacre.model.volumes import LOCAL_POOL, Restore, SnapshotIntent, SnapshotObserved, VolumeIntent, Wish
from nacre.protocol.messages import NodeIntent

KEPT = SnapshotId("snap-1")
WANTED = VolumeIntent(
    id=VolumeId("vol-1"),
    project=ProjectId("prj-1"),
    name="data",
    generation=1,
    desired=Wish.PRESENT,
    pool=LOCAL_POOL,
    size_bytes=100,
)
STATE = VolumeState(size_bytes=100, used_bytes=1)
KNOWN = Known(intent=WANTED, made=True, deleted=False, state=STATE)


def wanted(**changes):
    return msgspec.structs.replace(WANTED, **changes)


def known(intent=WANTED, **changes):
    return replace(KNOWN, intent=intent, **changes)


def taken(state=STATE, **changes):
    there = SnapshotObserved(id=KEPT, size_bytes=100, taken_at=ManualClock().now())
    return replace(state, snapshots=(there,), **changes)


PRESENT = (SnapshotIntent(id=KEPT, desired=Wish.PRESENT),)
LATER = (SnapshotIntent(id=KEPT, desired=Wish.PRESENT, after=1),)
GONE = (SnapshotIntent(id=KEPT, desired=Wish.ABSENT),)
BACK = Restore(nonce=1, snapshot=KEPT)


@pytest.mark.parametrize(
    ("before", "step"),
    [
        (known(state=None, made=False), planner.Make()),
        (known(made=False), planner.Found()),
        (known(state=None), planner.Lost()),
        (known(wanted(made=True), state=None, made=False), planner.Lost()),
        (known(wanted(made=True), made=False), planner.Found()),
        (known(), planner.NOTHING),
        (known(state=replace(STATE, unfinished=True)), planner.Finish()),
        (known(wanted(snapshots=PRESENT)), planner.Take(KEPT)),
        (known(wanted(snapshots=PRESENT), state=taken()), planner.NOTHING),
        (known(wanted(snapshots=PRESENT, restore=BACK)), planner.Take(KEPT)),
        (known(wanted(snapshots=PRESENT, restore=BACK), state=taken()), planner.PutBack(BACK)),
        (known(wanted(snapshots=LATER, restore=BACK)), planner.PutBack(BACK)),
        (known(wanted(snapshots=GONE, restore=BACK), state=taken()), planner.PutBack(BACK)),
        (known(wanted(snapshots=GONE, restore=BACK), state=taken(restore_nonce=1)), planner.Drop(KEPT)),
        (known(wanted(size_bytes=200)), planner.Grow(200)),
        (known(wanted(size_bytes=50)), planner.NOTHING),
        (known(state=replace(STATE, mergeable=True)), planner.Merge()),
        (known(wanted(desired=Wish.ABSENT)), planner.Delete()),
        (known(wanted(desired=Wish.ABSENT), deleted=True, state=None), planner.NOTHING),
        (known(state=None, made=False, retry_at=9.0), planner.RetryAt(9.0)),
        (known(state=None, made=False, failure=FailureClass.PERMANENT), planner.NOTHING),
    ],
)
def test_a_volume_goes_one_step_towards_what_is_wanted(before, step):
    assert decide(before.intent, before, 1.0, synced=True) == step


def test_a_newer_intent_is_taken_note_of_and_an_older_one_changes_nothing():
    newer = wanted(generation=2, size_bytes=200)
    assert decide(newer, known(), 0.0, synced=True) == planner.Accept(newer)
    assert decide(newer, known(), 0.0, synced=True, refused=True) == planner.NOTHING
    assert decide(WANTED, known(newer), 0.0, synced=True) == planner.Grow(200)


def test_what_was_not_told_of_is_left_alone():
    assert decide(None, known(), 0.0, synced=True) == planner.NOTHING
    assert decide(None, known(deleted=True, state=None), 0.0, synced=False) == planner.NOTHING
    assert decide(None, known(deleted=True, state=None), 0.0, synced=True) == planner.Forget()
    assert decide(None, known(shared=True), 0.0, synced=True) == planner.Forget()


@pytest.mark.parametrize(("many", "allowed", "said"), [(3, False, 0), (4, False, 4), (4, True, 0)])
def test_too_many_deletions_at_once_need_an_operators_word(many, allowed, said):
    names = [VolumeId(f"vol-{number}") for number in range(8)]
    here = {name: known(wanted(id=name)) for name in names}
    gone = tuple(wanted(id=name, generation=2, desired=Wish.ABSENT) for name in names[:many])
    assert len(refused(NodeIntent(volumes=gone, teardown_allowed=allowed), here)) == said
