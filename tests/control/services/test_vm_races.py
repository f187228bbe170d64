"""Everybody at once: users, agents, heartbeats and the placer on the same machines, over two replicas."""

import asyncio
import random
from collections.abc import AsyncGenerator

import pytest

from nacre.control.reconcilers.vms import Placer
from nacre.control.services import node_signs, operations, vm_room, vms
from nacre.control.services.listing import ListQuery
from nacre.control.store import nodes, published_ports
from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.errors import NacreError
from nacre.lib.clock import ManualClock
from nacre.model.nodes import Usage
from nacre.model.units import GIB, MIB
from nacre.model.vms import Desired, PublishedPort
from nacre.schema.vms import VmCreate, VmUpdate
from support.cloud import Agent, Cloud, by, cloud, facts, put
from support.database import opened

pytestmark = pytest.mark.anyio

NAMES = [f"vm-{number}" for number in range(6)]
USAGE = Usage(load1=0, memory_bytes=0, disk_bytes=0)


@pytest.fixture
async def replica(database: Database, database_url: str) -> AsyncGenerator[Database]:
    """Another replica on the same database."""
    async with opened(database_url, ManualClock(), Wakes()) as other:
        yield other


async def change(db: Database, chance: random.Random) -> None:
    """One request of a user. That it may be refused is part of the game; that it may fail is not."""
    name = chance.choice(NAMES)
    port = PublishedPort(guest_port=80, host_port=chance.randrange(8000, 8004))
    size = chance.choice([256, 512]) * MIB
    verb = chance.choice(["create", "create", "start", "stop", "pause", "reboot", "update", "delete", "cancel"])
    try:
        async with db.write() as tx:
            if verb == "create":
                await vms.create(tx, by("vm:create"), VmCreate(name=name, image="tiny", publish=(port,)))
            elif verb == "update":
                await vms.update(tx, by("vm:update"), name, VmUpdate(memory_bytes=size, publish=(port,)))
            elif verb == "cancel":
                running = await operations.list_(tx, by("operation:list"), ListQuery(filters={"state": "running"}))
                for operation in running.items[:1]:
                    await operations.cancel(tx, by("operation:cancel"), operation.id, {"vm": vms.cancel})
            else:
                await getattr(vms, verb)(tx, by(f"vm:{verb}"), name)
    except NacreError:
        return


async def users(db: Database, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        await change(db, chance)


async def agents(platform: Cloud) -> None:
    for _ in range(15):
        for agent in platform.agents:
            await agent.sync()


async def heartbeats(db: Database, platform: Cloud) -> None:
    for _ in range(15):
        async with db.write() as tx:
            for node in sorted(agent.node for agent in platform.agents):
                await node_signs.heartbeat(tx, node, USAGE, ())
        await asyncio.sleep(0)


async def placers(db: Database) -> None:
    for _ in range(15):
        await Placer(db).once()
        await asyncio.sleep(0)


async def test_everybody_at_once_blocks_nobody_and_ends_in_what_was_asked_last(
    database: Database, replica: Database
) -> None:
    platform = await cloud(database, node_count=2, told=facts(memory_bytes=2 * GIB))
    both = (database, replica)
    elsewhere = Cloud(
        db=replica, project=platform.project, image=platform.image, agents=[Agent(replica, platform.agents[1].node)]
    )
    here = Cloud(db=database, project=platform.project, image=platform.image, agents=[platform.agents[0]])
    async with asyncio.TaskGroup() as group:
        for seed in range(4):
            group.create_task(users(both[seed % 2], seed))
        group.create_task(agents(here))
        group.create_task(agents(elsewhere))
        for db in both:
            group.create_task(heartbeats(db, platform))
            group.create_task(placers(db))

    settled = Cloud(db=database, project=platform.project, image=platform.image, agents=here.agents + elsewhere.agents)
    for _ in range(3):
        await settled.converge()
    async with database.read() as rd:
        rows = (await vms.list_(rd, by("vm:list"), ListQuery())).items
        rooms = await vm_room.rooms(rd)
        held = await published_ports.held(rd)
        running = (await operations.list_(rd, by("operation:list"), ListQuery(filters={"state": "running"}))).items
    waiting = {vm.id for vm in rows if vm.node is None and vm.desired is not Desired.STOPPED}
    assert [vm.name for vm in rows if not vm.conditions.converged and vm.id not in waiting] == []
    assert {operation.object_id for operation in running} <= waiting
    assert all(node.capacity is not None and node.memory_bytes <= node.capacity.memory_bytes for node in rooms)
    assert len({(one.node, one.port.host_port) for one in held}) == len(held)


async def test_a_change_of_ports_waits_for_a_placement_that_has_begun(database: Database, replica: Database) -> None:
    """Both lock the node first, so neither waits for what the other has."""
    platform = await cloud(database, told=facts(memory_bytes=1 * GIB))
    (agent,) = platform.agents
    vm = (await platform.create("web", memory_bytes=512 * MIB)).resource
    port = PublishedPort(guest_port=80, host_port=8080)

    async def publish() -> None:
        async with replica.write() as tx:
            await vms.update(tx, by("vm:update"), vm.id, VmUpdate(publish=(port,)))

    async with database.write() as tx:
        await nodes.every(tx, [agent.node], lock=True)
        changing = asyncio.create_task(publish())
        await asyncio.sleep(0.5)  # until it waits; if it does not yet, nothing is lost but what this proves
        await put(tx, vm.id, agent.node)
    await changing
    async with database.read() as rd:
        (held,) = await published_ports.held(rd)
    assert (held.vm, held.node, held.port) == (vm.id, agent.node, port)
