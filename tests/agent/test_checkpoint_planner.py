"""What is to be done about a machine's checkpoints, and when. Pure."""

import msgspec
import pytest

from nacre.agent import planner
from nacre.agent.checkpoint_planner import Held
from nacre.agent.planner import Known
from nacre.agent.steps import (
    NOTHING,
    Delete,
    DropCheckpoint,
    MergeLayers,
    PutBack,
    Resume,
    RetryAt,
    Start,
    Stop,
    TakeCheckpoint,
)
from nacre.agent.vms.presence import Presence
from nacre.model.checkpoints import CheckpointIntent, Restoration
from nacre.model.convergence import FailureClass
from nacre.model.ids import CheckpointId, VolumeId
from nacre.model.vms import Desired
from nacre.model.volumes import VolumeAttachment, Wish
from support.intents import vm_intent

ONE, TWO = (CheckpointId(f"ckpt-{number:026d}") for number in (1, 2))


def wanted(checkpoint=ONE, **changes) -> CheckpointIntent:
    return CheckpointIntent(**({"id": checkpoint, "desired": Wish.PRESENT} | changes))


def decided(intent, held=None, presence=Presence.RUNNING, **known):
    return planner.decide(intent, Known(intent=intent, presence=presence, held=held or Held(), **known), 0.0)


@pytest.mark.parametrize("presence", [Presence.NONE, Presence.RUNNING])
@pytest.mark.parametrize("desired", [Desired.RUNNING, Desired.STOPPED])
def test_a_checkpoint_is_taken_before_the_machine_is_changed(presence, desired):
    intent = vm_intent(desired=desired, checkpoints=(wanted(),))
    assert decided(intent, presence=presence) == TakeCheckpoint(wanted())
    done = decided(intent, Held(checkpoints=frozenset({ONE})), presence)
    assert not isinstance(done, TakeCheckpoint)


@pytest.mark.parametrize("presence", [Presence.STARTING, Presence.LEAVING, Presence.FAILED, Presence.HALTED])
def test_nothing_is_kept_of_a_machine_that_comes_or_goes(presence):
    assert not isinstance(decided(vm_intent(checkpoints=(wanted(),)), presence=presence), TakeCheckpoint)


def test_a_halted_guest_is_put_back_unless_something_is_to_be_kept_first():
    restore = Restoration(nonce=1, checkpoint=ONE)
    intent = vm_intent(checkpoints=(wanted(), wanted(TWO, after=1)), restore=restore)
    assert decided(intent, Held(checkpoints=frozenset({ONE})), Presence.HALTED) == PutBack(intent, restore)
    assert decided(intent, Held(), Presence.HALTED) == planner.NOTHING
    done = Held(checkpoints=frozenset({ONE}), restore_nonce=1)
    assert decided(intent, done, Presence.HALTED) == planner.NOTHING


def test_a_guest_that_should_run_goes_on_before_it_is_kept():
    intent = vm_intent(checkpoints=(wanted(),))
    assert decided(intent, presence=Presence.PAUSED) == Resume()
    still = msgspec.structs.replace(intent, desired=Desired.PAUSED)
    assert decided(still, presence=Presence.PAUSED) == TakeCheckpoint(wanted())


def test_a_checkpoint_waits_for_the_volumes_of_the_machine():
    volume = VolumeId("vol-1")
    intent = vm_intent(checkpoints=(wanted(),), volumes=(VolumeAttachment(volume=volume),))
    assert decided(intent, volumes=frozenset()) == planner.Plug(intent)
    assert decided(intent, volumes=frozenset({volume})) == TakeCheckpoint(wanted())


def test_checkpoints_and_restores_keep_their_order():
    restore = Restoration(nonce=1, checkpoint=ONE)
    intent = vm_intent(checkpoints=(wanted(TWO, after=1), wanted(ONE)), restore=restore)
    assert decided(intent) == TakeCheckpoint(wanted(ONE))
    held = Held(checkpoints=frozenset({ONE}))
    assert decided(intent, held) == PutBack(intent, restore)
    held = Held(checkpoints=frozenset({ONE}), restore_nonce=1)
    assert decided(intent, held) == TakeCheckpoint(wanted(TWO, after=1))


def test_a_machine_is_put_back_before_it_is_started():
    restore = Restoration(nonce=1, checkpoint=ONE)
    intent = vm_intent(restore=restore)
    assert decided(intent, presence=Presence.NONE) == PutBack(intent, restore)
    assert decided(intent, Held(restore_nonce=1), presence=Presence.NONE) == Start(intent)


@pytest.mark.parametrize("held", [Held(checkpoints=frozenset({ONE})), Held(begun=frozenset({ONE}))])
def test_what_is_not_wanted_any_more_is_forgotten_also_if_it_was_never_finished(held):
    gone = wanted(desired=Wish.ABSENT)
    assert decided(vm_intent(checkpoints=(gone,)), held) == DropCheckpoint(gone)
    assert decided(vm_intent(checkpoints=(gone,))) == NOTHING


def test_of_what_is_not_named_only_what_was_never_finished_goes():
    assert decided(vm_intent(), Held(checkpoints=frozenset({ONE}))) == NOTHING
    assert decided(vm_intent(), Held(begun=frozenset({ONE}))) == DropCheckpoint(wanted(desired=Wish.ABSENT))
    held = Held(begun=frozenset({ONE}))
    assert decided(vm_intent(checkpoints=(wanted(),)), held) == TakeCheckpoint(wanted())


def test_layers_are_merged_when_nothing_else_is_to_be_done():
    held = Held(mergeable=True)
    assert decided(vm_intent(), held) == MergeLayers()
    assert decided(vm_intent(), held, Presence.STARTING) == NOTHING
    assert decided(vm_intent(), held, frozen=True) == NOTHING
    assert isinstance(decided(vm_intent(), held, Presence.NONE), Start)
    assert planner.interrupts(MergeLayers(), vm_intent())


def test_a_frozen_machine_and_one_that_goes_are_left_alone():
    intent = vm_intent(checkpoints=(wanted(),))
    assert decided(intent, frozen=True) == NOTHING
    assert decided(msgspec.structs.replace(intent, desired=Desired.ABSENT)) == Delete()


def test_what_failed_is_tried_again_later_or_not_at_all():
    intent = vm_intent(restore=Restoration(nonce=1, checkpoint=ONE))
    assert decided(intent, failure=FailureClass.TRANSIENT, retry_at=5.0) == RetryAt(5.0)
    assert decided(intent, failure=FailureClass.PERMANENT) == NOTHING


def test_what_is_being_done_ends_if_nobody_wants_it_any_more():
    intent = vm_intent(checkpoints=(wanted(),))
    gone = msgspec.structs.replace(intent, desired=Desired.ABSENT)
    step = TakeCheckpoint(wanted())
    assert not planner.interrupts(step, intent)
    assert planner.interrupts(step, gone)
    assert planner.interrupts(step, vm_intent())
    off = msgspec.structs.replace(intent, desired=Desired.STOPPED)
    assert not planner.interrupts(step, off)
    assert planner.interrupts(step, msgspec.structs.replace(off, force_stop=True))
    assert not planner.interrupts(step, msgspec.structs.replace(off, force_stop=True), alive=False)
    put_back = PutBack(intent, Restoration(nonce=1, checkpoint=ONE))
    for waits in (step, put_back, DropCheckpoint(wanted())):
        assert planner.interrupts(waits, intent, waiting=True)
    assert planner.interrupts(put_back, gone)
    assert not planner.interrupts(put_back, msgspec.structs.replace(intent, desired=Desired.STOPPED))
    assert planner.interrupts(put_back, intent, retiring=True)


@pytest.mark.parametrize("checkpoint", [wanted(), wanted(desired=Wish.ABSENT)])
def test_a_machine_is_switched_off_before_by_force_or_if_its_checkpoints_have_to_wait(checkpoint):
    held = Held(begun=frozenset({ONE}))
    delayed = Held(begun=frozenset({ONE}), delayed=True)
    off = vm_intent(desired=Desired.STOPPED, checkpoints=(checkpoint,))
    forced = msgspec.structs.replace(off, force_stop=True)
    assert decided(forced, held) == Stop(forced, force=True)
    assert decided(off, delayed) == Stop(off, force=False)
    assert decided(off, held, failure=FailureClass.BLOCKED) == Stop(off, force=False)
    for facts in (held, delayed):
        assert isinstance(decided(off, facts, Presence.NONE), TakeCheckpoint | DropCheckpoint)
        assert isinstance(decided(vm_intent(checkpoints=(checkpoint,)), facts), TakeCheckpoint | DropCheckpoint)
    assert isinstance(decided(off, held, failure=FailureClass.TRANSIENT), TakeCheckpoint | DropCheckpoint)
