"""Lost nodes are given up and what they ran starts elsewhere: when, how fast, in which order, and by one replica."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise

import pytest

from nacre.control.reconcilers import failover as reconciler
from nacre.control.reconcilers.failover import Failover
from nacre.control.reconcilers.nodes import NodeWatch
from nacre.control.services import leases, node_signs
from nacre.control.services.failover import Terms
from nacre.control.store import node_leases
from nacre.control.store import nodes as node_store
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState, Usage
from support.cloud import Cloud, cloud, put
from support.database import opened
from support.ledger import event_types, events_of

pytestmark = pytest.mark.anyio

TERMS = Terms(lease_s=35, per_s=5, max_share=0.5)
USAGE = Usage(load1=0, memory_bytes=0, disk_bytes=0)


@dataclass
class World:
    """A platform, its replicas' reconcilers, and nodes that renew and beat unless they are dead."""

    platform: Cloud
    clock: ManualClock
    replicas: list[Failover] = field(default_factory=list[Failover])
    dead: set[NodeId] = field(default_factory=set[NodeId])
    watch: NodeWatch | None = None

    @property
    def db(self) -> Database:
        return self.platform.db

    @property
    def nodes(self) -> list[NodeId]:
        return [agent.node for agent in self.platform.agents]

    def replica(self, name: str, terms: Terms = TERMS, db: Database | None = None) -> Failover:
        made = Failover(db or self.db, name, terms)
        self.replicas.append(made)
        return made

    async def second(self) -> None:
        """Let one pass: nodes that live renew and beat, then every replica has its round."""
        self.clock.advance(1)
        for node in self.nodes:
            if node in self.dead:
                continue
            row = await self.node(node)
            async with self.db.write() as tx:
                await node_leases.renew(tx, [(node, row.tenure)], 35)
                await node_signs.heartbeat(tx, node, USAGE, ())
        if self.watch is None:
            self.watch = NodeWatch(self.db, offline_after_s=15)
        await self.watch.once()
        for replica in self.replicas:
            for _ in range(5):
                if await replica.round() != 0.0:
                    break

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            await self.second()

    async def until(self, true: Callable[[NodeState], bool], node: NodeId, *, within: int) -> int:
        """How many seconds pass until the state of a node is so."""
        for second in range(within):
            if true((await self.node(node)).state):
                return second
            await self.second()
        raise AssertionError(f"{node} is {(await self.node(node)).state} after {within} s")

    async def node(self, node: NodeId) -> node_store.NodeRow:
        async with self.db.read() as rd:
            row = await node_store.get(rd, node)
        assert row is not None
        return row

    async def states(self) -> list[NodeState]:
        return [(await self.node(node)).state for node in self.nodes]

    async def left(self, *names: str) -> list[str]:
        """Which of these machines have been taken off their node."""
        gone: list[str] = []
        for name in names:
            async with self.db.read() as rd:
                row = await vm_store.named(rd, self.platform.project, name)
            assert row is not None
            if row.node is None:
                gone.append(name)
        return gone


async def world(database: Database, clock: ManualClock, *, node_count: int = 3, machines: int = 1) -> World:
    """Nodes that are well, and machines `vm-0`, … on the first of them."""
    platform = await cloud(database, node_count=node_count)
    for number in range(machines):
        await place(platform, f"vm-{number}", platform.agents[0].node)
    made = World(platform=platform, clock=clock)
    made.replica("a")
    await made.seconds(2)
    return made


async def place(platform: Cloud, name: str, node: NodeId, **fields: object) -> None:
    await platform.create(name, ha="restart", memory_bytes=64 << 20, **fields)
    async with platform.db.write() as tx:
        row = await vm_store.named(tx, platform.project, name)
        assert row is not None
        await put(tx, row.id, node)


def failed(state: NodeState) -> bool:
    return state is NodeState.FAILED


async def test_a_dead_node_is_given_up_when_its_lease_is_over_and_no_sooner(
    database: Database, clock: ManualClock
) -> None:
    made = await world(database, clock)
    made.dead = {made.nodes[0]}
    await made.seconds(36)
    assert await made.states() == [NodeState.OFFLINE, NodeState.READY, NodeState.READY]
    await made.second()
    assert await made.states() == [NodeState.FAILED, NodeState.READY, NodeState.READY]
    assert await made.left("vm-0") == ["vm-0"]


async def test_an_outage_of_the_control_plane_moves_nothing(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock)
    for outage in (30, 300):
        clock.advance(outage)
        await made.seconds(5)
    assert await made.states() == [NodeState.READY] * 3
    assert await made.left("vm-0") == []


async def test_a_control_plane_that_starts_gives_every_node_the_full_time(
    database: Database, clock: ManualClock
) -> None:
    made = await world(database, clock)
    made.dead = {made.nodes[0]}
    await made.seconds(30)
    made.replicas.clear()
    made.replica("b")
    assert await made.until(failed, made.nodes[0], within=60) >= 36


async def test_a_failed_round_gives_every_node_the_full_time(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock)
    made.dead = {made.nodes[0]}
    await made.seconds(30)
    (replica,) = made.replicas
    good, replica._db = replica._db, Database.from_url("sqlite:////nowhere/at/all", clock, Wakes())
    with pytest.raises(Exception, match="unable to open"):
        await replica.round()
    await replica._db.close()
    replica._db = good
    assert await made.until(failed, made.nodes[0], within=60) >= 36


async def test_a_node_without_machines_to_restart_is_only_offline(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock)
    made.dead = {made.nodes[1]}
    await made.seconds(60)
    assert (await made.node(made.nodes[1])).state is NodeState.OFFLINE


async def test_most_nodes_silent_at_once_is_held_told_once_and_released(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock)
    made.dead = set(made.nodes[:2])
    await made.seconds(60)
    assert await made.states() == [NodeState.OFFLINE, NodeState.OFFLINE, NodeState.READY]
    made.replicas.clear()
    made.replica("b")  # a start in between is no news
    await made.seconds(60)
    assert await event_types(database, "platform") == ["failover.held"]
    (told,) = await events_of(database, "platform")
    assert told.details == {"nodes": ["node-1"], "lost": 2, "of": 3}
    made.dead = {made.nodes[0]}
    await made.seconds(2)
    assert await event_types(database, "platform") == ["failover.held", "failover.released"]
    assert await made.states() == [NodeState.FAILED, NodeState.READY, NodeState.READY]


async def test_the_only_node_is_never_given_up(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock, node_count=1)
    made.dead = set(made.nodes)
    await made.seconds(60)
    assert await made.states() == [NodeState.OFFLINE]


async def test_one_of_two_is_given_up(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock, node_count=2)
    made.dead = {made.nodes[0]}
    await made.until(failed, made.nodes[0], within=40)


async def test_machines_go_by_priority_then_age_and_no_faster_than_allowed(
    database: Database, clock: ManualClock
) -> None:
    made = await world(database, clock, machines=0)
    wanted = {"old": 100, "young": 100, "first": 900, "last": 1, "second": 500}
    for name, priority in wanted.items():
        clock.advance(1)
        await place(made.platform, name, made.nodes[0], priority=priority)
    made.replicas.clear()
    made.replica("a", replace(TERMS, per_s=0.5))
    await made.second()
    made.dead = {made.nodes[0]}
    await made.until(failed, made.nodes[0], within=45)
    order: list[str] = []
    for _ in range(12):
        now = await made.left(*wanted)
        order += [name for name in now if name not in order]
        assert len(now) <= len(order)
        await made.second()
    assert order == ["first", "second", "old", "young", "last"]
    times = [(await events_of(database, row.id))[-1].at for row in await rows(made, order)]
    assert all(later - earlier >= timedelta(seconds=1.9) for earlier, later in pairwise(times))


async def rows(made: World, names: list[str]) -> list[vm_store.VmRow]:
    async with made.db.read() as rd:
        found = [await vm_store.named(rd, made.platform.project, name) for name in names]
    return [row for row in found if row is not None]


async def test_a_node_that_returns_half_way_keeps_the_rest(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock, machines=6)
    names = [f"vm-{number}" for number in range(6)]
    made.replicas.clear()
    made.replica("a", replace(TERMS, per_s=1))
    await made.second()
    made.dead = {made.nodes[0]}
    await made.until(failed, made.nodes[0], within=45)
    await made.seconds(2)
    made.dead = set()
    await made.second()
    kept = len(names) - len(await made.left(*names))
    await made.seconds(60)
    assert 0 < kept < 6
    assert len(names) - len(await made.left(*names)) == kept
    assert await made.states() == [NodeState.READY] * 3


async def test_a_machine_that_is_started_on_a_lost_node_is_started_elsewhere(
    database: Database, clock: ManualClock
) -> None:
    made = await world(database, clock)
    await made.platform.verb("stop", "vm-0")
    made.dead = {made.nodes[0]}
    await made.seconds(60)
    assert await made.states() == [NodeState.OFFLINE, NodeState.READY, NodeState.READY]
    await made.platform.verb("start", "vm-0")
    await made.second()
    assert await made.left("vm-0") == ["vm-0"]


@asynccontextmanager
async def another(database_url: str, clock: ManualClock) -> AsyncGenerator[Database]:
    async with opened(database_url, clock, Wakes()) as database:
        yield database


async def test_of_two_replicas_one_acts_and_when_it_is_gone_the_other_has_counted_all_along(
    database: Database, database_url: str, clock: ManualClock
) -> None:
    made = await world(database, clock, machines=10)
    async with another(database_url, clock) as elsewhere:
        made.replicas.clear()
        made.replica("a", replace(TERMS, per_s=1))
        made.replica("b", replace(TERMS, per_s=1), elsewhere)
        await made.second()
        made.dead = {made.nodes[0]}
        await made.until(failed, made.nodes[0], within=45)
        names = [f"vm-{number}" for number in range(10)]
        before = len(await made.left(*names))
        await made.seconds(3)
        assert len(await made.left(*names)) - before == 3
        del made.replicas[0]
        await made.seconds(9)
        assert len(await made.left(*names)) - before == 3
        await made.seconds(3)
        assert len(await made.left(*names)) - before > 3


async def test_a_lease_from_a_clock_that_was_wrong_is_taken_over(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock)
    async with database.write() as tx:
        await leases.acquire(tx, reconciler.LEASE, "gone", timedelta(hours=2))
    made.dead = {made.nodes[0]}
    await made.until(failed, made.nodes[0], within=60)


async def test_who_has_lost_its_term_changes_nothing(database: Database, clock: ManualClock) -> None:
    made = await world(database, clock)
    made.dead = {made.nodes[0]}
    await made.seconds(36)
    clock.advance(1)
    (replica,) = made.replicas
    acquire = replica._acquire

    async def overtaken() -> int | None:
        term = await acquire()
        async with database.write() as tx:
            seen = await leases.look(tx, reconciler.LEASE)
            assert seen is not None
            await leases.seize(tx, reconciler.LEASE, "b", reconciler.TTL, seen)
        return term

    replica._acquire = overtaken
    with pytest.raises(Exception, match="no longer held"):
        await replica.round()
    assert (await made.node(made.nodes[0])).state is NodeState.OFFLINE
