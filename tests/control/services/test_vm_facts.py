"""What nodes report becomes rows, events and ended operations."""

from dataclasses import replace

import pytest

from nacre.control.store import vms as store
from nacre.control.store.db import Database
from nacre.control.wake import VMS, Wakes, node_topic
from nacre.model.convergence import Failure, FailureClass
from nacre.model.ids import VmId
from nacre.model.operations import OperationState
from nacre.model.units import GIB
from nacre.model.vms import Desired, ExitReason, Phase
from nacre.schema.vms import VmUpdate
from support.cloud import Agent, at_generation, cloud, ended
from support.ledger import event_types, events_of, operation_state

pytestmark = pytest.mark.anyio


def failure(generation: int, failure_class: FailureClass, agent: Agent) -> Failure:
    return Failure(
        failure_class=failure_class,
        code="image_broken",
        message="the image cannot be read",
        hint="import it again",
        generation=generation,
        at=agent.db.clock.now(),
    )


async def test_a_guest_shutdown_becomes_intent_and_the_node_is_told(database: Database, wakes: Wakes) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    agent = platform.agent
    seen = agent.has[vm.id]
    assert seen.run is not None
    off = ended(seen.run, ExitReason.GUEST_SHUTDOWN, database.clock.now())
    with wakes.listen(node_topic(agent.node)) as bell:
        await agent.report(at_generation(seen, 1, phase=Phase.STOPPED, run=off))
        assert await bell.wait(0)
    shown = await platform.vm("web")
    assert (shown.desired, shown.phase, shown.conditions.generation) == (Desired.STOPPED, Phase.STOPPED, 2)
    assert not shown.conditions.converged
    await agent.sync()
    assert (await platform.vm("web")).conditions.converged
    told = (await events_of(database, vm.id))[-2]
    assert (told.type, told.actor_kind, told.actor_name) == ("vm.guest_shutdown", "node", "node-1")


async def test_a_permanent_failure_ends_the_operation_with_its_reason(database: Database) -> None:
    platform = await cloud(database)
    created = await platform.create()
    await platform.converge()
    agent = platform.agent
    started = await platform.verb("start")
    broken = failure(started.generation, FailureClass.PERMANENT, agent)
    vm = created.resource.id
    await agent.report(at_generation(agent.has[vm], started.generation, phase=Phase.PREPARING, failure=broken))
    assert await operation_state(database, started.operation.id) is OperationState.FAILED
    shown = await platform.vm("web")
    assert shown.conditions.degraded is not None
    assert shown.conditions.degraded.code == "image_broken"
    again = await platform.verb("start")
    assert (await platform.vm("web")).conditions.degraded is None
    await platform.converge()
    assert await operation_state(database, again.operation.id) is OperationState.SUCCEEDED


async def test_a_transient_failure_leaves_the_operation_running(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    agent = platform.agent
    started = await platform.verb("start")
    (vm,) = agent.has
    trouble = failure(started.generation, FailureClass.TRANSIENT, agent)
    await agent.report(at_generation(agent.has[vm], started.generation, phase=Phase.STARTING, failure=trouble))
    assert await operation_state(database, started.operation.id) is OperationState.RUNNING


async def test_facts_older_than_what_is_stored_are_ignored(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    agent = platform.agent
    await platform.verb("stop")
    old = agent.has[vm.id]
    await agent.sync()
    assert not await agent.report(old, sequence=1)
    assert (await platform.vm("web")).phase is Phase.STOPPED
    assert await agent.report(old)
    assert (await platform.vm("web")).phase is Phase.STOPPED


async def test_facts_of_an_agent_that_was_replaced_are_ignored(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    ghost = Agent(database, platform.agent.node, has=dict(platform.agent.has), sequence=99, instance="older")
    assert not await ghost.report(at_generation(ghost.has[vm.id], 1, phase=Phase.STOPPED))
    assert (await platform.vm("web")).phase is Phase.RUNNING


async def test_a_node_cannot_speak_for_machines_of_another(database: Database) -> None:
    platform = await cloud(database, node_count=2)
    vm = await platform.running()
    owner, liar = sorted(platform.agents, key=lambda agent: vm.id not in agent.has)
    await liar.report(at_generation(owner.has[vm.id], 1, phase=Phase.STOPPED))
    assert (await platform.vm("web")).phase is Phase.RUNNING
    await liar.report(complete=True)
    assert (await platform.vm("web")).phase is Phase.RUNNING


async def test_a_machine_that_its_node_has_forgotten_is_not_called_running(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    platform.agent.has.clear()
    await platform.agent.report(complete=True)
    shown = await platform.vm("web")
    assert (shown.phase, shown.conditions.converged) == (Phase.PENDING, False)
    await platform.converge()
    assert (await platform.vm("web")).phase is Phase.RUNNING
    assert (await event_types(database, vm.id))[-2:] == ["vm.lost", "vm.started"]


async def test_a_resync_without_news_writes_nothing(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    before = await _row(database, vm.id)
    told = len(await events_of(database, vm.id))
    database.clock.advance(60)  # type: ignore[attr-defined]
    await platform.agent.report(complete=True)
    assert await _row(database, vm.id) == before
    assert len(await events_of(database, vm.id)) == told


async def test_the_end_of_a_machine_tells_its_node_and_those_who_wait_for_room(
    database: Database, wakes: Wakes
) -> None:
    platform = await cloud(database)
    await platform.running("web", memory_bytes=12 * GIB)
    await platform.create("next", memory_bytes=12 * GIB)
    await platform.converge()
    assert (await platform.vm("next")).node is None
    await platform.verb("delete")
    with wakes.listen(node_topic(platform.agent.node)) as node, wakes.listen(VMS) as room:
        await platform.agent.sync()
        assert await node.wait(0)
        assert await room.wait(0)
    await platform.converge()
    assert (await platform.vm("next")).phase is Phase.RUNNING


async def test_a_restart_with_less_memory_gives_room_back(database: Database) -> None:
    platform = await cloud(database)
    await platform.running("web", memory_bytes=12 * GIB)
    await platform.verb("update", "web", VmUpdate(memory_bytes=GIB))
    await platform.agent.sync()
    assert (await _row(database, (await platform.vm("web")).id)).reserved_memory_bytes == 12 * GIB
    for verb in ("stop", "start"):
        await platform.verb(verb)
        await platform.converge()
    assert (await _row(database, (await platform.vm("web")).id)).reserved_memory_bytes == GIB


async def _row(database: Database, vm: VmId) -> store.VmRow:
    async with database.read() as rd:
        row = await store.get(rd, vm)
    assert row is not None
    return row


async def test_a_report_about_a_placement_that_has_ended_changes_nothing(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    agent = platform.agent
    seen = agent.has[vm.id]
    async with database.write() as tx:
        row = await store.get(tx, vm.id, lock=True)
        assert row is not None
        assert seen.fence == row.fence == 1
        await store.save(tx, replace(row, fence=3, observed_generation=0, phase=Phase.PENDING, run=None))
    for complete in (False, True):
        await agent.report(seen, complete=complete)
        async with database.read() as rd:
            row = await store.get(rd, vm.id)
        assert row is not None
        assert (row.phase, row.run, row.observed_generation) == (Phase.PENDING, None, 0)
