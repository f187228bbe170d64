"""Silence, measured so that a jumping wall clock means nothing."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import pytest

from nacre.control.reconcilers.hearing import Hearing
from nacre.control.reconcilers.nodes import NodeWatch, Silence
from nacre.control.services import node_signs, nodes
from nacre.control.store import nodes as store
from nacre.control.store.db import Database, Read
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState, NodeWish, Usage
from support.cloud import by, cloud

pytestmark = pytest.mark.anyio

NODE = NodeId("node-1")
USAGE = Usage(load1=0, memory_bytes=0, disk_bytes=0)


def test_silence_is_counted_from_when_a_sign_of_life_was_first_noted() -> None:
    clock = ManualClock()
    silence = Silence(round_s=10)
    first = clock.now()
    assert silence.note({NODE: first}, 100.0) == {NODE: 0.0}
    assert silence.note({NODE: first}, 112.0) == {NODE: 12.0}
    clock.jump(-7200)
    assert silence.note({NODE: clock.now()}, 113.0) == {NODE: 0.0}
    assert silence.note({}, 114.0) == {}


def test_time_in_which_the_database_could_not_be_read_does_not_count() -> None:
    clock = ManualClock()
    silence = Silence(round_s=2.5)
    assert silence.note({NODE: clock.now()}, 100.0) == {NODE: 0.0}
    assert silence.note({NODE: clock.now()}, 102.5) == {NODE: 2.5}
    assert silence.note({NODE: clock.now()}, 162.5) == {NODE: 0.0}
    assert silence.note({NODE: clock.now()}, 165.0) == {NODE: 2.5}


async def state(database: Database) -> NodeState:
    async with database.read() as rd:
        return (await nodes.show(rd, by("node:view"), "node-1")).state


async def test_a_node_is_offline_after_its_time_of_silence_and_not_before(
    database: Database, clock: ManualClock
) -> None:
    await cloud(database)
    watch = NodeWatch(database, offline_after_s=15)
    for _ in range(6):
        await watch.once()
        assert await state(database) is NodeState.READY
        clock.advance(2.5)
    await watch.once()
    assert await state(database) is NodeState.OFFLINE


async def test_a_node_that_is_linked_here_is_offline_to_the_second(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    hearing = Hearing(clock, heartbeat_s=5)
    watch = NodeWatch(database, offline_after_s=15, hearing=hearing)
    await watch.once()
    clock.advance(1)
    hearing.hear(platform.agent.node)
    for _ in range(7):
        due = await watch.once()
        tick(clock, hearing, 2)
    assert due == pytest.approx(15 - 12 + 0.005)
    tick(clock, hearing, 0.99)
    await watch.once()
    assert await state(database) is NodeState.READY
    tick(clock, hearing, 0.02)
    await watch.once()
    assert await state(database) is NodeState.OFFLINE


async def test_nodes_that_fall_due_one_after_the_other_are_not_read_about_for_each(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = await cloud(database, node_count=4)
    hearing = Hearing(clock, heartbeat_s=5)
    watch = NodeWatch(database, offline_after_s=15, hearing=hearing)
    await watch.once()
    for agent in platform.agents:
        tick(clock, hearing, 0.25)
        hearing.hear(agent.node)
    for _ in range(7):
        await watch.once()
        tick(clock, hearing, 2)
    reads = 0
    read = node_signs.last_seen

    async def counted(rd: Read) -> Mapping[NodeId, datetime | None]:
        nonlocal reads
        reads += 1
        return await read(rd)

    monkeypatch.setattr(node_signs, "last_seen", counted)
    for gone in range(1, 5):
        tick(clock, hearing, 0.26 if gone == 1 else 0.25)
        await watch.once()
        async with database.read() as rd:
            states = [row.state for row in await store.every(rd)]
        assert states.count(NodeState.OFFLINE) == gone
    assert reads == 1


async def test_nobody_is_judged_while_something_of_theirs_is_unread(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    hearing = Hearing(clock, heartbeat_s=5)
    watch = NodeWatch(database, offline_after_s=15, hearing=hearing)
    unread = {platform.agent.node}
    hearing.attach(unread.__contains__)
    hearing.hear(platform.agent.node)
    for _ in range(10):
        due = await watch.once()
        tick(clock, hearing, 2)
    assert await state(database) is NodeState.READY
    assert due is not None
    assert due < 1
    unread.clear()
    await watch.once()
    assert await state(database) is NodeState.OFFLINE


async def test_after_standing_still_nodes_get_time_anew(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    hearing = Hearing(clock, heartbeat_s=5)
    watch = NodeWatch(database, offline_after_s=15, hearing=hearing)
    hearing.hear(platform.agent.node)
    await watch.once()
    clock.advance(60)
    for _ in range(7):
        await watch.once()
        assert await state(database) is NodeState.READY
        tick(clock, hearing, 2)
    tick(clock, hearing, 2)
    await watch.once()
    assert await state(database) is NodeState.OFFLINE


async def test_a_node_that_other_replicas_hear_stays(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    hearing = Hearing(clock, heartbeat_s=5)
    watch = NodeWatch(database, offline_after_s=15, hearing=hearing)
    hearing.hear(platform.agent.node)
    for _ in range(20):
        await watch.once()
        tick(clock, hearing, 2.5)
        async with database.write() as tx:
            await node_signs.heartbeat(tx, platform.agent.node, USAGE, ())
    assert await state(database) is NodeState.READY


async def test_a_node_in_maintenance_may_be_silent(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        row = await store.get(tx, platform.agent.node, lock=True)
        assert row is not None
        await store.save(tx, row, replace(row, state=NodeState.MAINTENANCE, wish=NodeWish.MAINTENANCE))
    watch = NodeWatch(database, offline_after_s=15)
    for _ in range(10):
        await watch.once()
        clock.advance(2.5)
    assert await state(database) is NodeState.MAINTENANCE


def tick(clock: ManualClock, hearing: Hearing, seconds: float) -> None:
    """Let time pass for a process that does not stand still."""
    for _ in range(round(seconds / 0.01)):
        clock.advance(0.01)
        hearing.tick()


async def test_a_node_that_is_heard_stays(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    watch = NodeWatch(database, offline_after_s=15)
    for _ in range(10):
        await watch.once()
        clock.advance(5)
        async with database.write() as tx:
            await node_signs.heartbeat(tx, platform.agent.node, USAGE, ())
    assert await state(database) is NodeState.READY


async def test_a_wall_clock_that_jumps_makes_no_node_offline(database: Database, clock: ManualClock) -> None:
    await cloud(database)
    watch = NodeWatch(database, offline_after_s=15)
    for jump in (7200, -7200, 86400):
        await watch.once()
        clock.jump(jump)
    await watch.once()
    assert await state(database) is NodeState.READY


async def test_a_control_plane_that_starts_gives_every_node_the_full_time(
    database: Database, clock: ManualClock
) -> None:
    await cloud(database)
    clock.advance(3600)
    await NodeWatch(database, offline_after_s=15).once()
    assert await state(database) is NodeState.READY
