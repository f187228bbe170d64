"""What the planner does about machines that come and go, however one stands, and what it must never do."""

import itertools

import pytest

from nacre.agent import steps as do
from nacre.agent.passages import Crossing, coming, going
from nacre.agent.planner import Known, decide
from nacre.agent.vms.presence import Presence
from nacre.model.arrivals import VmArrival
from nacre.model.convergence import FailureClass
from nacre.model.ids import NodeId, StreamId
from nacre.model.migrations import ArrivalState, Outgoing
from nacre.model.vms import Desired
from support.intents import newer, vm_intent

ONE, TWO = StreamId("str-1"), StreamId("str-2")
ORDER = Outgoing(stream=ONE, target=NodeId("node-b"), addresses=("b:1",))
VM = vm_intent(fence=2)
ARRIVAL = VmArrival(stream=ONE, source=NodeId("node-a"), vm=VM)
BUSY = (do.Start, do.Resume, do.Pause, do.Reset, do.Reboot, do.Stop)


def test_an_order_is_begun_by_a_machine_that_runs_and_by_no_other() -> None:
    for presence, desired in itertools.product(Presence, Desired):
        intent = vm_intent(desired=desired, outgoing=ORDER)
        begins = isinstance(going(intent, Crossing(), presence), do.Send)
        assert begins == (presence is Presence.RUNNING and desired is Desired.RUNNING)


def test_a_machine_that_has_left_does_nothing_here_until_its_order_is_withdrawn() -> None:
    for presence, desired in itertools.product(Presence, Desired):
        if presence is Presence.UNKNOWN:
            continue
        intent = vm_intent(desired=desired, outgoing=ORDER)
        known = Known(intent=intent, presence=presence, crossing=Crossing(sending=ONE, sent=True))
        assert decide(intent, known, 0.0) == do.NOTHING
        withdrawn = newer(intent, outgoing=None)
        assert decide(withdrawn, known, 0.0) == do.Accept(withdrawn)
        known = Known(intent=withdrawn, presence=presence, crossing=Crossing(sending=ONE, sent=True))
        assert decide(withdrawn, known, 0.0) == do.Recall()


def test_an_order_that_an_older_intent_does_not_name_is_not_taken_for_withdrawn() -> None:
    intent = vm_intent(generation=5, outgoing=ORDER)
    known = Known(intent=intent, presence=Presence.PAUSED, crossing=Crossing(sending=ONE, sent=True))
    assert decide(newer(intent, generation=4, outgoing=None), known, 0.0) == do.NOTHING
    assert decide(None, known, 0.0) == do.NOTHING


def test_what_an_earlier_agent_has_begun_is_found_out_first() -> None:
    intent = vm_intent(outgoing=ORDER)
    astray = Crossing(sending=ONE, astray=True)
    for presence in (Presence.RUNNING, Presence.PAUSED, Presence.NONE):
        assert going(intent, astray, presence) == do.Recollect()
    assert going(newer(intent, outgoing=None), astray, Presence.PAUSED) == do.Recall()


def test_a_machine_whose_process_died_before_it_had_left_is_started_again() -> None:
    intent = vm_intent(outgoing=ORDER)
    known = Known(intent=intent, presence=Presence.NONE, crossing=Crossing(sending=ONE))
    assert decide(intent, known, 0.0) == do.Start(intent)


def test_what_comes_is_waited_for_received_and_left_alone() -> None:
    assert decide(None, None, 0.0, arrival=ARRIVAL) == do.Await(ARRIVAL)
    ready = Crossing(arriving=ONE, arrival=ArrivalState.READY)
    assert coming(None, ready, Presence.NONE, ARRIVAL, synced=True) == do.NOTHING
    offered = Crossing(arriving=ONE, arrival=ArrivalState.READY, offered=True)
    assert coming(None, offered, Presence.NONE, ARRIVAL, synced=True) == do.Receive()
    after_restart = Crossing(arriving=ONE)
    assert coming(None, after_restart, Presence.PAUSED, ARRIVAL, synced=True) == do.Await(ARRIVAL)


@pytest.mark.parametrize("state", [None, *ArrivalState])
@pytest.mark.parametrize("presence", [each for each in Presence if each is not Presence.UNKNOWN])
def test_what_has_come_runs_only_when_it_belongs_here_by_that_very_stream(
    state: ArrivalState | None, presence: Presence
) -> None:
    known = Known(intent=VM, presence=presence, crossing=Crossing(arriving=ONE, arrival=state))
    assert not isinstance(decide(None, known, 0.0, arrival=ARRIVAL), BUSY)
    assert decide(None, known, 0.0) == do.Reject()
    assert decide(None, known, 0.0, synced=False) == do.NOTHING
    for stream in (None, TWO):  # the same token, given by a failover, or by another attempt
        assert decide(newer(VM, arrived_by=stream), known, 0.0) == do.Reject()
    ours = newer(VM, arrived_by=ONE)
    assert decide(ours, known, 0.0) == do.Accept(ours)


def test_what_cannot_be_taken_over_yet_is_tried_again_after_a_pause() -> None:
    ours = newer(VM, arrived_by=ONE)
    here = Crossing(arriving=ONE, arrival=ArrivalState.ARRIVED)
    known = Known(intent=VM, presence=Presence.PAUSED, crossing=here, failure=FailureClass.TRANSIENT, retry_at=7.0)
    assert decide(ours, known, 1.0) == do.RetryAt(7.0)
    assert decide(ours, known, 7.0) == do.Accept(ours)
