"""Nodes are emptied, half way and again."""

import contextlib
import random

import pytest

from nacre.control.reconcilers.drains import DrainReconciler
from nacre.control.reconcilers.moves import MoveReconciler
from nacre.control.services import nodes
from nacre.control.store import drains as store
from nacre.control.store import moves as move_store
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Database
from nacre.errors import ConflictError
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId
from nacre.model.moves import DrainState, MoveReason, MoveState
from nacre.model.nodes import NodeState, NodeWish
from nacre.model.units import GIB, MIB
from nacre.model.vms import Phase
from nacre.schema.moves import NodeDrain, NodeEvacuate
from nacre.schema.nodes import NodeOut
from nacre.schema.vms import VmStop
from support.cloud import Agent, Cloud, by, cloud
from support.ledger import event_types
from support.moving import agent_of, back, begun, move_of, once, settle, silence

pytestmark = pytest.mark.anyio


async def filled(database: Database, count: int, *, node_count: int = 3) -> tuple[Cloud, NodeOut]:
    """`count` machines on node-1, the others empty."""
    platform = await cloud(database, node_count=node_count)
    for index in range(2, node_count + 1):
        await verb(platform, "cordon", f"node-{index}")
    for index in range(count):
        await platform.create(f"vm-{index}", memory_bytes=256 * MIB)
    await platform.converge()
    for index in range(2, node_count + 1):
        await verb(platform, "uncordon", f"node-{index}")
    return platform, await shown(platform)


async def verb(platform: Cloud, name: str, ref: str = "node-1", *args: object) -> NodeOut:
    async with platform.db.write() as tx:
        return await getattr(nodes, name)(tx, by("node:drain"), ref, *args)


async def drained(platform: Cloud, ref: str = "node-1", **fields: object) -> NodeOut:
    return await verb(platform, "drain", ref, NodeDrain(**fields))  # type: ignore[arg-type]


async def shown(platform: Cloud, ref: str = "node-1") -> NodeOut:
    async with platform.db.read() as rd:
        return await nodes.show(rd, by("node:view"), ref)


async def where(platform: Cloud) -> dict[str, int]:
    """How many machines run on each node."""
    found: dict[str, int] = {}
    async with platform.db.read() as rd:
        for row in await vm_store.many(rd, [vm.id for vm in await all_of(platform)]):
            name = next(f"node-{i}" for i, agent in enumerate(platform.agents, 1) if agent.node == row.node)
            found[name] = found.get(name, 0) + (row.phase is Phase.RUNNING)
    return found


async def all_of(platform: Cloud) -> list[vm_store.VmRow]:
    async with platform.db.read() as rd:
        return [row for agent in platform.agents for row in await vm_store.on_node(rd, agent.node)]


async def rounds(platform: Cloud, count: int) -> None:
    mover, drainer = MoveReconciler(platform.db, chance=lambda: 0.0), DrainReconciler(platform.db)
    for _ in range(count):
        await mover.once()
        await drainer.once()
        for agent in platform.agents:
            await agent.sync()


async def test_a_drain_empties_a_node_so_many_at_a_time_and_leaves_it_cordoned(database: Database) -> None:
    platform, _ = await filled(database, 6)
    begun_ = await drained(platform, parallel=2)
    assert (begun_.state, begun_.wish) == (NodeState.DRAINING, NodeWish.DRAINING)
    assert begun_.drain is not None
    assert (begun_.drain.state, begun_.drain.machines, begun_.drain.waiting) == (DrainState.RUNNING, 6, 6)
    most = 0
    for _ in range(20):
        await rounds(platform, 1)
        now = await shown(platform)
        assert now.drain is not None
        most = max(most, now.drain.moving)
        if now.drain.ended_at is not None:
            break
    assert most == 2
    assert now.drain is not None
    assert (now.drain.state, now.drain.moved, now.vms) == (DrainState.DONE, 6, 0)
    assert (now.state, now.wish) == (NodeState.CORDONED, NodeWish.CORDONED)
    assert sum((await where(platform)).values()) == 6
    told = await event_types(database, now.id)
    assert [one for one in told if "drain" in one] == ["node.drain_started", "node.drained"]


async def test_twenty_machines_half_way_and_again(database: Database, clock: ManualClock) -> None:
    platform, _ = await filled(database, 20)
    await drained(platform, parallel=4)
    while True:
        await rounds(platform, 1)
        now = await shown(platform)
        assert now.drain is not None
        if now.drain.moved >= 8:
            break
    aborted = await verb(platform, "abort_drain")
    assert (aborted.state, aborted.wish) == (NodeState.READY, NodeWish.ACTIVE)
    assert aborted.drain is not None
    assert aborted.drain.state is DrainState.ABORTED
    assert aborted.drain.waiting == 0
    await settle(platform)
    await platform.converge()
    half = await shown(platform)
    assert 0 < half.vms < 20
    assert sum((await where(platform)).values()) == 20
    with pytest.raises(ConflictError, match="is not being drained"):
        await verb(platform, "abort_drain")

    clock.advance(1)
    await drained(platform)
    await settle(platform)
    now = await shown(platform)
    assert now.drain is not None
    assert (now.drain.state, now.drain.machines, now.vms) == (DrainState.DONE, half.vms, 0)
    assert sum((await where(platform)).values()) == 20


async def test_a_second_drain_is_the_first(database: Database) -> None:
    platform, _ = await filled(database, 2)
    first, second = await drained(platform), await drained(platform, parallel=7)
    assert first.drain is not None
    assert second.drain is not None
    assert (second.drain.id, second.drain.parallel) == (first.drain.id, 4)


async def test_maintenance_begins_when_the_node_is_empty_and_is_ended_by_uncordon(database: Database) -> None:
    platform, _ = await filled(database, 2)
    await drained(platform)
    asked = await verb(platform, "maintenance", "node-1", NodeDrain())
    assert asked.state is NodeState.DRAINING
    await settle(platform)
    now = await shown(platform)
    assert (now.state, now.wish, now.vms) == (NodeState.MAINTENANCE, NodeWish.MAINTENANCE, 0)
    again = await verb(platform, "uncordon")
    assert (again.state, again.wish) == (NodeState.READY, NodeWish.ACTIVE)


async def test_uncordon_ends_a_drain_half_way(database: Database) -> None:
    platform, _ = await filled(database, 4)
    await verb(platform, "cordon")
    await drained(platform, parallel=1)
    await rounds(platform, 2)
    now = await verb(platform, "uncordon")
    assert (now.state, now.wish) == (NodeState.READY, NodeWish.ACTIVE)
    assert now.drain is not None
    assert now.drain.state is DrainState.ABORTED


async def test_an_abort_goes_back_to_what_was_wished_before(database: Database) -> None:
    platform, _ = await filled(database, 1)
    await verb(platform, "cordon")
    await drained(platform)
    assert (await verb(platform, "abort_drain")).state is NodeState.CORDONED


async def test_a_drain_that_takes_too_long_ends_as_an_abort_does(database: Database, clock: ManualClock) -> None:
    platform, _ = await filled(database, 3)
    await drained(platform, parallel=1, timeout_s=60.0)
    await once(platform)
    assert await DrainReconciler(database).once() == 60.0
    clock.advance(61)
    await DrainReconciler(database).once()
    now = await shown(platform)
    assert now.drain is not None
    assert (now.drain.state, now.state) == (DrainState.TIMED_OUT, NodeState.READY)
    await settle(platform)
    await platform.converge()
    assert (await where(platform))["node-1"] == 3


async def test_what_fits_nowhere_is_said_at_once_and_the_others_go(database: Database) -> None:
    platform, _ = await filled(database, 4)
    await verb(platform, "cordon", "node-2")
    await verb(platform, "cordon", "node-3")
    await platform.create("huge", memory_bytes=12 * GIB, priority=1)
    await platform.converge()
    await verb(platform, "uncordon", "node-2")
    await platform.create("other", memory_bytes=8 * GIB)
    await platform.converge()
    await verb(platform, "cordon", "node-3")
    await drained(platform, parallel=1)
    await once(platform)
    (huge,) = [move for move in await moves_of(platform) if move.vm_name == "huge"]
    assert huge.state is MoveState.FAILED
    assert "memory" in huge.message
    await settle(platform)
    now = await shown(platform)
    assert now.drain is not None
    assert (now.drain.state, now.drain.moved, now.drain.failed) == (DrainState.INCOMPLETE, 4, 1)
    assert (now.state, now.vms) == (NodeState.CORDONED, 1)
    assert (await platform.vm("huge")).phase is Phase.RUNNING


async def moves_of(platform: Cloud, ref: str = "node-1") -> list[move_store.MoveRow]:
    now = await shown(platform, ref)
    assert now.drain is not None
    async with platform.db.read() as rd:
        return await move_store.of_drain(rd, now.drain.id)


async def test_a_target_that_is_lost_half_way_is_said_and_the_drain_goes_on(database: Database) -> None:
    platform, _ = await filled(database, 12)
    await drained(platform, parallel=6)
    await rounds(platform, 1)
    await once(platform)
    target = next(move.target for move in await moves_of(platform) if move.target is not None)
    assert target is not None
    await silence(platform, target)
    await settle(platform, silent=frozenset({target}))
    now = await shown(platform)
    assert now.drain is not None
    assert (now.drain.state, now.vms) == (DrainState.DONE, 0)
    ended = await moves_of(platform)
    lost = [move for move in ended if move.state is MoveState.FAILED]
    assert all(move.target == target and "is offline" in move.message for move in lost)
    assert {move.state for move in ended} <= {MoveState.DONE, MoveState.FAILED}


async def test_a_node_that_goes_silent_while_it_is_drained_is_drained_on_when_it_is_back(database: Database) -> None:
    platform, node = await filled(database, 3)
    await drained(platform, parallel=1)
    await rounds(platform, 1)
    await silence(platform, node.id)
    await once(platform)
    await DrainReconciler(database).once()
    now = await shown(platform)
    assert (now.state, now.wish) == (NodeState.OFFLINE, NodeWish.DRAINING)
    assert now.drain is not None
    assert now.drain.state is DrainState.RUNNING
    await back(platform, node.id)
    assert (await shown(platform)).state is NodeState.DRAINING
    await settle(platform)
    assert (await shown(platform)).vms == 0


async def test_a_silent_node_is_not_drained(database: Database) -> None:
    platform, node = await filled(database, 1)
    await silence(platform, node.id)
    with pytest.raises(ConflictError, match="nobody can switch its machines off") as refused:
        await drained(platform)
    assert "nacre node evacuate node-1" in refused.value.hint


async def test_two_nodes_drained_at_once_do_not_send_machines_to_each_other(database: Database) -> None:
    platform, _ = await filled(database, 4)
    await drained(platform, parallel=4)
    await once(platform)
    await drained(platform, "node-2")
    await settle(platform)
    assert [(await shown(platform, f"node-{index}")).vms for index in (1, 2, 3)] == [0, 0, 4]


async def test_machines_that_are_off_leave_without_being_started_and_deleted_ones_are_waited_for(
    database: Database,
) -> None:
    platform, node = await filled(database, 3)
    await platform.verb("stop", "vm-0", VmStop())
    await platform.verb("delete", "vm-1")
    await drained(platform)
    await settle(platform)
    now = await shown(platform)
    assert now.drain is not None
    assert (now.drain.state, now.drain.machines, now.vms) == (DrainState.DONE, 2, 0)
    off = await platform.vm("vm-0")
    assert (off.phase, off.run, off.node is not None and off.node.id != node.id) == (Phase.STOPPED, None, True)


async def test_what_a_user_moves_already_is_not_moved_twice(database: Database) -> None:
    platform, _ = await filled(database, 2)
    own = await begun(platform, "vm-0")
    await drained(platform)
    await settle(platform)
    now = await shown(platform)
    assert now.drain is not None
    assert (now.drain.machines, now.drain.state, now.vms) == (1, DrainState.DONE, 0)
    assert (await move_of(platform, own)).state is MoveState.DONE


async def test_an_evacuation_asks_no_guest_and_takes_over_a_drain(database: Database) -> None:
    platform, node = await filled(database, 3)
    await drained(platform, parallel=1)
    await once(platform)
    asked = [intent.force_stop for intent in (await agent_of(platform, node.id).intents()).values()]
    assert asked == [False] * 3
    async with database.write() as tx:
        done = await nodes.evacuate(tx, by("node:evacuate"), "node-1", NodeEvacuate())
    assert done.node.drain is not None
    assert done.node.drain.reason is MoveReason.EVACUATION
    forced = [intent.force_stop for intent in (await agent_of(platform, node.id).intents()).values()]
    assert sorted(forced) == [False, False, True]
    await settle(platform)
    async with database.read() as rd:
        rows = [row for agent in platform.agents for row in await vm_store.on_node(rd, agent.node)]
    assert [(row.force_stop, row.phase) for row in rows] == [(False, Phase.RUNNING)] * 3


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_on_the_way_nothing_is_stuck_or_lost(sqlite_database: Database, seed: int) -> None:
    """Nodes fall silent and come back, drains are aborted and repeated, users ask for anything; then all settles."""
    chance = random.Random(seed)
    platform, _ = await filled(sqlite_database, 6, node_count=4)
    silent: set[NodeId] = set()
    mover, drainer = MoveReconciler(sqlite_database, chance=chance.random), DrainReconciler(sqlite_database)
    for _ in range(50):
        agent = chance.choice(platform.agents)
        if chance.random() < 0.3:
            await lost_or_found(platform, chance, silent)
        elif agent.node not in silent:
            await something(platform, chance, agent)
        await mover.once()
        await drainer.once()
        await at_most_one_home(platform)
    for node in sorted(silent):
        await back(platform, node)
    for agent in platform.agents:
        await abort_if_any(platform, agent.node)
        await verb(platform, "uncordon", agent.node)
    await settle(platform, rounds=20)
    await platform.converge()
    for index in range(6):
        assert (await platform.vm(f"vm-{index}")).conditions.converged
    async with sqlite_database.read() as rd:
        assert await store.running(rd) == []


async def lost_or_found(platform: Cloud, chance: random.Random, silent: set[NodeId]) -> None:
    if silent and chance.random() < 0.5:
        found = chance.choice(sorted(silent))
        silent.discard(found)
        await back(platform, found)
    elif len(silent) < 2:
        node = chance.choice([agent.node for agent in platform.agents if agent.node not in silent])
        await silence(platform, node)
        silent.add(node)


async def something(platform: Cloud, chance: random.Random, agent: Agent) -> None:
    name = f"vm-{chance.randrange(6)}"
    match chance.choice(["drain", "abort", "stop", "start", "sync", "sync", "move"]):
        case "drain":
            await drained(platform, agent.node, parallel=chance.randint(1, 4))
        case "abort":
            await abort_if_any(platform, agent.node)
        case "stop" | "start" as asked:
            await platform.verb(asked, name)
        case "move":
            with contextlib.suppress(ConflictError):  # it is moved already
                await begun(platform, name)
        case _:
            await agent.sync()


async def abort_if_any(platform: Cloud, node: NodeId) -> None:
    async with platform.db.read() as rd:
        running = await store.of_node(rd, node)
    if running is not None:
        await verb(platform, "abort_drain", node)


async def at_most_one_home(platform: Cloud) -> None:
    """No machine runs, by what its nodes have said and were told, where it is not placed."""
    homes: dict[str, NodeId] = {}
    for agent in platform.agents:
        for vm in await agent.intents():
            assert vm not in homes
            homes[vm] = agent.node
