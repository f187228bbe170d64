"""The planner about machines that have moved away: let go of for certain, and nothing but what is named is deleted."""

import msgspec

from nacre.agent.planner import (
    NOT_VOID,
    NOTHING,
    Accept,
    Adopt,
    Delete,
    Discard,
    Forget,
    Known,
    Reboot,
    Retire,
    RetryAt,
    Start,
    Stop,
    Void,
    decide,
    held,
    interrupts,
    plan,
    refused,
    voids,
    wanted,
)
from nacre.agent.vms.presence import Presence
from nacre.model.convergence import FailureClass
from nacre.model.copies import CopyRef, RetiredVm
from nacre.model.vms import Desired, VmIntent
from nacre.protocol.messages import NodeIntent
from support.intents import newer, node_intent, vm_intent

HERE = vm_intent(fence=3)
BACK = newer(HERE, fence=5)
GONE = Void(retired=3)


def known(intent: VmIntent | None = HERE, presence: Presence = Presence.RUNNING, **changes: object) -> Known:
    return Known(**({"intent": intent, "presence": presence} | changes))  # type: ignore[arg-type]


def test_a_placement_that_has_ended_is_let_go_of_whatever_its_machine_is_doing():
    for presence in set(Presence) - {Presence.UNKNOWN}:
        assert decide(None, known(presence=presence), 0, void=GONE) == Retire(3)
    assert decide(None, known(frozen=True), 0, void=GONE) == Retire(3)
    assert decide(None, known(failure=FailureClass.PERMANENT), 0, void=GONE) == Retire(3)


def test_a_process_is_looked_for_first_but_not_for_ever():
    assert decide(None, known(presence=Presence.UNKNOWN), 0, void=GONE) == Adopt()
    doubtful = known(presence=Presence.UNKNOWN, failure=FailureClass.TRANSIENT, retry_at=2.0)
    assert decide(None, doubtful, 1.0, void=GONE) == RetryAt(2.0)
    assert decide(None, doubtful, 2.0, void=GONE) == Retire(3)


def test_a_newer_placement_lets_go_of_the_older_one_first():
    assert decide(BACK, known(), 0) == Retire(3)
    assert decide(BACK, known(), 0, void=GONE) == Retire(3)
    assert decide(BACK, None, 0, void=GONE) == Accept(BACK)
    assert decide(BACK, known(BACK, Presence.NONE), 0, void=GONE) == Start(BACK)


def test_a_newer_placement_stays_when_an_older_one_is_let_go_of():
    assert decide(BACK, known(BACK), 0, void=GONE) == NOTHING
    assert decide(BACK, known(BACK), 0, void=Void(retired=4)) == NOTHING


def test_a_token_that_goes_back_as_in_an_old_database_costs_nobody_a_disk():
    stale = msgspec.structs.replace(HERE, fence=2, generation=9)
    assert decide(stale, known(BACK), 0) == Accept(stale)


def test_what_nothing_is_known_of_counts_as_the_placement_that_has_ended():
    assert decide(BACK, known(None, Presence.RUNNING), 0, void=GONE) == Retire(3)
    assert decide(None, known(None, Presence.NONE), 0, void=GONE) == Retire(3)
    assert decide(BACK, known(None, Presence.NONE), 0) == Accept(BACK)


def test_of_what_is_deleted_or_was_never_here_there_is_nothing_to_let_go():
    assert decide(None, None, 0, void=GONE) == NOTHING
    assert decide(None, known(presence=Presence.NONE, deleted=True), 0, void=GONE) == Forget()


def test_a_placement_that_is_named_although_it_has_ended_counts_as_not_named():
    intent = NodeIntent(vms=(HERE, vm_intent()), retired=(RetiredVm(id=HERE.id, fence=3),))
    assert HERE.id not in wanted(intent)
    assert len(wanted(intent)) == 1
    assert plan(intent, {}, 0).steps.keys() == {intent.vms[1].id}


def test_only_copies_that_are_named_and_there_are_deleted_and_last():
    named = Void(retired=3, discard=frozenset({2, 3}))
    assert decide(None, None, 0, void=named, copies=frozenset({1, 2, 3})) == Discard(2)
    assert decide(None, None, 0, void=named, copies=frozenset({1, 3})) == Discard(3)
    assert decide(None, None, 0, void=named, copies=frozenset({1})) == NOTHING
    assert decide(None, known(), 0, void=named, copies=frozenset({2})) == Retire(3)
    assert decide(BACK, None, 0, void=named, copies=frozenset({2})) == Accept(BACK)
    assert decide(None, None, 0, copies=frozenset({1, 2, 3})) == NOTHING


def test_who_has_a_copy_deleted_means_that_the_placement_has_ended():
    intent = NodeIntent(
        retired=(RetiredVm(id=HERE.id, fence=2),),
        discard=(CopyRef(id=HERE.id, fence=3), CopyRef(id=HERE.id, fence=1)),
    )
    assert voids(intent) == {HERE.id: Void(retired=3, discard=frozenset({1, 3}))}
    assert voids(None) == {}


def test_letting_go_is_no_teardown_and_what_is_let_go_of_is_not_held():
    many = [vm_intent(fence=1) for _ in range(20)]
    machines = {vm.id: known(vm) for vm in many}
    intent = NodeIntent(retired=tuple(RetiredVm(id=vm.id, fence=1) for vm in many))
    assert refused(intent, machines) == frozenset()
    assert held(intent, machines) == ()
    assert set(plan(intent, machines, 0).steps.values()) == {Retire(1)}
    assert held(node_intent(), machines) == tuple(sorted(machines))


def test_what_was_told_of_no_more_is_held_although_another_machine_is_let_go_of():
    other = vm_intent(fence=1)
    intent = NodeIntent(retired=(RetiredVm(id=HERE.id, fence=3),))
    assert held(intent, {HERE.id: known(), other.id: known(other)}) == (other.id,)


def test_letting_go_interrupts_what_would_take_long():
    stubborn = msgspec.structs.replace(HERE, desired=Desired.STOPPED)
    for step in (Start(HERE), Stop(stubborn, force=False), Reboot(HERE)):
        assert interrupts(step, None, retiring=True)
        assert not interrupts(step, None)
    for step in (Retire(3), Delete(), Adopt()):
        assert not interrupts(step, BACK, retiring=True)


def test_a_frozen_guest_is_not_asked_anything_and_can_be_ended():
    assert decide(HERE, known(frozen=True), 0) == NOTHING
    for changes in ({"reboot_nonce": 1}, {"reset_nonce": 1}, {"desired": Desired.PAUSED}):
        asked = newer(HERE, **changes)
        assert decide(asked, known(asked, frozen=True), 0) == NOTHING
    off = newer(HERE, Desired.STOPPED)
    assert decide(off, known(off, frozen=True), 0) == NOTHING
    forced = newer(HERE, Desired.STOPPED, force_stop=True)
    assert decide(forced, known(forced, frozen=True), 0) == Stop(forced, force=True)
    absent = newer(HERE, Desired.ABSENT)
    assert decide(absent, known(absent, frozen=True), 0) == Delete()


def test_without_a_desired_state_nothing_is_let_go_of():
    assert decide(None, known(), 0, synced=False, void=NOT_VOID) == NOTHING
    assert held(None, {HERE.id: known()}) == ()
    assert plan(None, {HERE.id: known()}, 0).steps == {}
