"""What is told, and that nothing is told twice."""

from datetime import UTC, datetime

from nacre.agent.observer import Observer
from nacre.model.vms import Phase, VmObserved
from support.intents import vm_id

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def fact(phase: Phase = Phase.RUNNING) -> VmObserved:
    return VmObserved(id=vm_id(), generation=1, phase=phase, since=NOW)


def test_changes_are_told_once_and_everything_is_there_when_asked():
    observer = Observer()
    early = fact()
    observer.changed(early)
    told: list[VmObserved] = []
    observer.connect(told.extend)
    later = fact()
    observer.changed(early)
    observer.changed(later)
    observer.changed(later)
    assert told == [later]
    assert observer.all() == tuple(sorted((early, later), key=lambda vm: vm.id))
    observer.forget(early.id)
    assert observer.all() == (later,)
