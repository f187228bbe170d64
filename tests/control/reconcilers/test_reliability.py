"""Reliability is judged every minute by one replica; a node that comes and goes gets nothing until it is steady."""

import pytest

from nacre.control.reconcilers.reliability import INTERVAL_S, Reliabilities
from nacre.control.services import events, node_signs, nodes, vm_room
from nacre.control.services import reliability as judging
from nacre.control.services.reliability import Terms
from nacre.control.services.reliability_score import STEADY_BELOW
from nacre.control.store import nodes as store
from nacre.control.store.db import Database
from nacre.control.store.nodes import NodeRow
from nacre.lib.clock import ManualClock
from nacre.model.events import Actor, ActorKind
from nacre.model.ids import NodeId
from nacre.model.nodes import Condition, ConditionKind, NodeState, Usage
from nacre.model.units import GIB
from support.cloud import by, cloud, facts, make_node
from support.ledger import event_types

pytestmark = pytest.mark.anyio

TERMS = Terms(heartbeat_s=5, offline_after_s=15)
USAGE = Usage(load1=4.8, memory_bytes=GIB, disk_bytes=GIB)


def replica(database: Database, name: str = "one") -> Reliabilities:
    return Reliabilities(database, name, TERMS)


async def row_of(database: Database, ref: str = "node-1") -> NodeRow:
    async with database.read() as rd:
        row = await store.get(rd, ref)
    assert row is not None
    return row


async def heard(database: Database, node: NodeId, *wrong: Condition) -> None:
    async with database.write() as tx:
        await node_signs.heartbeat(tx, node, USAGE, wrong)


async def lost(database: Database, node: NodeId) -> None:
    row = await row_of(database, node)
    async with database.write() as tx:
        assert await node_signs.silent(tx, node, row.last_seen_at)


async def told(database: Database, node: NodeId, type_: str, times: int = 1, actor: ActorKind = ActorKind.NODE) -> None:
    async with database.write() as tx:
        for _ in range(times):
            who = Actor(kind=actor, id=node, name="node-1")
            events.emit(tx, type=type_, actor=who, noun="vm", object_id="vm", object_name="x", project=None, message="")


async def test_every_part_is_visible(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    clock.advance(2 * 3600)
    await heard(database, platform.agent.node)
    await replica(database).round()
    reliability = (await row_of(database)).reliability
    assert reliability is not None
    assert reliability.parts == {"uptime": 1.0, "response": 1.0, "success": 1.0, "capacity": 1.0, "stability": 1.0}
    assert reliability.score == 1.0


async def test_what_becomes_of_machines_is_counted_by_node_and_once(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database, node_count=2)
    good, bad = (agent.node for agent in platform.agents)
    judge = replica(database)
    await told(database, bad, "vm.crashed", 50)  # before anyone looked
    await judge.round()
    await told(database, good, "vm.started", 3)
    await told(database, bad, "vm.started")
    await told(database, bad, "vm.crashed", 2)
    await told(database, bad, "vm.failed")
    await told(database, good, "vm.failed", 5, ActorKind.SYSTEM)  # not the node's doing
    for _ in range(3):
        await judge.round()
    first, second = (await row_of(database, good)).reliability, (await row_of(database, bad)).reliability
    assert first is not None
    assert second is not None
    assert (first.successes, first.failures, first.parts["success"]) == (3, 0, 1.0)
    assert (second.successes, second.failures, second.parts["success"]) == (1, 3, pytest.approx(0.4))
    assert second.score < first.score


async def test_conditions_and_states_show(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database, node_count=2)
    full, gone = (agent.node for agent in platform.agents)
    clock.advance(3600)
    wrong = Condition(kind=ConditionKind.DISK_PRESSURE, message="full", hint="make room", since=clock.now())
    await heard(database, full, wrong)
    await lost(database, gone)
    clock.advance(5)
    judge = replica(database)
    await judge.round()
    first, second = (await row_of(database, full)).reliability, (await row_of(database, gone)).reliability
    assert first is not None
    assert second is not None
    assert (first.parts["stability"], second.parts["stability"]) == (0.7, 0.0)
    assert (first.parts["uptime"], second.parts["uptime"]) == (1.0, 0.1)
    assert (judge.summary.nodes, judge.summary.lowest) == (2, second.score)
    assert judge.summary.mean == pytest.approx((first.score + second.score) / 2)


async def test_a_jump_of_our_own_wall_clock_makes_no_node_unreliable(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    clock.advance(3600)
    await heard(database, platform.agent.node)
    clock.jump(7200)
    await replica(database).round()
    reliability = (await row_of(database)).reliability
    assert reliability is not None
    assert reliability.parts["uptime"] == 0.9  # as after the longest silence of a node that is not offline


async def test_nothing_is_written_for_nodes_that_are_as_they_were(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    clock.advance(86400 * 10)
    judge = replica(database)
    await heard(database, platform.agent.node)
    await judge.round()
    revision = (await row_of(database)).revision
    for _ in range(5):
        clock.advance(INTERVAL_S)
        await heard(database, platform.agent.node)
        await judge.round()
    assert judge.summary.written == 0
    assert (await row_of(database)).revision == revision


async def test_one_replica_judges_and_another_takes_over(database: Database, clock: ManualClock) -> None:
    await cloud(database)
    one, two = replica(database, "one"), replica(database, "two")
    await one.round()
    await two.round()
    assert (one.summary.nodes, two.summary.nodes) == (1, 0)
    clock.advance(10 * INTERVAL_S)
    await two.round()
    await one.round()
    assert (one.summary.nodes, two.summary.nodes) == (0, 1)


# Flapping


async def come_and_go(database: Database, clock: ManualClock, node: NodeId, times: int) -> None:
    for _ in range(times):
        await lost(database, node)
        clock.advance(20)
        await heard(database, node)


async def test_a_node_that_flaps_is_damped_at_once_and_taken_again_when_steady(
    database: Database, clock: ManualClock
) -> None:
    platform = await cloud(database, node_count=2)
    node = platform.agents[0].node
    await heard(database, node)
    await come_and_go(database, clock, node, 2)
    assert not vm_room.empty_room(await row_of(database)).flapping
    await come_and_go(database, clock, node, 1)
    row = await row_of(database)
    assert row.state is NodeState.READY
    assert vm_room.empty_room(row).flapping  # without any reconciler in between
    async with database.read() as rd:
        shown = await nodes.show(rd, by("node:view"), "node-1")
    assert [condition.kind for condition in shown.conditions] == [ConditionKind.FLAPPING]
    await platform.create("late")
    await platform.converge()
    late = await platform.vm("late")
    assert late.node is not None
    assert late.node.name == "node-2"

    judge = replica(database)
    for _ in range(9):
        await judge.round()
        assert (await row_of(database)).reliability is not None
        clock.advance(INTERVAL_S)
        await heard(database, node)
    for _ in range(3):
        clock.advance(INTERVAL_S)
        await heard(database, node)
        await judge.round()
    row = await row_of(database)
    assert row.reliability is not None
    assert row.reliability.flaps < STEADY_BELOW
    assert not vm_room.empty_room(row).flapping
    types = await event_types(database, node)
    assert types.count("node.condition_raised") == 1
    assert types.count("node.condition_cleared") == 1


async def test_an_agent_that_connects_again_flaps_like_one_that_is_heard_again(
    database: Database, clock: ManualClock
) -> None:
    platform = await cloud(database)
    node = platform.agent.node
    for number in range(3):
        await lost(database, node)
        async with database.write() as tx:
            await node_signs.connected(tx, node, facts(), f"instance-{number}")
    assert vm_room.empty_room(await row_of(database)).flapping
    assert "node.condition_raised" in await event_types(database, node)


async def test_connecting_often_without_having_been_offline_is_no_flap(database: Database) -> None:
    platform = await cloud(database)
    for number in range(10):
        async with database.write() as tx:
            await node_signs.connected(tx, platform.agent.node, facts(), f"instance-{number}")
    reliability = (await row_of(database)).reliability
    assert reliability is None or reliability.flaps == 0


async def test_a_flap_during_a_round_is_not_overwritten(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    node = platform.agent.node
    async with database.read() as rd:
        told = await judging.outcomes(rd, after=None)
    pages = [page async for page in judging.judgements(database, TERMS, told)]
    await come_and_go(database, clock, node, 3)
    async with database.write() as tx:
        await judging.save(tx, pages[0])
    assert vm_room.empty_room(await row_of(database)).flapping


async def test_a_fleet_is_judged_and_only_what_changed_is_written(database: Database, clock: ManualClock) -> None:
    count = 1000
    async with database.write() as tx:
        for number in range(count):
            await make_node(tx, f"node-{number}", told=facts())
    clock.advance(3600)
    judge = replica(database)
    await judge.round()
    assert (judge.summary.nodes, judge.summary.written) == (count, count)
    clock.advance(INTERVAL_S)
    await judge.round()
    assert (judge.summary.nodes, judge.summary.written) == (count, 0)
