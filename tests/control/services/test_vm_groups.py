"""Rules between machines under concurrency: two replicas that decide at once break none, across nodes too."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nacre.control.reconcilers.vms import BATCH, Placer, decide
from nacre.control.services import move_targets, moves, vm_placement, vm_room, vms
from nacre.control.services.fleet import LiveFleet
from nacre.control.services.vm_placement import Decided
from nacre.control.services.volume_room import PoolRoom
from nacre.control.store import nodes
from nacre.control.store import vms as store
from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId
from nacre.model.moves import MoveReason
from nacre.model.placement import AffinityTerm, Placement, SpreadConstraint, Topology
from nacre.model.units import GIB
from nacre.schema.vms import VmCreate
from support.cloud import Cloud, by, cloud, facts
from support.database import opened

pytestmark = pytest.mark.anyio

WEB = {"app": "web"}


@pytest.fixture
async def replica(database: Database, database_url: str) -> AsyncGenerator[Database]:
    """Another replica on the same database."""
    async with opened(database_url, ManualClock(), Wakes()) as other:
        yield other


def chance() -> float:
    return 0.0


async def zoned(database: Database, *, zones: int, per_zone: int) -> tuple[Cloud, dict[NodeId, str]]:
    """A platform with nodes in zones."""
    platform = await cloud(database, node_count=zones * per_zone)
    zone_of: dict[NodeId, str] = {}
    async with database.write() as tx:
        for index, agent in enumerate(platform.agents):
            row = await nodes.get(tx, agent.node, lock=True)
            assert row is not None
            zone_of[agent.node] = f"zone-{index % zones}"
            await nodes.save(tx, row, replace(row, zone=zone_of[agent.node]))
    return platform, zone_of


async def decided(db: Database, live: LiveFleet, *names: str) -> list[Decided]:
    async with db.read() as rd:
        waiting = [one for one in await vm_placement.waiting(rd, limit=BATCH) if one.row.name in names]
        fleet = await live.refresh(rd)
    return (await decide(waiting, fleet, PoolRoom(), {}, chance))[0]


async def write(db: Database, live: LiveFleet, chosen: list[Decided]) -> int:
    async with db.write() as tx:
        return (await vm_placement.place(tx, chosen, live, random=chance)).placed


async def test_of_two_that_exclude_each_other_from_a_zone_decided_at_once_one_is_placed(
    database: Database, replica: Database
) -> None:
    """Each decider sees an empty zone and chooses another node of it: no lock of a node would stop them."""
    platform, _ = await zoned(database, zones=1, per_zone=2)
    rule = Placement(anti_affinity=(AffinityTerm(labels=WEB, topology=Topology.ZONE),))
    first, second = platform.agents[0].node, platform.agents[1].node
    for name in ("one", "two"):
        await platform.create(name, labels=WEB, placement=rule)
    here, there = LiveFleet(), LiveFleet()
    one = [replace_node(chosen, first) for chosen in await decided(database, here, "one")]
    two = [replace_node(chosen, second) for chosen in await decided(replica, there, "two")]
    placed = await asyncio.gather(write(database, here, one), write(replica, there, two))
    assert sorted(placed) == [0, 1]


async def test_a_plain_machine_does_not_slip_in_beside_one_that_keeps_its_kind_away(
    database: Database, replica: Database
) -> None:
    """Only the other one has a rule, and the decider of this one has not seen it."""
    platform, _ = await zoned(database, zones=1, per_zone=2)
    await platform.create("plain", labels=WEB)
    there = LiveFleet()
    plain = await decided(replica, there, "plain")
    rule = Placement(anti_affinity=(AffinityTerm(labels=WEB, topology=Topology.ZONE),))
    await platform.create("strict", placement=rule)
    here = LiveFleet()
    strict = await decided(database, here, "strict")
    placed = await asyncio.gather(write(database, here, strict), write(replica, there, plain))
    assert sorted(placed) == [0, 1]


def replace_node(chosen: Decided, node: NodeId) -> Decided:
    """The same machine, as if another node had been chosen for it."""
    import msgspec

    return replace(chosen, decision=msgspec.structs.replace(chosen.decision, node=node))


async def everybody(replicas: tuple[Database, Database], bodies: list[VmCreate]) -> None:
    """Create machines through both replicas at once, each of which places at once what it sees."""
    placers = [Placer(db, chance=chance) for db in replicas]

    async def create(number: int, body: VmCreate) -> None:
        async with replicas[number % 2].write() as tx:
            await vms.create(tx, by("vm:create"), body)
        await placers[number % 2].once()

    await asyncio.gather(*(create(number, body) for number, body in enumerate(bodies)))
    for placer in placers:
        while await placer.once() is not None:
            pass


async def where(database: Database) -> dict[str, NodeId]:
    """Node by name of the machines that have one."""
    from nacre.control.services.listing import ListQuery

    async with database.read() as rd:
        rows = (await vms.list_(rd, by("vm:list"), ListQuery(limit=1000))).items
    return {vm.name: vm.node.id for vm in rows if vm.node is not None}


@pytest.mark.parametrize("topology", [Topology.NODE, Topology.ZONE])
async def test_two_replicas_keep_required_anti_affinity(
    database: Database, replica: Database, topology: Topology
) -> None:
    _, zone_of = await zoned(database, zones=3, per_zone=2)
    rule = Placement(anti_affinity=(AffinityTerm(labels=WEB, topology=topology),))
    bodies = [VmCreate(name=f"vm-{number}", image="tiny", labels=WEB, placement=rule) for number in range(16)]
    await everybody((database, replica), bodies)
    placed = await where(database)
    places = [zone_of[node] if topology is Topology.ZONE else node for node in placed.values()]
    assert len(places) == len(set(places)) == (3 if topology is Topology.ZONE else 6)


async def test_two_replicas_keep_a_required_spread(database: Database, replica: Database) -> None:
    _, zone_of = await zoned(database, zones=3, per_zone=2)
    rule = Placement(spread=(SpreadConstraint(labels=WEB, max_skew=1, required=True),))
    bodies = [VmCreate(name=f"vm-{number}", image="tiny", labels=WEB, placement=rule) for number in range(14)]
    await everybody((database, replica), bodies)
    counts = Counter(zone_of[node] for node in (await where(database)).values())
    assert sum(counts.values()) == 14
    assert max(counts.values()) - min(counts.values()) <= 1


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    capacities=st.lists(st.tuples(st.integers(1, 4), st.integers(2, 12)), min_size=2, max_size=4),
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=100, max_size=100),
)
async def test_a_hundred_creations_from_two_replicas_never_overcommit_a_node(
    anyio_backend: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    capacities: list[tuple[int, int]],
    sizes: list[tuple[int, int]],
) -> None:
    from support.database import Templates
    from support.postgres import Cluster

    running: Cluster = request.getfixturevalue("postgres_cluster")
    templates: Templates = request.getfixturevalue("templates")
    name = await templates.postgresql(running)
    urls = [running.url(name), await templates.sqlite(tmp_path_factory.mktemp("race") / "nacre.sqlite")]
    for url in urls:
        async with opened(url, ManualClock(), Wakes()) as one, opened(url, ManualClock(), Wakes()) as two:
            await never_overcommitted((one, two), capacities, sizes)
    await running.drop(name)


async def never_overcommitted(
    replicas: tuple[Database, Database], capacities: list[tuple[int, int]], sizes: list[tuple[int, int]]
) -> None:
    from support.cloud import make_node

    await cloud(replicas[0], node_count=0)
    async with replicas[0].write() as tx:
        for index, (cpus, memory) in enumerate(capacities):
            await make_node(tx, f"node-{index}", told=facts(cpus=cpus, memory_bytes=memory * GIB))
    bodies = [
        VmCreate(name=f"vm-{number}", image="tiny", cpus=cpus, memory_bytes=memory * GIB)
        for number, (cpus, memory) in enumerate(sizes)
    ]
    await everybody(replicas, bodies)
    async with replicas[0].read() as rd:
        rooms, policy = await vm_room.rooms(rd), await vm_room.policy(rd)
        left = await vm_placement.waiting(rd, limit=1000)
    for room in rooms:
        assert room.capacity is not None
        assert room.memory_bytes <= room.capacity.memory_bytes
        assert room.cpus <= room.capacity.cpus * policy.cpu_overcommit
    for one in left:
        assert all(
            room.capacity is not None
            and (
                one.request.memory_bytes > room.capacity.memory_bytes - room.memory_bytes
                or one.request.cpus > room.capacity.cpus * policy.cpu_overcommit - room.cpus
            )
            for room in rooms
        ), "a machine waits that would fit"


async def test_a_move_does_not_lead_beside_a_machine_that_was_placed_there_meanwhile(
    database: Database, replica: Database
) -> None:
    """The move's target was chosen before; nothing but the rule speaks against it."""
    platform, _ = await zoned(database, zones=2, per_zone=2)
    rule = Placement(anti_affinity=(AffinityTerm(labels=WEB, topology=Topology.ZONE),))
    vm = await platform.running("one", labels=WEB, placement=rule)
    assert vm.node is not None
    async with database.write() as tx:
        row = await store.get(tx, vm.id, lock=True)
        assert row is not None
        move = await moves.begin(tx, row, reason=MoveReason.USER, source=vm.node.id, created_by="test")
    async with database.read() as rd:
        decision, _ = move_targets.choose(move, row, await move_targets.everything(rd), chance)
    assert decision.node is not None
    await platform.create("two", labels=WEB, placement=rule)
    while await Placer(replica, chance=chance).once() is not None:
        pass
    two = await platform.vm("two")
    elsewhere = two.node is not None
    async with database.write() as tx:
        accepted = await moves.accept_target(tx, move.id, decision)
    zone_of = {agent.node: index % 2 for index, agent in enumerate(platform.agents)}
    assert elsewhere
    assert two.node is not None
    assert accepted is (zone_of[decision.node] != zone_of[two.node.id])
