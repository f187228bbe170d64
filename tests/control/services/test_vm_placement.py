"""Placement under concurrency: no node is ever overcommitted, no port is ever given twice, whoever races whom."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from nacre.control.reconcilers.vms import BATCH, Placer, decide
from nacre.control.services import nodes, vm_placement, vm_room, vms
from nacre.control.services.fleet import LiveFleet
from nacre.control.services.vm_placement import Decided, Outcome
from nacre.control.services.volume_room import PoolRoom
from nacre.control.store import nodes as node_store
from nacre.control.store import placements, published_ports
from nacre.control.store import vms as store
from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.errors import ConflictError
from nacre.lib.clock import ManualClock
from nacre.model.convergence import FailureClass
from nacre.model.nodes import NodeState, Reliability
from nacre.model.units import GIB
from nacre.model.vm_checks import ports_overlap
from nacre.model.vms import Phase, PublishedPort
from nacre.schema.vms import VmCreate
from support.cloud import by, cloud, facts
from support.database import opened
from support.ledger import event_types

pytestmark = pytest.mark.anyio


@pytest.fixture
async def replica(database: Database, database_url: str) -> AsyncGenerator[Database]:
    """Another replica on the same database."""
    async with opened(database_url, ManualClock(), Wakes()) as other:
        yield other


async def test_a_hundred_creations_at_once_overcommit_no_node_and_share_no_port(
    database: Database, replica: Database
) -> None:
    platform = await cloud(database, node_count=3, told=facts(cpus=4, memory_bytes=12 * GIB))
    replicas = (database, replica)
    addresses = ("127.0.0.1", "0.0.0.0", "127.0.0.2")

    async def create(number: int) -> None:
        port = PublishedPort(guest_port=80, host_port=8000 + number % 20, host_address=addresses[number % 3])
        body = VmCreate(name=f"vm-{number}", image="tiny", memory_bytes=GIB, publish=(port,))
        replica = replicas[number % 2]
        async with replica.write() as tx:
            await vms.create(tx, by("vm:create"), body)
        await Placer(replica).once()

    await asyncio.gather(*(create(number) for number in range(100)))
    for replica_ in replicas:
        while await Placer(replica_).once() is not None:
            pass

    async with database.read() as rd:
        rooms = await vm_room.rooms(rd)
        policy = await vm_room.policy(rd)
        held = await published_ports.held(rd)
        placed = [row for agent in platform.agents for row in await store.on_node(rd, agent.node)]
        waiting = await placements.waiting(rd, limit=100)
    assert len(placed) + len(waiting) == 100
    assert len(placed) == 36, "three nodes of 12 GiB are full"
    for node in rooms:
        assert node.capacity is not None
        assert node.memory_bytes <= node.capacity.memory_bytes * policy.memory_overcommit
        assert node.cpus <= node.capacity.cpus * policy.cpu_overcommit
    assert len(held) == len(placed)
    for index, one in enumerate(held):
        clash = [two for two in held[:index] if two.node == one.node and ports_overlap(one.port, two.port)]
        assert clash == []
    assert all(row.failure is not None for row in waiting)


async def test_of_many_who_want_the_only_nodes_port_one_gets_it(database: Database, replica: Database) -> None:
    await cloud(database)
    answers: Counter[str] = Counter()

    async def create(number: int) -> None:
        body = VmCreate(name=f"vm-{number}", image="tiny", publish=(PublishedPort(guest_port=80, host_port=8080),))
        try:
            async with (database, replica)[number % 2].write() as tx:
                await vms.create(tx, by("vm:create"), body)
        except ConflictError as error:
            answers[error.code] += 1
        else:
            answers["accepted"] += 1

    await asyncio.gather(*(create(number) for number in range(20)))
    assert answers == {"accepted": 1, "port_in_use": 19}


async def decided(database: Database, live: LiveFleet, *names: str) -> list[Decided]:
    """What a decider that looks now would do with these machines, or with all."""
    async with database.read() as rd:
        waiting = [one for one in await vm_placement.waiting(rd, limit=BATCH) if not names or one.row.name in names]
        fleet = await live.refresh(rd)
    return (await decide(waiting, fleet, PoolRoom(), {}, random))[0]


async def write(database: Database, live: LiveFleet, chosen: list[Decided]) -> Outcome:
    async with database.write() as tx:
        return await vm_placement.place(tx, chosen, live, random=random)


def random() -> float:
    return 0.0


async def test_a_decision_that_another_has_overtaken_is_not_written(database: Database) -> None:
    platform = await cloud(database, told=facts(memory_bytes=2 * GIB))
    slow, quick = LiveFleet(), LiveFleet()
    await platform.create("one", memory_bytes=2 * GIB)
    placed = await decided(database, slow)
    await platform.create("two", memory_bytes=2 * GIB)
    first = await decided(database, quick, "two")
    assert await write(database, quick, first) == Outcome(placed=1, lost=0)
    assert await write(database, slow, placed) == Outcome(placed=0, lost=1)
    assert (await platform.vm("one")).node is None
    assert (await platform.vm("two")).node is not None


async def test_a_decision_for_an_intent_that_has_changed_is_not_written(database: Database) -> None:
    platform = await cloud(database)
    await platform.create()
    live = LiveFleet()
    placed = await decided(database, live)
    await platform.verb("stop")
    assert await write(database, live, placed) == Outcome(placed=0, lost=0)
    assert (await platform.vm("web")).node is None


async def test_a_machine_that_fits_nowhere_says_why_once_and_is_placed_when_it_can_be(database: Database) -> None:
    platform = await cloud(database, told=facts(memory_bytes=4 * GIB))
    vm = await platform.running("big", memory_bytes=3 * GIB)
    waiting = (await platform.create("more", memory_bytes=2 * GIB)).resource
    for _ in range(3):
        await platform.converge()
    shown = await platform.vm("more")
    assert shown.phase is Phase.PENDING
    failure = shown.conditions.degraded
    assert failure is not None
    assert (failure.failure_class, failure.code) == (FailureClass.WAITING, "not_enough_memory")
    assert "needs 2GiB of memory, 1GiB left" in failure.message
    assert "node-1" not in failure.message
    assert (await event_types(database, waiting.id)) == ["vm.created", "vm.waiting"]
    await platform.verb("delete", vm.id)
    await platform.converge()
    await platform.converge()
    assert (await platform.vm("more")).conditions.converged
    assert (await event_types(database, waiting.id)) == ["vm.created", "vm.waiting", "vm.placed", "vm.started"]


async def test_without_a_node_a_machine_waits_and_says_so(database: Database) -> None:
    platform = await cloud(database, node_count=0)
    await platform.create()
    await platform.converge()
    failure = (await platform.vm("web")).conditions.degraded
    assert failure is not None
    assert failure.code == "no_nodes"
    assert "nacre node token" in failure.hint


async def test_nothing_is_placed_on_a_cordoned_node(database: Database) -> None:
    platform = await cloud(database, node_count=2)
    async with database.write() as tx:
        assert (await nodes.cordon(tx, by("node:cordon"), "node-1")).state is NodeState.CORDONED
    for number in range(3):
        vm = await platform.running(f"vm-{number}")
        assert vm.node is not None
        assert vm.node.name == "node-2"


async def test_a_machine_is_placed_on_a_node_that_comes_and_goes_if_there_is_no_other(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        row = await node_store.get(tx, platform.agent.node, lock=True)
        assert row is not None
        restless = Reliability(flaps=3.0, flapped_at=tx.now(), flapping_since=tx.now())
        await node_store.save(tx, row, replace(row, reliability=restless))
    vm = await platform.running()
    assert vm.node is not None
    assert vm.phase is Phase.RUNNING
