"""Making room: the fewest and least important machines go, none that matters as much, and only where it helps."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.control.scheduler.placement import fits, place
from nacre.control.scheduler.preemption import Preemption, make_room
from nacre.control.scheduler.snapshot import Fleet, NodeRoom, Request, Resident, TakenPort
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import NodeState
from nacre.model.placement import Policy, Topology
from nacre.model.units import GIB
from support.rooms import PORT, middle, near, node, request, resident


def small(vm: str, on: str, **changes: object) -> Resident:
    return resident(vm, on, **{"preemptible": True, "priority": 10, **changes})


def full(name: str, residents: list[Resident]) -> NodeRoom:
    """A node on which exactly these machines have reserved something, and whose memory they fill."""
    here = [one for one in residents if one.node == name]
    return node(
        name,
        cpus=sum(one.cpus for one in here),
        memory_bytes=sum(one.memory_bytes for one in here),
        disk_bytes=sum(one.disk_bytes for one in here),
    )


def chosen(one: Request, residents: list[Resident], *names: str) -> tuple[str, list[str]] | None:
    fleet = Fleet(Policy(), [full(name, residents) for name in names or ("a",)], residents)
    before = [fleet.room(NodeId(name)) for name in names or ("a",)]
    found = make_room(one, fleet)
    assert [fleet.room(NodeId(name)) for name in names or ("a",)] == before
    return None if found is None else (found.node, [victim.vm for victim in found.victims])


def test_one_large_machine_goes_rather_than_two_small_ones() -> None:
    residents = [small("x", "a", memory_bytes=2 * GIB), small("y", "a", memory_bytes=2 * GIB)]
    residents.append(small("z", "a", memory_bytes=4 * GIB, priority=90))
    assert chosen(request(memory_bytes=4 * GIB), residents) == ("a", ["z"])


def test_of_equally_many_the_least_important_goes() -> None:
    residents = [small("x", "a", memory_bytes=8 * GIB, priority=50), small("y", "b", memory_bytes=8 * GIB, priority=20)]
    assert chosen(request(), residents, "a", "b") == ("b", ["y"])


def test_machines_that_do_not_allow_it_or_matter_as_much_stay() -> None:
    assert chosen(request(), [small("x", "a", memory_bytes=8 * GIB, preemptible=False)]) is None
    assert chosen(request(priority=10), [small("x", "a", memory_bytes=8 * GIB)]) is None
    assert chosen(request(priority=11), [small("x", "a", memory_bytes=8 * GIB)]) == ("a", ["x"])


def test_nobody_goes_where_it_would_not_help() -> None:
    residents = [small("x", "a", memory_bytes=8 * GIB)]
    assert chosen(request(cpus=17), residents) is None
    assert chosen(request(machine="microvm"), residents) is None
    fleet = Fleet(Policy(), [node("a", state=NodeState.CORDONED, memory_bytes=8 * GIB)], residents)
    assert make_room(request(), fleet) is None


def test_nobody_goes_from_a_fleet_that_does_not_know_of_preemption() -> None:
    assert make_room(request(), Fleet(Policy(), [node("a", memory_bytes=8 * GIB)])) is None


def test_the_holder_of_a_port_goes() -> None:
    holder = small("x", "a")
    port = TakenPort(port=PORT, vm=VmId("x"), vm_name="x", project=ProjectId("prj-2"))
    fleet = Fleet(Policy(), [node("a", ports=(port,))], [holder, small("y", "a", priority=1)])
    assert make_room(request(publish=(PORT,)), fleet) == Preemption(node=NodeId("a"), victims=(holder,))
    fleet.settle(resident("x", "a"))
    assert make_room(request(publish=(PORT,)), fleet) is None


def test_those_who_are_to_be_apart_go() -> None:
    residents = [
        small("x", "a", labels={"app": "db"}),
        small("y", "a", labels={"app": "other"}, anti_affinity=(near(app="web"),)),
        small("z", "a", priority=1),
    ]
    one = request(labels={"app": "web"}, anti_affinity=(near(app="db"),))
    assert chosen(one, residents) == ("a", ["x", "y"])


def test_a_neighbour_in_the_zone_that_stays_makes_it_useless() -> None:
    residents = [small("x", "a", memory_bytes=8 * GIB), resident("db", "b", labels={"app": "db"})]
    fleet = Fleet(Policy(), [full("a", residents), full("b", residents)], residents)
    assert make_room(request(anti_affinity=(near(Topology.ZONE, app="db"),), memory_bytes=8 * GIB), fleet) is None


def test_the_machine_that_one_wants_to_be_near_to_does_not_go() -> None:
    residents = [small("x", "a", memory_bytes=8 * GIB, labels={"app": "db"})]
    assert chosen(request(affinity=(near(app="db"),)), residents) is None


def test_many_small_machines_go_one_by_one() -> None:
    residents = [small(f"v{n:02}", "a", cpus=0, memory_bytes=GIB // 8, disk_bytes=0, priority=n) for n in range(64)]
    found = chosen(request(memory_bytes=4 * GIB), residents)
    assert found is not None
    assert found[1] == [f"v{n:02}" for n in range(32)]


def brute(one: Request, room: NodeRoom, residents: list[Resident]) -> tuple[int, int, int] | None:
    """The best of all sets of victims on one node."""
    allowed = [r for r in residents if r.preemptible and r.priority < one.priority]
    costs: list[tuple[int, int, int]] = []
    for number in range(1, len(allowed) + 1):
        for several in combinations(allowed, number):
            left = node(
                room.id,
                cpus=room.cpus - sum(r.cpus for r in several),
                memory_bytes=room.memory_bytes - sum(r.memory_bytes for r in several),
                disk_bytes=room.disk_bytes - sum(r.disk_bytes for r in several),
            )
            if not fits(one, left, Policy()):
                costs.append((number, max(r.priority for r in several), sum(r.priority for r in several)))
    return min(costs, default=None)


MACHINES = st.lists(
    st.builds(
        lambda on, cpus, memory, priority, may: (on, cpus, memory, priority, may),
        st.sampled_from("ab"),
        st.integers(1, 8),
        st.integers(1, 4),
        st.integers(1, 6),
        st.booleans(),
    ),
    max_size=10,
)


@settings(max_examples=150)
@given(MACHINES, st.integers(1, 16), st.integers(1, 8), st.integers(1, 7))
def test_nothing_better_can_be_found_by_trying_everything(
    machines: list[tuple[str, int, int, int, bool]], cpus: int, memory: int, priority: int
) -> None:
    residents = [
        resident(f"v{n}", on, cpus=c, memory_bytes=m * GIB, priority=p, preemptible=may)
        for n, (on, c, m, p, may) in enumerate(machines)
    ]
    rooms = [full(name, residents) for name in "ab"]
    fleet = Fleet(Policy(), rooms, residents)
    one = request(cpus=cpus, memory_bytes=memory * GIB, priority=priority)
    if place(one, fleet, random=middle).node is not None:
        return
    found = make_room(one, fleet)
    best = min(
        (c for room in rooms if (c := brute(one, room, [r for r in residents if r.node == room.id])) is not None),
        default=None,
    )
    if found is None:
        assert best is None
        return
    priorities = [victim.priority for victim in found.victims]
    assert (len(priorities), max(priorities), sum(priorities)) == best
    for victim in found.victims:
        assert victim.preemptible
        assert victim.priority < one.priority
        fleet.release(victim.vm)
    assert not fits(one, fleet.room(found.node), Policy())
