"""The planner: each rule as a sentence, then all of them against a simulated world."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.agent.planner import (
    NOTHING,
    Accept,
    Adopt,
    Change,
    Delete,
    Forget,
    Known,
    Pause,
    Plug,
    Reboot,
    RecordNonces,
    Reset,
    Resume,
    RetryAt,
    Start,
    Stop,
    decide,
    held,
    interrupts,
    plan,
    refused,
)
from nacre.agent.vms.presence import Presence
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId, VolumeId
from nacre.model.vms import Desired, ExitReason, RestartPolicy, VmIntent
from nacre.model.volumes import VolumeAttachment
from nacre.protocol.messages import NodeIntent
from support.intents import newer, node_intent, vm_id, vm_intent

RUNS = vm_intent()
OFF = vm_intent(RUNS.id, Desired.STOPPED)
PAUSED = vm_intent(RUNS.id, Desired.PAUSED)
ABSENT = vm_intent(RUNS.id, Desired.ABSENT)


def known(intent: VmIntent | None, presence: Presence = Presence.NONE, **changes: object) -> Known:
    numbers = {} if intent is None else {"reboot_nonce": intent.reboot_nonce, "reset_nonce": intent.reset_nonce}
    return Known(**({"intent": intent, "presence": presence} | numbers | changes))  # type: ignore[arg-type]


def step(intent: VmIntent, presence: Presence = Presence.NONE, **changes: object):
    """The step for a machine that has accepted `intent` already."""
    return decide(intent, known(intent, presence, **changes), 100.0)


def test_a_machine_never_heard_of_is_accepted_first():
    assert decide(RUNS, None, 0) == Accept(RUNS)
    assert decide(None, None, 0) == NOTHING


def test_before_anything_else_it_is_found_out_whether_there_is_a_process():
    for intent in (RUNS, OFF, PAUSED, ABSENT, None):
        assert decide(intent, known(RUNS, Presence.UNKNOWN), 0) == Adopt()
    assert decide(newer(RUNS), known(RUNS, Presence.UNKNOWN), 0) == Adopt()
    assert decide(RUNS, known(None, Presence.UNKNOWN), 0, synced=False) == Adopt()


def test_what_cannot_be_found_out_is_tried_again_later():
    doubtful = known(RUNS, Presence.UNKNOWN, failure=FailureClass.TRANSIENT, retry_at=5.0)
    assert decide(RUNS, doubtful, 1.0) == RetryAt(5.0)
    assert decide(RUNS, doubtful, 5.0) == Adopt()


def test_what_cannot_be_found_out_may_be_switched_off_all_the_same_if_nothing_else_is_wanted():
    doubtful = known(RUNS, Presence.UNKNOWN, failure=FailureClass.TRANSIENT)
    gone = newer(RUNS, Desired.ABSENT)
    assert decide(gone, doubtful, 0) == Accept(gone)
    assert decide(gone, replace(doubtful, intent=gone), 0) == Delete()
    forced = newer(RUNS, Desired.STOPPED, force_stop=True)
    assert decide(forced, replace(doubtful, intent=forced), 0) == Stop(forced, force=True)
    assert decide(newer(RUNS, Desired.STOPPED), doubtful, 0) == Adopt()
    assert decide(None, replace(doubtful, intent=gone), 0) == Adopt()


@pytest.mark.parametrize(
    ("intent", "presence", "expected"),
    [
        (RUNS, Presence.NONE, Start(RUNS)),
        (RUNS, Presence.STARTING, NOTHING),
        (RUNS, Presence.RUNNING, NOTHING),
        (RUNS, Presence.PAUSED, Resume()),
        (RUNS, Presence.FAILED, Resume()),
        (RUNS, Presence.HALTED, NOTHING),
        (RUNS, Presence.LEAVING, NOTHING),
        (PAUSED, Presence.NONE, Start(PAUSED)),
        (PAUSED, Presence.RUNNING, Pause()),
        (PAUSED, Presence.PAUSED, NOTHING),
        (PAUSED, Presence.HALTED, NOTHING),
        (OFF, Presence.NONE, NOTHING),
        (OFF, Presence.RUNNING, Stop(OFF, force=False)),
        (OFF, Presence.PAUSED, Stop(OFF, force=False)),
        (OFF, Presence.FAILED, Stop(OFF, force=False)),
        (OFF, Presence.HALTED, Stop(OFF, force=False)),
        (OFF, Presence.LEAVING, NOTHING),
        (ABSENT, Presence.NONE, Delete()),
        (ABSENT, Presence.RUNNING, Delete()),
        (ABSENT, Presence.HALTED, Delete()),
        (ABSENT, Presence.LEAVING, Delete()),
    ],
)
def test_each_state_has_its_step(intent: VmIntent, presence: Presence, expected: object):
    assert step(intent, presence) == expected


def test_a_halted_guest_waits_for_somebody():
    assert step(RUNS, Presence.HALTED, resumable=True) == Resume()
    assert step(PAUSED, Presence.HALTED, resumable=True) == NOTHING
    button = newer(RUNS, reset_nonce=3)
    assert decide(button, known(button, Presence.HALTED, reset_nonce=1), 0) == Reset(3)
    again = newer(RUNS, reboot_nonce=3)
    assert decide(again, known(again, Presence.HALTED, reboot_nonce=1), 0) == Reboot(again)


def test_a_newer_intent_is_accepted_and_an_older_one_changes_nothing():
    later = newer(RUNS, Desired.STOPPED)
    assert decide(later, known(RUNS, Presence.RUNNING), 0) == Accept(later)
    assert decide(RUNS, known(later, Presence.NONE), 0) == NOTHING
    assert decide(RUNS, known(newer(RUNS), Presence.NONE), 0) == Start(newer(RUNS))


def test_what_was_not_told_of_is_left_alone():
    for presence in Presence:
        if presence is not Presence.UNKNOWN:
            assert decide(None, known(RUNS, presence), 0) == NOTHING
            assert decide(None, known(None, presence), 0) == NOTHING


def test_a_tombstone_stays_until_a_desired_state_omits_it():
    buried = known(ABSENT, deleted=True)
    assert decide(ABSENT, buried, 0) == NOTHING
    assert decide(None, buried, 0, synced=False) == NOTHING
    assert decide(None, buried, 0) == Forget()


def test_a_guest_that_powered_itself_off_stays_off_until_somebody_wants_it_again():
    ended = {"exit_reason": ExitReason.GUEST_SHUTDOWN, "ended_under": 1}
    assert step(RUNS, **ended) == NOTHING
    assert decide(newer(RUNS), known(newer(RUNS), **ended), 0) == Start(newer(RUNS))
    always = vm_intent(restart=RestartPolicy.ALWAYS)
    assert step(always, **ended) == Start(always)


def test_a_crash_is_healed_after_a_pause_unless_the_policy_is_never():
    ended = {"exit_reason": ExitReason.CRASHED, "ended_under": 1}
    assert step(RUNS, **ended, retry_at=100.5) == RetryAt(100.5)
    assert step(RUNS, **ended, retry_at=99.5) == Start(RUNS)
    never = vm_intent(restart=RestartPolicy.NEVER)
    assert step(never, **ended) == NOTHING
    assert decide(newer(never), known(newer(never), **ended), 0) == Start(newer(never))


def test_after_a_reboot_of_the_host_runs_what_should_run():
    ended = {"exit_reason": ExitReason.HOST_REBOOT, "ended_under": 1}
    assert step(RUNS, **ended) == Start(RUNS)
    assert step(OFF, **ended) == NOTHING
    assert step(vm_intent(restart=RestartPolicy.NEVER), **ended) == NOTHING


def test_what_we_stopped_ourselves_is_started_if_it_should_run():
    for reason in (ExitReason.STOPPED, ExitReason.KILLED):
        assert step(RUNS, exit_reason=reason, ended_under=1) == Start(RUNS)


def test_numbers_of_reboots_and_resets_are_acted_on_once():
    again = newer(RUNS, reboot_nonce=1)
    assert decide(again, known(again, Presence.RUNNING, reboot_nonce=0), 0) == Reboot(again)
    assert decide(again, known(again, Presence.RUNNING), 0) == NOTHING
    button = newer(RUNS, reset_nonce=3)
    assert decide(button, known(button, Presence.RUNNING, reset_nonce=1), 0) == Reset(3)


DATA = VolumeId("vol-00000000000000000000000001")
WITH_DATA = msgspec.structs.replace(RUNS, volumes=(VolumeAttachment(volume=DATA),))


def test_a_running_machine_is_given_its_volumes_and_gives_back_others():
    assert step(WITH_DATA, Presence.RUNNING, volumes=frozenset()) == Plug(WITH_DATA)
    assert step(WITH_DATA, Presence.RUNNING, volumes=frozenset({DATA})) == NOTHING
    assert step(RUNS, Presence.RUNNING, volumes=frozenset({DATA})) == Plug(RUNS)
    assert step(RUNS, Presence.STARTING, volumes=frozenset({DATA})) == NOTHING


def test_a_machine_that_takes_no_volumes_while_it_runs_is_left_as_it_is():
    assert step(WITH_DATA, Presence.RUNNING, volumes=None) == NOTHING


def test_a_reboot_goes_on_even_if_the_guest_powered_itself_off_meanwhile():
    again = newer(RUNS, reboot_nonce=1)
    off = known(again, reboot_nonce=0, exit_reason=ExitReason.GUEST_SHUTDOWN, ended_under=2)
    assert decide(again, off, 0) == Start(again)


def test_numbers_for_a_machine_that_is_off_are_only_recorded():
    both = newer(OFF, reboot_nonce=2, reset_nonce=3)
    assert decide(both, known(both, reboot_nonce=0, reset_nonce=0), 0) == RecordNonces(2, 3)
    assert decide(both, known(both), 0) == NOTHING


def test_what_failed_for_good_waits_for_a_newer_intent_and_other_failures_for_their_time():
    assert step(RUNS, failure=FailureClass.PERMANENT) == NOTHING
    assert step(RUNS, failure=FailureClass.TRANSIENT, retry_at=101.0) == RetryAt(101.0)
    assert step(RUNS, failure=FailureClass.WAITING, retry_at=99.0) == Start(RUNS)
    later = newer(RUNS)
    assert decide(later, known(RUNS, failure=FailureClass.PERMANENT), 0) == Accept(later)


def fleet(count: int, desired: Desired = Desired.RUNNING) -> dict[VmId, VmIntent]:
    return {intent.id: intent for intent in (vm_intent(desired=desired) for _ in range(count))}


def removing(fleet: dict[VmId, VmIntent], count: int, *, allowed: bool = False) -> NodeIntent:
    vms = [newer(intent, Desired.ABSENT) if index < count else intent for index, intent in enumerate(fleet.values())]
    return node_intent(*vms, teardown_allowed=allowed)


@pytest.mark.parametrize(
    ("here", "gone", "ok"), [(3, 3, True), (4, 4, False), (10, 3, True), (10, 4, False), (20, 5, True), (20, 6, False)]
)
def test_one_sync_tears_down_three_or_a_quarter_and_not_more(here: int, gone: int, ok: bool):
    machines = fleet(here)
    facts = {vm: known(intent, Presence.RUNNING) for vm, intent in machines.items()}
    made = plan(removing(machines, gone), facts, 0)
    assert len(made.refused) == (0 if ok else gone)
    assert len(made.steps) == (gone if ok else 0)
    assert refused(removing(machines, gone, allowed=True), facts) == frozenset()


def test_what_is_refused_goes_on_as_it_was_wanted_before():
    machines = fleet(8)
    facts = {vm: known(intent) for vm, intent in machines.items()}
    made = plan(removing(machines, 8), facts, 0)
    assert made.refused == machines.keys()
    assert all(isinstance(each, Start) for each in made.steps.values())


def test_deletions_accepted_before_do_not_count_again():
    machines = fleet(8)
    wanted = removing(machines, 8)
    facts = {vm.id: known(vm) for vm in wanted.vms}
    assert refused(wanted, facts) == frozenset()


def test_machines_that_are_not_here_are_not_torn_down_by_being_absent():
    wanted = node_intent(*(vm_intent(desired=Desired.ABSENT) for _ in range(10)), teardown_allowed=False)
    assert refused(wanted, {}) == frozenset()


def test_held_is_what_is_here_and_not_told_of():
    machines = fleet(3)
    facts = {vm: known(intent) for vm, intent in machines.items()}
    buried = vm_id()
    facts[buried] = known(ABSENT, deleted=True)
    assert held(node_intent(), facts) == tuple(sorted(machines))
    assert held(None, facts) == ()


def test_newer_intent_interrupts_what_it_makes_pointless_and_nothing_else():
    assert interrupts(Start(RUNS), newer(RUNS, Desired.STOPPED))
    assert interrupts(Start(RUNS), newer(RUNS, Desired.ABSENT))
    assert interrupts(Start(RUNS), newer(RUNS, spec=msgspec.structs.replace(RUNS.spec, cpus=2)))
    assert not interrupts(Start(RUNS), newer(RUNS))
    assert not interrupts(Start(RUNS), newer(RUNS, Desired.PAUSED))
    assert not interrupts(Start(RUNS), None)
    graceful = Stop(OFF, force=False)
    assert interrupts(graceful, newer(OFF, Desired.RUNNING))
    assert interrupts(graceful, newer(OFF, force_stop=True))
    assert not interrupts(graceful, newer(OFF))
    assert not interrupts(Stop(OFF, force=True), newer(OFF, Desired.RUNNING))
    assert interrupts(Reboot(RUNS), newer(RUNS, Desired.STOPPED))
    assert not interrupts(Reboot(RUNS), newer(RUNS))
    assert interrupts(Adopt(), newer(RUNS, Desired.ABSENT))
    assert not interrupts(Delete(), newer(RUNS))
    for off in (Desired.STOPPED, Desired.ABSENT):
        assert interrupts(Plug(RUNS), newer(RUNS, off))
    assert not interrupts(Plug(RUNS), newer(RUNS))
    assert interrupts(Plug(RUNS), None, retiring=True)


def test_what_only_waits_for_a_disk_is_interrupted_by_anything_newer():
    assert interrupts(Plug(RUNS), newer(RUNS), waiting=True)
    assert not interrupts(Plug(RUNS), None, waiting=True)
    assert not interrupts(Start(RUNS), newer(RUNS), waiting=True)
    assert not interrupts(Delete(), newer(RUNS), waiting=True)


class World:
    """A node in memory: processes as they are, records as an agent writes them, and the agent's view, which a crash of
    the agent takes away. Refuses what must never happen."""

    def __init__(self) -> None:
        self.processes: dict[VmId, Presence] = {}
        self.known: dict[VmId, Known] = {}
        self.now = 0.0
        self.resets = self.reboots = 0
        self.told: NodeIntent | None = None
        self.torn_down: set[VmId] = set()

    def intent(self, vm: VmId) -> VmIntent | None:
        return next((each for each in (self.told.vms if self.told else ()) if each.id == vm), None)

    def crash_of_agent(self) -> None:
        self.known = {
            vm: replace(facts, presence=facts.presence if facts.deleted else Presence.UNKNOWN, failure=None)
            for vm, facts in self.known.items()
        }

    def end(self, vm: VmId, reason: ExitReason) -> None:
        """A process ends; an agent that watches notes it."""
        if self.processes.pop(vm, None) is None:
            return
        if self.known[vm].presence is not Presence.UNKNOWN:
            self._note_end(vm, reason)

    def _note_end(self, vm: VmId, reason: ExitReason) -> None:
        facts = self.known[vm]
        delay = 1.0 if reason is ExitReason.CRASHED else 0.0
        self.known[vm] = replace(
            facts,
            presence=Presence.NONE,
            exit_reason=reason,
            ended_under=facts.generation,
            retry_at=self.now + delay,
        )

    def apply(self, vm: VmId, step: object, *, works: bool = True) -> None:
        facts = self.known.get(vm)
        if facts is None:
            facts = self.known[vm] = Known(presence=Presence.NONE)
        if not works and not isinstance(step, Accept | RetryAt):
            self.known[vm] = replace(facts, failure=FailureClass.TRANSIENT, retry_at=self.now + 0.5)
            return
        self.known[vm] = replace(facts, failure=None)
        getattr(self, f"_{step.__class__.__name__.lower()}")(vm, step)

    def _accept(self, vm: VmId, step: Accept) -> None:
        facts = self.known[vm]
        assert step.intent.generation > facts.generation, "a generation went back"
        first = facts.intent is None
        self.known[vm] = replace(
            facts,
            intent=step.intent,
            deleted=False,
            retry_at=0.0,
            reboot_nonce=step.intent.reboot_nonce if first else facts.reboot_nonce,
            reset_nonce=step.intent.reset_nonce if first else facts.reset_nonce,
        )

    def _adopt(self, vm: VmId, _step: Adopt) -> None:
        process = self.processes.get(vm)
        if process is None:
            self._note_end(vm, ExitReason.CRASHED)
        else:
            self.known[vm] = replace(self.known[vm], presence=process)

    def _start(self, vm: VmId, step: Start) -> None:
        assert vm not in self.processes, "started twice"
        self.processes[vm] = Presence.RUNNING
        self.known[vm] = replace(
            self.known[vm],
            presence=Presence.RUNNING,
            reboot_nonce=step.intent.reboot_nonce,
            reset_nonce=step.intent.reset_nonce,
        )

    def _stop(self, vm: VmId, _step: object) -> None:
        self.processes.pop(vm, None)
        self._note_end(vm, ExitReason.STOPPED)

    def _reboot(self, vm: VmId, step: Reboot) -> None:
        self.reboots += 1
        self._stop(vm, step)

    def _reset(self, vm: VmId, step: Reset) -> None:
        self.resets += 1
        self.known[vm] = replace(self.known[vm], reset_nonce=step.nonce)

    def _pause(self, vm: VmId, _step: Pause) -> None:
        self._becomes(vm, Presence.PAUSED)

    def _resume(self, vm: VmId, _step: Resume) -> None:
        self._becomes(vm, Presence.RUNNING)

    def _becomes(self, vm: VmId, presence: Presence) -> None:
        self.processes[vm] = presence
        self.known[vm] = replace(self.known[vm], presence=presence)

    def _delete(self, vm: VmId, _step: Delete) -> None:
        told = self.intent(vm)
        assert told is None or told.desired is Desired.ABSENT or told.generation < self.known[vm].generation
        self.processes.pop(vm, None)
        self.torn_down.add(vm)
        self.known[vm] = replace(self.known[vm], presence=Presence.NONE, deleted=True)

    def _recordnonces(self, vm: VmId, step: RecordNonces) -> None:
        self.known[vm] = replace(self.known[vm], reboot_nonce=step.reboot, reset_nonce=step.reset)

    def _forget(self, vm: VmId, _step: Forget) -> None:
        del self.known[vm]

    def _retryat(self, _vm: VmId, step: RetryAt) -> None:
        self.now = max(self.now, step.at)

    def converge(self) -> None:
        """No more trouble: repeat until there is nothing left to do."""
        for _ in range(40):
            steps = plan(self.told, self.known, self.now).steps
            if not steps:
                return
            for vm, each in steps.items():
                self.apply(vm, each)
        raise AssertionError(f"does not come to rest: {plan(self.told, self.known, self.now).steps}")


NAMES = [vm_id() for _ in range(5)]
TROUBLE = st.sampled_from(["change", "change", "omit", "agent", "crash", "shutdown", "work", "work", "work", "fail"])


@settings(max_examples=300)
@given(data=st.data())
def test_whatever_happens_it_comes_to_rest_as_wanted(data: st.DataObject):
    world = World()
    newest: dict[VmId, VmIntent] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        vm = data.draw(st.sampled_from(NAMES))
        match data.draw(TROUBLE):
            case "change":
                change(world, newest, vm, data)
            case "omit":
                if vm in newest and newest[vm].desired is Desired.ABSENT:
                    continue
                newest.pop(vm, None)
                world.told = node_intent(*newest.values())
            case "agent":
                world.crash_of_agent()
            case "crash":
                world.end(vm, ExitReason.CRASHED)
            case "shutdown":
                world.end(vm, ExitReason.GUEST_SHUTDOWN)
            case outcome:
                for each, step_ in list(plan(world.told, world.known, world.now).steps.items()):
                    world.apply(each, step_, works=outcome == "work")
                    if each == vm and data.draw(st.booleans()):
                        world.crash_of_agent()
                        break
    running_before = {vm for vm in world.processes if world.intent(vm) is None}
    world.converge()
    for vm, intent in newest.items():
        check(world, vm, intent)
    # What was merely omitted is as it was.
    assert running_before <= world.processes.keys()


def change(world: World, newest: dict[VmId, VmIntent], vm: VmId, data: st.DataObject) -> None:
    desired = data.draw(st.sampled_from(list(Desired)))
    facts = world.known.get(vm)
    generation = max(newest[vm].generation if vm in newest else 0, facts.generation if facts else 0) + 1
    before = newest.get(vm) or (facts.intent if facts else None)
    newest[vm] = vm_intent(
        vm,
        desired,
        generation,
        restart=data.draw(st.sampled_from(list(RestartPolicy))),
        force_stop=data.draw(st.booleans()),
        reboot_nonce=(before.reboot_nonce if before else 0) + data.draw(st.integers(0, 1)),
        reset_nonce=(before.reset_nonce if before else 0) + data.draw(st.integers(0, 1)),
    )
    world.told = node_intent(*newest.values())


def check(world: World, vm: VmId, intent: VmIntent) -> None:
    facts = world.known[vm]
    assert facts.generation == intent.generation
    process = world.processes.get(vm)
    match intent.desired:
        case Desired.ABSENT:
            assert process is None
            assert facts.deleted
        case Desired.STOPPED:
            assert process is None
            assert not facts.deleted
        case _:
            stays_down = (
                facts.exit_reason
                in {
                    ExitReason.GUEST_SHUTDOWN,
                    ExitReason.CRASHED,
                }
                and facts.ended_under == intent.generation
            )
            wanted = Presence.PAUSED if intent.desired is Desired.PAUSED else Presence.RUNNING
            assert process is wanted or (process is None and stays_down and intent.spec.restart != RestartPolicy.ALWAYS)
    if not facts.deleted:
        assert (facts.reboot_nonce, facts.reset_nonce) == (intent.reboot_nonce, intent.reset_nonce)


@settings(max_examples=100)
@given(first=st.integers(0, 5), here=st.booleans(), desired=st.sampled_from([Desired.RUNNING, Desired.STOPPED]))
def test_on_first_contact_numbers_are_recorded_and_not_replayed(first: int, here: bool, desired: Desired):
    world = World()
    vm = NAMES[0]
    if here:  # a process that no record tells of
        world.known[vm] = Known(presence=Presence.UNKNOWN)
        world.processes[vm] = Presence.RUNNING
    world.told = node_intent(vm_intent(vm, desired, reboot_nonce=first, reset_nonce=first))
    world.converge()
    assert (world.resets, world.reboots) == (0, 0)
    world.told = node_intent(newer(world.told.vms[0], Desired.RUNNING, reset_nonce=first + 2))
    world.converge()
    assert world.resets == (1 if desired is Desired.RUNNING else 0)


@settings(max_examples=200)
@given(here=st.integers(1, 30), gone=st.integers(1, 30), data=st.data())
def test_the_guard_holds_at_every_look_between_the_steps_of_one_sync(here: int, gone: int, data: st.DataObject):
    gone = min(here, gone)
    machines = fleet(here)
    world = World()
    world.told = node_intent(*machines.values())
    world.converge()
    world.told = removing(machines, gone)
    expected = gone <= max(3, here / 4)
    for _ in range(10):
        steps = list(plan(world.told, world.known, world.now).steps.items())
        if not steps:
            break
        for vm, each in steps[: data.draw(st.integers(1, len(steps)))]:
            world.apply(vm, each)
    world.converge()
    assert len(world.torn_down) == (gone if expected else 0)
    assert len(world.processes) == here - len(world.torn_down)


def test_what_runs_otherwise_than_it_is_wanted_is_changed_once_it_runs():
    from datetime import UTC, datetime

    from nacre.model.hardware import CpuOptions
    from nacre.model.ids import RunId
    from nacre.model.vm_changes import applied, in_force
    from nacre.model.vms import RunInfo

    before = vm_intent(cpu=CpuOptions(max=4))
    run = RunInfo(
        id=RunId("run-1"),
        started_at=datetime(2030, 1, 1, tzinfo=UTC),
        accelerator="tcg",
        accelerator_reason="",
        cpus=before.spec.cpus,
        memory_bytes=before.spec.memory_bytes,
        config=in_force(before.spec),
    )
    wanted = msgspec.structs.replace(before, spec=msgspec.structs.replace(before.spec, cpus=3))
    assert step(wanted, Presence.RUNNING, run=run) == Change(wanted)
    assert step(wanted, Presence.STARTING, run=run) == NOTHING
    assert step(wanted, Presence.RUNNING, run=applied(run, wanted.spec, "cpus")) == NOTHING
    assert step(before, Presence.RUNNING, run=run) == NOTHING
    asleep = msgspec.structs.replace(wanted, desired=Desired.PAUSED)
    assert step(asleep, Presence.PAUSED, run=run) == NOTHING
    assert interrupts(Change(wanted), newer(wanted, Desired.STOPPED))
    assert not interrupts(Change(wanted), newer(wanted, Desired.RUNNING))
