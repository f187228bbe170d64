"""Silence, measured so that a jumping wall clock means nothing."""

import pytest

from nacre.control.reconcilers.nodes import NodeWatch, Silence
from nacre.control.services import node_signs, nodes
from nacre.control.store.db import Database
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState, Usage
from support.cloud import by, cloud

pytestmark = pytest.mark.anyio

NODE = NodeId("node-1")
USAGE = Usage(load1=0, memory_bytes=0, disk_bytes=0)


def test_silence_is_counted_from_when_a_sign_of_life_was_first_noted() -> None:
    clock = ManualClock()
    silence = Silence()
    first = clock.now()
    assert silence.note({NODE: first}, 100.0) == {NODE: 0.0}
    assert silence.note({NODE: first}, 112.0) == {NODE: 12.0}
    clock.jump(-7200)
    assert silence.note({NODE: clock.now()}, 113.0) == {NODE: 0.0}
    assert silence.note({}, 114.0) == {}


async def state(database: Database) -> NodeState:
    async with database.read() as rd:
        return (await nodes.show(rd, by("node:view"), "node-1")).state


async def test_a_node_is_offline_after_its_time_of_silence_and_not_before(
    database: Database, clock: ManualClock
) -> None:
    await cloud(database)
    watch = NodeWatch(database, offline_after_s=15)
    for _ in range(3):
        await watch.once()
        assert await state(database) is NodeState.READY
        clock.advance(7)
    await watch.once()
    assert await state(database) is NodeState.OFFLINE


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
