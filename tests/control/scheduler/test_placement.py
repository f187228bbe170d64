"""The scheduler: every reason, the least loaded node, and no promise that a node cannot keep."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.control.scheduler.former import NoPlacement, Placement, place
from nacre.control.scheduler.snapshot import CPU_OVERCOMMIT, NodeRoom, Request, Snapshot, TakenPort
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import Capacity, HypervisorInfo, NodeState
from nacre.model.units import GIB
from nacre.model.vms import PublishedPort, ports_overlap

QEMU = HypervisorInfo(name="qemu", available=True, machines=("q35",))
PORT = PublishedPort(guest_port=80, host_port=8080)


def node(name: str = "a", **changes: object) -> NodeRoom:
    values: dict[str, object] = {
        "id": NodeId(name),
        "name": name,
        "state": NodeState.READY,
        "capacity": Capacity(cpus=4, memory_bytes=8 * GIB, disk_bytes=100 * GIB),
        "hypervisors": (QEMU,),
    }
    return NodeRoom(**{**values, **changes})  # type: ignore[arg-type]


def request(**changes: object) -> Request:
    values: dict[str, object] = {
        "vm": VmId("vm-1"),
        "project": ProjectId("prj-1"),
        "cpus": 1,
        "memory_bytes": GIB,
        "disk_bytes": GIB,
        "hypervisor": "qemu",
        "machine": "q35",
    }
    return Request(**{**values, **changes})  # type: ignore[arg-type]


def taken(project: str = "prj-1") -> TakenPort:
    return TakenPort(port=PORT, vm=VmId("vm-2"), vm_name="holder", project=ProjectId(project))


@pytest.mark.parametrize(
    ("room", "asked", "code"),
    [
        (node(state=NodeState.CORDONED), request(), "node_not_ready"),
        (node(state=NodeState.OFFLINE), request(), "node_not_ready"),
        (node(hypervisors=()), request(), "no_hypervisor"),
        (
            node(hypervisors=(HypervisorInfo(name="qemu", available=False, reason="not installed"),)),
            request(),
            "hypervisor_unavailable",
        ),
        (node(), request(machine="microvm"), "no_machine_type"),
        (node(), request(memory_bytes=9 * GIB), "not_enough_memory"),
        (node(memory_bytes=8 * GIB), request(), "not_enough_memory"),
        (node(), request(cpus=17), "not_enough_cpus"),
        (node(), request(disk_bytes=201 * GIB), "not_enough_disk"),
        (node(ports=(taken(),)), request(publish=(PORT,)), "port_in_use"),
        (node(capacity=None), request(), "not_enough_memory"),
    ],
)
def test_a_node_that_cannot_take_a_machine_says_why(room: NodeRoom, asked: Request, code: str) -> None:
    answer = place(asked, Snapshot(nodes=(room,)))
    assert isinstance(answer, NoPlacement)
    assert code in {reason.code for reason in answer.reasons[room.id]}
    assert room.name not in answer.message.split()


def test_the_least_loaded_node_is_chosen() -> None:
    full, empty = node("a", memory_bytes=6 * GIB), node("b", memory_bytes=GIB)
    assert place(request(), Snapshot(nodes=(full, empty))) == Placement(node=empty.id)
    busy = node("b", memory_bytes=GIB, cpus=15)
    assert place(request(), Snapshot(nodes=(full, busy))) == Placement(node=full.id)


def test_equal_nodes_are_chosen_in_a_stable_order() -> None:
    assert place(request(), Snapshot(nodes=(node("b"), node("a")))) == Placement(node=NodeId("a"))


def test_the_holder_of_a_port_is_named_to_its_own_project_only() -> None:
    own = place(request(publish=(PORT,)), Snapshot(nodes=(node(ports=(taken(),)),)))
    assert isinstance(own, NoPlacement)
    assert "holder" in own.message
    foreign = place(request(publish=(PORT,)), Snapshot(nodes=(node(ports=(taken("prj-2"),)),)))
    assert isinstance(foreign, NoPlacement)
    assert "holder" not in foreign.message
    assert "another machine" in foreign.message


def test_a_platform_without_nodes_says_so() -> None:
    answer = place(request(), Snapshot())
    assert isinstance(answer, NoPlacement)
    assert (answer.code, answer.message) == ("no_nodes", "there is no node")


def test_reasons_of_many_nodes_are_counted() -> None:
    rooms = (node("a", state=NodeState.CORDONED), node("b", state=NodeState.CORDONED), node("c", memory_bytes=8 * GIB))
    answer = place(request(), Snapshot(nodes=rooms))
    assert isinstance(answer, NoPlacement)
    assert answer.code == "no_placement"
    assert "the node is cordoned (2 of 3 nodes)" in answer.message


ADDRESSES = st.sampled_from(["127.0.0.1", "0.0.0.0", "127.0.0.2"])
PORTS = st.builds(PublishedPort, guest_port=st.just(80), host_port=st.integers(8080, 8083), host_address=ADDRESSES)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6), st.lists(PORTS, max_size=2)), min_size=1, max_size=30),
    st.integers(1, 4),
)
def test_whatever_is_asked_no_node_promises_more_than_it_has(
    asked: list[tuple[int, int, list[PublishedPort]]], count: int
) -> None:
    snapshot = Snapshot(nodes=tuple(node(f"n{number}") for number in range(count)))
    for index, (cpus, memory, ports) in enumerate(asked):
        if any(ports_overlap(one, two) for at, one in enumerate(ports) for two in ports[:at]):
            continue
        one = request(vm=VmId(f"vm-{index}"), cpus=cpus, memory_bytes=memory * GIB, publish=tuple(ports))
        answer = place(one, snapshot)
        if isinstance(answer, Placement):
            snapshot = snapshot.with_machine(answer.node, one)
    for room in snapshot.nodes:
        assert room.capacity is not None
        assert room.memory_bytes <= room.capacity.memory_bytes
        assert room.cpus <= room.capacity.cpus * CPU_OVERCOMMIT
        clashes = [
            (one, two)
            for at, one in enumerate(room.ports)
            for two in room.ports[:at]
            if ports_overlap(one.port, two.port)
        ]
        assert clashes == []
