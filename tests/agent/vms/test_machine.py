"""A machine: how it is shown, how its end is understood, how long it pauses."""

from datetime import timedelta

import pytest

from nacre.agent.records import Record, RecordStore, Run
from nacre.agent.vms.machine import HEALTHY_S, Machine, settled_reason
from nacre.agent.vms.presence import Presence
from nacre.lib.clock import ManualClock
from nacre.model.vms import Desired, ExitReason, Phase, RestartPolicy, RunInfo
from support.intents import vm_intent

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path) -> RecordStore:
    return RecordStore(tmp_path)


def made(store: RecordStore, clock: ManualClock, *, desired: Desired = Desired.RUNNING, alive: bool = True) -> Machine:
    intent = vm_intent(desired=desired)
    info = RunInfo(id="run-1", started_at=clock.now(), accelerator="", accelerator_reason="", cpus=1, memory_bytes=1)
    run = Run(info=info, hypervisor="fake", handle={}) if alive else None
    record = Record(id=intent.id, intent=intent, run=run, found_at=clock.now())
    return Machine(record, store, clock, lambda: 1.0, changed=lambda _: None)


def revive(machine: Machine, clock: ManualClock) -> None:
    """Another life begins."""
    info = RunInfo(id="run-2", started_at=clock.now(), accelerator="", accelerator_reason="", cpus=1, memory_bytes=1)
    machine.note(run=Run(info=info, hypervisor="fake", handle={}))
    machine.took(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "ending", "reason"),
    [
        (ExitReason.CRASHED, None, ExitReason.CRASHED),
        (ExitReason.CRASHED, ExitReason.KILLED, ExitReason.KILLED),
        (ExitReason.CRASHED, ExitReason.GUEST_SHUTDOWN, ExitReason.GUEST_SHUTDOWN),
        (ExitReason.CRASHED, ExitReason.STOPPED, ExitReason.CRASHED),
        (ExitReason.GUEST_SHUTDOWN, None, ExitReason.GUEST_SHUTDOWN),
        (ExitReason.GUEST_SHUTDOWN, ExitReason.STOPPED, ExitReason.STOPPED),
        (ExitReason.KILLED, None, ExitReason.KILLED),
        (ExitReason.HOST_REBOOT, ExitReason.STOPPED, ExitReason.HOST_REBOOT),
        (ExitReason.KILLED, ExitReason.FENCED, ExitReason.FENCED),
        (ExitReason.CRASHED, ExitReason.FENCED, ExitReason.FENCED),
    ],
)
def test_what_was_begun_says_more_about_an_end_than_a_driver_that_was_not_there(told, ending, reason):
    assert settled_reason(told, ending) is reason


@pytest.mark.parametrize(
    ("desired", "reason", "phase"),
    [
        (Desired.RUNNING, ExitReason.CRASHED, Phase.CRASHED),
        (Desired.RUNNING, ExitReason.HOST_REBOOT, Phase.CRASHED),
        (Desired.RUNNING, ExitReason.GUEST_SHUTDOWN, Phase.STOPPED),
        (Desired.STOPPED, ExitReason.CRASHED, Phase.STOPPED),
        (Desired.STOPPED, ExitReason.KILLED, Phase.STOPPED),
    ],
)
async def test_a_machine_that_ended_shows_whether_it_comes_back(store, clock, desired, reason, phase):
    machine = made(store, clock, desired=desired)
    await machine.ended(reason, "")
    assert machine.observed().phase is phase
    assert machine.off.is_set()


async def test_pauses_after_crashes_grow_and_start_over_after_ten_healthy_minutes(store, clock):
    machine = made(store, clock)
    machine.took(None)  # type: ignore[arg-type]
    pauses: list[float] = []
    for healthy in (1, 1, 1, HEALTHY_S + 1):
        clock.advance(healthy)
        await machine.ended(ExitReason.CRASHED, "")
        pauses.append(machine.retry_at - clock.monotonic())
        revive(machine, clock)
    assert pauses == pytest.approx([0.5, 1, 2, 0.5])


async def test_a_clock_that_jumps_changes_no_pause(store, clock):
    machine = made(store, clock)
    machine.took(None)  # type: ignore[arg-type]
    await machine.ended(ExitReason.CRASHED, "")
    revive(machine, clock)
    clock.jump(86400)
    await machine.ended(ExitReason.CRASHED, "")
    assert machine.retry_at - clock.monotonic() == pytest.approx(1.0)
    clock.jump(-2 * 86400)
    assert machine.retry_at - clock.monotonic() == pytest.approx(1.0)


async def test_how_often_it_crashed_outlives_the_agent(store, clock):
    machine = made(store, clock)
    for _ in range(3):
        await machine.ended(ExitReason.CRASHED, "")
        revive(machine, clock)
    again = Machine(store.load_all()[machine.id], store, clock, lambda: 1.0, changed=lambda _: None)
    await again.ended(ExitReason.CRASHED, "")
    revive(again, clock)
    await again.ended(ExitReason.CRASHED, "")
    assert again.retry_at - clock.monotonic() >= 4.0


async def test_an_end_that_was_wanted_costs_no_pause(store, clock):
    machine = made(store, clock)
    await machine.ended(ExitReason.STOPPED, "")
    assert machine.retry_at == 0


async def test_with_the_policy_never_a_crash_is_a_failure_for_good(store, clock):
    machine = made(store, clock)
    machine.note(intent=vm_intent(machine.id, restart=RestartPolicy.NEVER))
    await machine.ended(ExitReason.CRASHED, "its process ended")
    assert machine.failure is not None
    assert machine.failure.code == "vm_crashed"
    machine.forgive()
    assert machine.failure is None


async def test_a_phase_keeps_its_beginning_until_another_one_begins(store, clock):
    machine = made(store, clock)
    machine.presence = Presence.RUNNING
    since = machine.observed().since
    clock.advance(5)
    assert machine.observed().since == since
    machine.presence = Presence.PAUSED
    assert machine.observed().since == since + timedelta(seconds=5)
    machine.enter(Phase.STOPPING)
    assert machine.observed().phase is Phase.STOPPING
    machine.leave()
    assert machine.observed().phase is Phase.PAUSED


async def test_before_it_was_looked_for_it_shows_what_was_last_known(store, clock):
    assert made(store, clock).observed().phase is Phase.RUNNING
    assert made(store, clock, alive=False).observed().phase is Phase.PREPARING
    off = made(store, clock, desired=Desired.STOPPED, alive=False)
    assert off.observed().phase is Phase.STOPPED


async def test_changes_are_written_in_order_and_only_when_there_are_some(store, clock):
    machine = made(store, clock)
    await machine.flush()
    assert store.load_all() == {}
    machine.note(reboot_nonce=1)
    await machine.save(reset_nonce=2)
    stored = store.load_all()[machine.id]
    assert (stored.reboot_nonce, stored.reset_nonce) == (1, 2)


async def test_what_could_not_be_written_is_written_with_the_next_change(store, clock, tmp_path, monkeypatch):
    machine = made(store, clock)
    real = store.save

    def full(_record: Record) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save", full)
    with pytest.raises(OSError, match="No space"):
        await machine.save(reboot_nonce=7)
    monkeypatch.setattr(store, "save", real)
    await machine.flush()
    assert store.load_all()[machine.id].reboot_nonce == 7


async def test_a_frozen_machine_shows_as_before_with_a_failure_until_it_goes_on_or_ends(store, clock):
    machine = made(store, clock)
    machine.presence = Presence.RUNNING
    machine.froze()
    seen = machine.observed()
    assert (seen.phase, seen.failure.code) == (Phase.RUNNING, "fenced")
    machine.thawed()
    assert machine.observed().failure is None
    machine.froze()
    await machine.ended(ExitReason.KILLED, "")
    assert not machine.frozen
    assert machine.observed().failure is None
