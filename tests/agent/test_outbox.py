"""Facts are numbered, gathered, kept until acknowledged, and told again after a broken link."""

from datetime import UTC, datetime

from nacre.agent.outbox import MAX_BATCHES, Outbox, Report
from nacre.model.ids import VmId
from nacre.model.vms import Phase, VmObserved
from nacre.protocol.messages import Observed

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def seen(vm: str, phase: Phase = Phase.RUNNING) -> VmObserved:
    return VmObserved(id=VmId(vm), generation=1, phase=phase, since=NOW)


def taken(outbox: Outbox, *reported: VmObserved) -> Observed | None:
    return outbox.next("digest", lambda: Report(vms=reported))


def test_facts_wait_while_a_message_is_out_and_then_go_together() -> None:
    outbox = Outbox()
    outbox.add((seen("a"),))
    first = taken(outbox)
    assert first == Observed(sequence=1, digest="digest", complete=False, vms=(seen("a"),))
    outbox.add((seen("b"),))
    outbox.add((seen("c"),))
    assert taken(outbox) is None
    outbox.acknowledge(1)
    second = taken(outbox)
    assert second is not None
    assert (second.sequence, second.vms) == (2, (seen("b"), seen("c")))
    outbox.acknowledge(2)
    assert taken(outbox) is None


def test_two_facts_about_one_machine_are_told_one_after_the_other() -> None:
    outbox = Outbox()
    outbox.add((seen("a", Phase.CRASHED), seen("b"), seen("a", Phase.RUNNING)))
    first = taken(outbox)
    outbox.acknowledge(1)
    second = taken(outbox)
    assert first is not None
    assert second is not None
    assert [vm.phase for vm in first.vms] == [Phase.CRASHED, Phase.RUNNING]
    assert second.vms == (seen("a", Phase.RUNNING),)


def test_after_a_broken_link_the_unacknowledged_goes_first_with_its_old_number_and_everything_goes_last() -> None:
    outbox = Outbox()
    outbox.add((seen("a", Phase.STARTING),))
    lost = taken(outbox)
    outbox.add((seen("a"),))
    outbox.reconnected()
    assert taken(outbox, seen("a")) == lost
    outbox.acknowledge(1)
    waited = taken(outbox, seen("a"))
    outbox.acknowledge(2)
    everything = taken(outbox, seen("a"))
    assert waited is not None
    assert everything is not None
    assert (waited.sequence, waited.complete, waited.vms) == (2, False, (seen("a"),))
    assert (everything.sequence, everything.complete, everything.vms) == (3, True, (seen("a"),))


def test_a_complete_report_that_was_lost_is_made_anew() -> None:
    outbox = Outbox()
    outbox.reconnected()
    taken(outbox, seen("a", Phase.STARTING))
    outbox.reconnected()
    again = taken(outbox, seen("a"))
    assert again is not None
    assert (again.sequence, again.vms) == (2, (seen("a"),))
    assert taken(outbox) is None


def test_an_old_acknowledgement_changes_nothing() -> None:
    outbox = Outbox()
    for number in (1, 2):
        outbox.add((seen("a"),))
        taken(outbox)
        outbox.acknowledge(number)
    outbox.add((seen("a"),))
    taken(outbox)
    outbox.acknowledge(2)
    assert taken(outbox) is None


def test_a_long_outage_does_not_fill_the_memory() -> None:
    outbox = Outbox()
    for number in range(MAX_BATCHES + 50):
        outbox.add((VmObserved(id=VmId("a"), generation=number, phase=Phase.RUNNING, since=NOW),))
    oldest = taken(outbox)
    assert oldest is not None
    assert oldest.vms[0].generation == 50
