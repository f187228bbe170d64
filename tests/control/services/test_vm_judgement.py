"""What follows from an observation, without a database."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from nacre.control.services.vm_intents import reset
from nacre.control.services.vm_judgement import absent, forgotten, judge
from nacre.control.store.vms import VmRow
from nacre.model.convergence import Failure, FailureClass
from nacre.model.ids import ImageId, NodeId, ProjectId, RunId, VmId
from nacre.model.vms import Desired, ExitReason, Phase, RestartPolicy, RunInfo, VmObserved, VmSpec

NOW = datetime(2030, 1, 1, tzinfo=UTC)
IMAGE = ImageId("img-1")


def row(**changes: object) -> VmRow:
    values: dict[str, object] = {
        "id": VmId("vm-1"),
        "project": ProjectId("prj-1"),
        "name": "web",
        "labels": {},
        "spec": VmSpec(image=IMAGE),
        "image": IMAGE,
        "image_name": "tiny",
        "desired": Desired.RUNNING,
        "generation": 1,
        "finalizers": ["node"],
        "node": NodeId("node-1"),
        "reserved_cpus": 1,
        "reserved_memory_bytes": 1,
        "reserved_disk_bytes": 0,
        "observed_generation": 0,
        "phase": Phase.PENDING,
        "since": NOW,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return VmRow(**{**values, **changes})  # type: ignore[arg-type]


def run(number: int = 1, reason: ExitReason | None = None) -> RunInfo:
    return RunInfo(
        id=RunId(f"run-{number}"),
        started_at=NOW,
        accelerator="tcg",
        accelerator_reason="",
        cpus=1,
        memory_bytes=1,
        exited_at=NOW if reason is not None else None,
        exit_reason=reason,
    )


def seen(phase: Phase, generation: int = 1, **changes: object) -> VmObserved:
    return VmObserved(id=VmId("vm-1"), generation=generation, phase=phase, since=NOW, **changes)  # type: ignore[arg-type]


def types(told: object) -> list[str]:
    return [one.type for one in told]  # type: ignore[attr-defined]


RUNNING = row(observed_generation=1, phase=Phase.RUNNING, run=run())


def test_the_first_time_it_runs_is_told() -> None:
    after, told = judge(row(), seen(Phase.RUNNING, run=run()))
    assert (after.phase, after.observed_generation) == (Phase.RUNNING, 1)
    assert types(told) == ["vm.started"]


def test_the_same_again_is_no_news() -> None:
    after, told = judge(RUNNING, seen(Phase.RUNNING, run=run()))
    assert after == RUNNING
    assert told == ()


def test_an_observation_of_an_older_intent_is_ignored() -> None:
    before = row(generation=3, observed_generation=3, phase=Phase.STOPPED, desired=Desired.STOPPED)
    assert judge(before, seen(Phase.RUNNING, generation=2, run=run())) == (before, ())


def test_a_guest_that_powers_itself_off_changes_what_should_be() -> None:
    after, told = judge(RUNNING, seen(Phase.STOPPED, run=run(reason=ExitReason.GUEST_SHUTDOWN)))
    assert (after.desired, after.generation) == (Desired.STOPPED, 2)
    assert types(told) == ["vm.guest_shutdown", "vm.stopped"]


def test_a_power_off_that_is_told_before_its_phase_changes_what_should_be_once_the_phase_follows() -> None:
    off = run(reason=ExitReason.GUEST_SHUTDOWN)
    between, told = judge(RUNNING, seen(Phase.STOPPING, run=off))
    assert between.desired is Desired.RUNNING
    assert types(told) == ["vm.guest_shutdown"]
    after, told = judge(between, seen(Phase.STOPPED, run=off))
    assert (after.desired, after.generation) == (Desired.STOPPED, RUNNING.generation + 1)
    assert types(told) == ["vm.stopped"]


def test_a_guest_that_is_always_restarted_changes_nothing() -> None:
    before = row(observed_generation=1, phase=Phase.RUNNING, run=run())
    before = row(**{**vars(before), "spec": VmSpec(image=IMAGE, restart=RestartPolicy.ALWAYS)})
    after, _ = judge(before, seen(Phase.STOPPED, run=run(reason=ExitReason.GUEST_SHUTDOWN)))
    assert (after.desired, after.generation) == (Desired.RUNNING, 1)


def test_a_guest_that_powered_off_before_a_newer_intent_does_not_undo_it() -> None:
    newer = row(observed_generation=1, phase=Phase.RUNNING, run=run(), generation=2)
    after, _ = judge(newer, seen(Phase.STOPPED, generation=1, run=run(reason=ExitReason.GUEST_SHUTDOWN)))
    assert (after.desired, after.generation) == (Desired.RUNNING, 2)


def test_the_end_of_a_run_that_was_known_does_not_stop_the_next_start() -> None:
    started_again = row(
        observed_generation=2, generation=3, phase=Phase.STOPPED, run=run(reason=ExitReason.GUEST_SHUTDOWN)
    )
    taken_up = seen(Phase.STOPPED, generation=3, run=run(reason=ExitReason.GUEST_SHUTDOWN))
    after, told = judge(started_again, taken_up)
    assert (after.desired, after.generation) == (Desired.RUNNING, 3)
    assert told == ()


def test_a_crash_is_told_once_and_so_is_the_new_start() -> None:
    crashed, told = judge(RUNNING, seen(Phase.CRASHED, run=run(reason=ExitReason.CRASHED)))
    assert types(told) == ["vm.crashed"]
    assert crashed.desired is Desired.RUNNING
    again, told = judge(crashed, seen(Phase.CRASHED, run=run(reason=ExitReason.CRASHED)))
    assert told == ()
    _, told = judge(again, seen(Phase.RUNNING, run=run(2), restarts=1))
    assert types(told) == ["vm.started"]


def test_a_crash_that_happened_out_of_sight_is_told_later() -> None:
    _, told = judge(RUNNING, seen(Phase.RUNNING, run=run(2), restarts=1))
    assert types(told) == ["vm.crashed", "vm.started"]


def test_a_crashed_machine_that_is_never_restarted_says_so() -> None:
    before = row(**{**vars(RUNNING), "spec": VmSpec(image=IMAGE, restart=RestartPolicy.NEVER)})
    _, told = judge(before, seen(Phase.CRASHED, run=run(reason=ExitReason.CRASHED)))
    assert "started again" not in told[0].message


def test_nonces_of_a_first_report_are_adopted_without_a_story() -> None:
    before = reset(reset(row()))
    after, told = judge(before, seen(Phase.RUNNING, run=run(), reset_nonce=2))
    assert after.applied_reset_nonce == 2
    assert types(told) == ["vm.started"]


def test_a_failure_is_told_once_and_its_end_once() -> None:
    failure = Failure(
        failure_class=FailureClass.TRANSIENT,
        code="disk_full",
        message="no space",
        hint="free some",
        generation=1,
        at=NOW,
    )
    failing, told = judge(row(), seen(Phase.PREPARING, failure=failure))
    assert types(told) == ["vm.failed"]
    later = msgspec.structs.replace(failure, attempts=2, next_try_at=NOW + timedelta(seconds=2))
    failing, told = judge(failing, seen(Phase.PREPARING, failure=later))
    assert failing.failure == later
    assert told == ()
    _, told = judge(failing, seen(Phase.RUNNING, run=run()))
    assert types(told) == ["vm.started", "vm.recovered"]


def test_a_node_that_has_seen_the_future_is_overruled_by_what_is_stored() -> None:
    restored = row(generation=2, observed_generation=2, desired=Desired.STOPPED, phase=Phase.STOPPED)
    after, _ = judge(restored, seen(Phase.RUNNING, generation=9, run=run()))
    assert (after.generation, after.desired) == (10, Desired.STOPPED)


@pytest.mark.parametrize(
    ("phase", "generation", "gone"),
    [(Phase.ABSENT, 2, True), (Phase.ABSENT, 1, False), (Phase.DELETING, 2, False)],
)
def test_a_machine_is_gone_when_its_node_says_so_of_the_deletion(phase: Phase, generation: int, gone: bool) -> None:
    deleting = row(desired=Desired.ABSENT, generation=2, observed_generation=1, phase=Phase.STOPPED)
    after, _ = judge(deleting, seen(phase, generation=generation))
    assert absent(after) is gone


def test_a_machine_is_not_gone_while_another_finalizer_is_left() -> None:
    deleting = row(desired=Desired.ABSENT, finalizers=["node", "backup"])
    after, _ = judge(deleting, seen(Phase.ABSENT))
    assert not absent(after)
    assert after.finalizers == ["backup"]


def test_what_a_complete_report_leaves_out_is_forgotten_and_told() -> None:
    after, told = forgotten(RUNNING, NOW)
    assert (after.phase, after.observed_generation, after.run) == (Phase.PENDING, 0, None)
    assert types(told) == ["vm.lost"]
    assert forgotten(row(), NOW) == (row(), ())
