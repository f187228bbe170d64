"""Every situation that a move can be in leads to a step, and every step to a state that the table allows."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from nacre.control.services.move_steps import End, HandOver, Leave, Order, Seek, Step, TakeBack, Wait, next_step
from nacre.control.store.move_streams import StreamRow
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.errors import ConflictError
from nacre.model.convergence import Failure, FailureClass
from nacre.model.ids import ImageId, MoveId, NodeId, ProjectId, RunId, StreamId, VmId, VolumeId
from nacre.model.migrations import ArrivalState, SendState
from nacre.model.moves import MOVE_ENDS, MOVE_STEPS, MoveMethod, MoveReason, MoveState, step
from nacre.model.nodes import NodeState
from nacre.model.vms import Desired, Phase, RunInfo, VmSpec
from nacre.model.volumes import Tie

NOW = datetime(2030, 1, 1, tzinfo=UTC)
A, B = NodeId("node-a"), NodeId("node-b")


def a_move(state: MoveState, target: NodeId | None) -> MoveRow:
    return MoveRow(
        id=MoveId("mov-1"),
        vm=VmId("vm-1"),
        vm_name="web",
        project=ProjectId("prj-1"),
        reason=MoveReason.USER,
        state=state,
        source=A,
        target=target,
        created_by="root",
        created_at=NOW,
        updated_at=NOW,
    )


def a_vm(desired: Desired, phase: Phase, node: NodeId | None, *, seen: bool, failure: Failure | None) -> VmRow:
    return VmRow(
        id=VmId("vm-1"),
        project=ProjectId("prj-1"),
        name="web",
        labels={},
        spec=VmSpec(image=ImageId("img-1")),
        image=ImageId("img-1"),
        image_name="tiny",
        desired=desired,
        generation=3,
        finalizers=[],
        node=node,
        moving=MoveId("mov-1"),
        reserved_cpus=1,
        reserved_memory_bytes=1,
        reserved_disk_bytes=0,
        observed_generation=3 if seen else 2,
        phase=phase,
        since=NOW,
        failure=failure,
        created_at=NOW,
        updated_at=NOW,
    )


def a_node(node: NodeId, state: NodeState) -> NodeRow:
    return NodeRow(
        id=node,
        name=node,
        state=state,
        labels={},
        own_labels={},
        region="",
        zone="",
        key_fingerprint=node,
        created_at=NOW,
        updated_at=NOW,
    )


def a_failure(kind: FailureClass) -> Failure:
    return Failure(failure_class=kind, code="x", message="no", hint="", generation=3, at=NOW)


OPEN = [state for state in MoveState if state not in MOVE_ENDS]
FAILURES = [None, a_failure(FailureClass.TRANSIENT), a_failure(FailureClass.PERMANENT)]


def test_every_situation_leads_to_a_state_that_the_table_allows() -> None:
    looked_at = 0
    for state, desired, phase, seen, where, failure in itertools.product(
        OPEN, Desired, Phase, [True, False], [A, B, None], FAILURES
    ):
        vm = a_vm(desired, phase, where, seen=seen, failure=failure)
        for source, target, aimed, late in itertools.product(
            [*NodeState, None], [*NodeState, None], [B, None], [timedelta(0), timedelta(days=1)]
        ):
            if state in {MoveState.STARTING, MoveState.MIGRATING} and aimed is None:
                continue
            todo = next_step(
                a_move(state, aimed),
                vm,
                None if source is None else a_node(A, source),
                None if target is None or aimed is None else a_node(B, target),
                NOW + late,
            )
            looked_at += 1
            match todo:
                case Wait():
                    to = state
                case Seek():
                    to = MoveState.STOPPING
                    assert state is MoveState.PENDING
                case Leave():
                    to = MoveState.STARTING if aimed is not None else MoveState.DONE
                    assert where == A
                    assert seen
                    assert phase in {Phase.STOPPED, Phase.PENDING}
                case Order():
                    to = state
                    assert state is MoveState.MIGRATING
                case HandOver():
                    to = MoveState.STARTING
                    assert state is MoveState.MIGRATING
                case TakeBack():
                    to = MoveState.PENDING
                    assert aimed is not None
                case End(state=to):
                    assert to in MOVE_ENDS
            assert step(state, to) is to
    assert looked_at > 100_000


RUN = RunInfo(
    id=RunId("run-1"), started_at=NOW, accelerator="tcg", accelerator_reason="", cpus=1, memory_bytes=512 << 20
)
STREAM = StreamRow(
    id=StreamId("str-1"),
    move=MoveId("mov-1"),
    vm=VmId("vm-1"),
    source=A,
    target=B,
    arrival=ArrivalState.COPYING,
    sending=SendState.COPYING,
    addresses=[],
    created_at=NOW,
    changed_at=NOW,
)


def migrating(**changes: object) -> Step:
    """What is next for a machine that is copied, in a world with these differences."""
    wishes = {name: changes.pop(name) for name in list(changes) if name in VmRow.__dataclass_fields__}
    row = a_vm(Desired.RUNNING, Phase.RUNNING, A, seen=True, failure=None)
    row = replace(row, moving=None, run=RUN, **wishes)  # type: ignore[arg-type]
    told = {name: changes.pop(name) for name in list(changes) if name in StreamRow.__dataclass_fields__}
    stream = replace(STREAM, **told)  # type: ignore[arg-type]
    late = changes.pop("late", timedelta(0))
    to = changes.pop("to", NodeState.READY)
    usual: dict[str, object] = {"method": MoveMethod.LIVE, "ordered": True, "attempts": 1}
    move = replace(a_move(MoveState.MIGRATING, B), **(usual | changes))  # type: ignore[arg-type]
    return next_step(move, row, a_node(A, NodeState.READY), a_node(B, to), NOW + late, stream)  # type: ignore[arg-type,operator]


WHOLE = {"sending": SendState.SENT, "arrival": ArrivalState.ARRIVED}
ASKED = [
    {"desired": Desired.STOPPED},
    {"desired": Desired.PAUSED},
    {"reboot_nonce": 1},
    {"reset_nonce": 1},
    {"spec": VmSpec(image=ImageId("img-1"), cpus=4)},
    {"phase": Phase.STOPPED},
]
"""What a user, or the guest, may want instead of going on as it is."""


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_is_asked_for_while_a_machine_is_copied_is_done_where_it_is(asked: dict[str, object]) -> None:
    assert isinstance(migrating(**asked), TakeBack)
    assert isinstance(migrating(**asked, sending=SendState.SENT), TakeBack)
    assert migrating(**asked, **WHOLE) == HandOver()


@pytest.mark.parametrize("reason", list(MoveReason))
def test_a_machine_that_has_to_leave_soon_is_not_copied_on_but_goes_where_all_of_it_is(reason: MoveReason) -> None:
    """Copying has no end where a guest writes faster than the line is."""
    hurried = reason in {MoveReason.EVACUATION, MoveReason.PREEMPTION}
    auto: dict[str, object] = {"reason": reason, "method": MoveMethod.AUTO}
    assert isinstance(migrating(**auto), TakeBack if hurried else Wait)
    assert migrating(**auto, **WHOLE) == HandOver()


VOLUME = VolumeId("vol-1")


def test_a_machine_whose_volumes_have_changed_while_it_was_copied_stays() -> None:
    attached = Tie(volumes=(VOLUME,))
    assert isinstance(migrating(tie=attached), TakeBack)
    assert isinstance(migrating(tie=attached, sending=SendState.SENT), TakeBack)
    assert migrating(tie=attached, **WHOLE) == HandOver()
    reached = Tie(volumes=(VOLUME,), nodes=(A, B), because="data")
    assert migrating(tie=reached, **WHOLE) == HandOver()
    beyond = migrating(tie=Tie(volumes=(VOLUME,), nodes=(A,), because="data"), **WHOLE)
    assert isinstance(beyond, TakeBack)
    assert "volume data" in beyond.message


def test_a_machine_is_handed_over_only_when_both_nodes_say_so() -> None:
    for sending, arrival in itertools.product(SendState, ArrivalState):
        handed = migrating(sending=sending, arrival=arrival) == HandOver()
        assert handed == (sending is SendState.SENT and arrival is ArrivalState.ARRIVED)
    assert isinstance(migrating(**WHOLE, to=NodeState.OFFLINE), TakeBack)


def test_the_source_is_told_once_when_the_target_is_ready() -> None:
    ready = {"arrival": ArrivalState.READY, "sending": SendState.WAITING}
    assert migrating(**ready, ordered=False) == Order()
    assert migrating(**ready) == Wait()


@pytest.mark.parametrize(
    "broken",
    [
        {"sending": SendState.FAILED},
        {"arrival": ArrivalState.FAILED},
        {"sending": SendState.SENT, "arrival": ArrivalState.FAILED},
        {"sending": SendState.SENT, "late": timedelta(minutes=2)},
        {"late": timedelta(hours=1)},
    ],
    ids=str,
)
def test_an_attempt_that_comes_to_nothing_is_followed_by_another_and_after_three_by_none(
    broken: dict[str, object],
) -> None:
    assert isinstance(migrating(**broken), TakeBack)
    end = migrating(**broken, attempts=3)
    assert isinstance(end, End)
    assert end.state is MoveState.FAILED
    assert isinstance(migrating(**broken, attempts=3, method=MoveMethod.AUTO), TakeBack)


def test_another_attempt_waits_a_while_and_until_the_machine_is_settled() -> None:
    move = replace(a_move(MoveState.PENDING, None), method=MoveMethod.LIVE, attempts=1, message="broken")
    row = a_vm(Desired.RUNNING, Phase.RUNNING, A, seen=True, failure=None)
    ready = a_node(A, NodeState.READY)
    assert next_step(move, row, ready, None, NOW) == Wait("broken")
    later = NOW + timedelta(minutes=1)
    assert next_step(move, row, ready, None, later) == Seek()
    unsettled = a_vm(Desired.RUNNING, Phase.RUNNING, A, seen=False, failure=None)
    assert isinstance(next_step(move, unsettled, ready, None, later), Wait)
    assert next_step(replace(move, method=MoveMethod.RESTART), unsettled, ready, None, later) == Seek()


def test_a_machine_that_is_gone_or_goes_ends_its_move() -> None:
    for state in OPEN:
        assert next_step(a_move(state, B), None, None, None, NOW) == End(MoveState.ABORTED, "the machine is gone")
        vm = a_vm(Desired.ABSENT, Phase.RUNNING, A, seen=True, failure=None)
        assert isinstance(next_step(a_move(state, B), vm, None, None, NOW), End)


def test_a_move_that_has_ended_stays_as_it_is() -> None:
    for end, to in itertools.product(MOVE_ENDS, MoveState):
        if end is to:
            continue
        with pytest.raises(ConflictError):
            step(end, to)


def test_every_state_can_be_reached_and_every_open_one_can_end() -> None:
    reached = {MoveState.PENDING}
    while more := {to for state in reached for to in MOVE_STEPS[state]} - reached:
        reached |= more
    assert reached == set(MoveState)
    assert all(MOVE_STEPS[state] & MOVE_ENDS for state in OPEN)


def test_a_failure_of_an_older_intent_says_nothing() -> None:
    old = replace(
        a_vm(Desired.RUNNING, Phase.STARTING, B, seen=False, failure=None),
        generation=9,
        failure=a_failure(FailureClass.PERMANENT),
    )
    ready = a_node(B, NodeState.READY)
    assert next_step(a_move(MoveState.STARTING, B), old, a_node(A, NodeState.READY), ready, NOW) == Wait()
