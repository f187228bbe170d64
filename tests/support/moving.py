"""Machines on their way between the nodes of a `Cloud`, step by step, and whole fleets until nothing moves any more."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from nacre.control.reconcilers.drains import DrainReconciler
from nacre.control.reconcilers.moves import MoveReconciler
from nacre.control.reconcilers.vms import Placer
from nacre.control.services import moves, node_signs
from nacre.control.store import drains, nodes
from nacre.control.store import moves as store
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Database
from nacre.control.store.moves import MoveRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import MOVES, NODES, VMS, node_topic
from nacre.model.ids import NodeId
from nacre.model.moves import MoveReason
from support.cloud import Agent, Cloud, cloud, facts, make_node


async def row_of(platform: Cloud, name: str = "web") -> VmRow:
    """A machine's row."""
    shown = await platform.vm(name)
    async with platform.db.read() as rd:
        row = await vm_store.get(rd, shown.id)
    assert row is not None
    return row


async def begun(
    platform: Cloud, name: str = "web", *, pinned: NodeId | None = None, reason: MoveReason = MoveReason.USER
) -> MoveRow:
    """A move that has just been asked for."""
    row = await row_of(platform, name)
    assert row.node is not None
    async with platform.db.write() as tx:
        locked = await vm_store.get(tx, row.id, lock=True)
        assert locked is not None
        return await moves.begin(tx, locked, reason=reason, source=row.node, pinned=pinned, created_by="root")


async def move_of(platform: Cloud, move: MoveRow) -> MoveRow:
    """The move as it is now."""
    async with platform.db.read() as rd:
        row = await store.get(rd, move.id)
    assert row is not None
    return row


def agent_of(platform: Cloud, node: NodeId | None) -> Agent:
    """The agent of a node."""
    return next(agent for agent in platform.agents if agent.node == node)


def other_agent(platform: Cloud, node: NodeId | None) -> Agent:
    """The first agent that is not that of a node."""
    return next(agent for agent in platform.agents if agent.node != node)


async def once(platform: Cloud) -> None:
    """One round of the reconciler of moves."""
    await MoveReconciler(platform.db, chance=lambda: 0.0).once()


async def stopping(database: Database, *, node_count: int = 2, **fields: object) -> tuple[Cloud, MoveRow]:
    """A machine that is on its way and has not left its node."""
    platform = await cloud(database, node_count=node_count)
    await platform.running("web", **fields)
    move = await begun(platform)
    await once(platform)
    return platform, await move_of(platform, move)


async def starting(database: Database, **fields: object) -> tuple[Cloud, MoveRow]:
    """A machine that has left its node and does not run on the other yet."""
    platform, move = await stopping(database, **fields)
    await agent_of(platform, move.source).sync()
    await once(platform)
    return platform, await move_of(platform, move)


async def silence(platform: Cloud, node: NodeId | None) -> None:
    """A node falls silent and is noticed."""
    assert node is not None
    async with platform.db.write() as tx:
        row = await nodes.get(tx, node)
        assert row is not None
        assert await node_signs.silent(tx, node, row.last_seen_at)


async def back(platform: Cloud, node: NodeId | None) -> None:
    """A silent node is heard again."""
    assert node is not None
    async with platform.db.write() as tx:
        await node_signs.connected(tx, node, facts(), "instance-1")
    agent_of(platform, node).sequence = 0


async def settle(platform: Cloud, *, silent: frozenset[NodeId] = frozenset(), rounds: int = 60) -> None:
    """Let everyone work until nothing moves and no drain runs. Agents of `silent` nodes do nothing."""
    mover, drainer = MoveReconciler(platform.db, chance=lambda: 0.0), DrainReconciler(platform.db)
    for _ in range(rounds):
        await mover.once()
        await drainer.once()
        for agent in platform.agents:
            if agent.node not in silent:
                await agent.sync()
        async with platform.db.read() as rd:
            left = await store.under_way(rd, limit=10)
            if not left and not await drains.running(rd):
                return
    raise AssertionError(f"still under way: {left}")


@contextlib.asynccontextmanager
async def working(db: Database, *, node_count: int = 2) -> AsyncGenerator[list[Agent]]:
    """Nodes that do at once what they are told, and reconcilers that place, move and drain."""
    async with db.write() as tx:
        agents = [Agent(db, await make_node(tx, f"node-{number}")) for number in range(1, node_count + 1)]
    workers = (Placer(db).once, MoveReconciler(db).once, DrainReconciler(db).once)

    async def work() -> None:
        with db.wakes.listen(VMS, MOVES, NODES, *(node_topic(agent.node) for agent in agents)) as bell:
            while True:
                for each in (*workers, *(agent.sync for agent in agents)):
                    await each()
                await bell.wait(0.5)

    task = asyncio.create_task(work())
    try:
        yield agents
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
