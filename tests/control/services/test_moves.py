"""Moves between nodes, as rows, with agents that do as they are told."""

from datetime import timedelta

import pytest

from nacre.control.services import moves, node_signs
from nacre.control.services.move_steps import START_WITHIN, STOP_SLACK
from nacre.control.store import copies, nodes
from nacre.control.store import moves as store
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Database
from nacre.errors import ConflictError
from nacre.lib.clock import ManualClock
from nacre.model.copies import CopyState
from nacre.model.moves import MoveReason, MoveState
from nacre.model.nodes import NodeState
from nacre.model.units import GIB
from nacre.model.vms import Desired, Phase
from support.cloud import cloud, facts
from support.ledger import event_types
from support.moving import agent_of, begun, move_of, once, other_agent, row_of, silence, starting, stopping

pytestmark = pytest.mark.anyio


async def test_a_machine_stops_on_its_node_and_starts_on_another(database: Database) -> None:
    platform, move = await stopping(database)
    row = await row_of(platform)
    assert (move.state, row.moving, row.node) == (MoveState.STOPPING, move.id, move.source)
    assert move.target == other_agent(platform, move.source).node
    assert (await agent_of(platform, move.source).intents())[row.id].desired is Desired.STOPPED
    await agent_of(platform, move.source).sync()
    await once(platform)
    move, row = await move_of(platform, move), await row_of(platform)
    assert (move.state, row.moving, row.node) == (MoveState.STARTING, None, move.target)
    assert row.id not in await agent_of(platform, move.source).intents()
    await agent_of(platform, move.target).sync()
    await once(platform)
    move = await move_of(platform, move)
    assert (move.state, move.ended_at is not None) == (MoveState.DONE, True)
    shown = await platform.vm("web")
    assert (shown.phase, shown.conditions.converged) == (Phase.RUNNING, True)
    async with database.read() as rd:
        (left,) = await copies.on_node(rd, move.source)
    assert (left.vm, left.state, left.reason) == (row.id, CopyState.RETIRING, "user")
    told = await event_types(database, row.id)
    assert [one for one in told if "mov" in one] == ["vm.moving", "vm.moved", "vm.move_done"]


async def test_room_on_the_target_is_kept_until_the_machine_is_there(database: Database) -> None:
    platform, move = await stopping(database, memory_bytes=2 * GIB, cpus=2)
    assert move.target is not None
    async with database.read() as rd:
        kept = (await store.reserved(rd))[move.target]
        assert (kept.vms, kept.cpus, kept.memory_bytes) == (1, 2, 2 * GIB)
        assert await store.reserved(rd, [move.source]) == {}
    await agent_of(platform, move.source).sync()
    await once(platform)
    async with database.read() as rd:
        assert await store.reserved(rd) == {}
        assert (await vm_store.reserved(rd))[move.target].memory_bytes == 2 * GIB


async def test_a_machine_is_in_one_move_at_a_time(database: Database) -> None:
    platform, _ = await stopping(database)
    with pytest.raises(ConflictError, match="being moved already"):
        await begun(platform)


async def test_a_pinned_target_is_the_only_one(database: Database) -> None:
    platform = await cloud(database, node_count=3)
    await platform.running()
    row = await row_of(platform)
    wanted = [agent.node for agent in platform.agents if agent.node != row.node][-1]
    move = await begun(platform, pinned=wanted)
    await once(platform)
    assert (await move_of(platform, move)).target == wanted


async def test_a_machine_that_fits_nowhere_runs_on_and_its_move_says_why(database: Database) -> None:
    platform = await cloud(database, node_count=1)
    await platform.running()
    move = await begun(platform)
    await once(platform)
    move = await move_of(platform, move)
    assert move.state is MoveState.FAILED
    assert move.message
    assert (await platform.vm("web")).conditions.converged
    assert "vm.move_failed" in await event_types(database, move.vm)


async def test_a_machine_that_makes_room_has_no_target_and_waits(database: Database) -> None:
    platform = await cloud(database, node_count=1)
    await platform.running("web", preemptible=True)
    move = await begun(platform, reason=MoveReason.PREEMPTION)
    assert move.state is MoveState.STOPPING
    await platform.agent.sync()
    await once(platform)
    row, move = await row_of(platform), await move_of(platform, move)
    assert (row.node, row.desired, row.phase, move.state) == (None, Desired.RUNNING, Phase.PENDING, MoveState.DONE)


async def test_a_stopped_machine_moves_without_being_started(database: Database) -> None:
    platform = await cloud(database, node_count=2)
    await platform.running()
    await platform.verb("stop")
    await platform.converge()
    move = await begun(platform)
    for _ in range(3):
        await once(platform)
        await platform.converge()
    await once(platform)
    assert (await move_of(platform, move)).state is MoveState.DONE
    shown = await platform.vm("web")
    assert (shown.phase, shown.run, shown.conditions.converged) == (Phase.STOPPED, None, True)
    assert "vm.started" not in (await event_types(database, shown.id))[6:]


async def test_what_is_pending_or_stopping_can_be_taken_back_and_what_has_left_cannot(database: Database) -> None:
    platform, move = await stopping(database)
    async with database.write() as tx:
        assert await moves.abort(tx, move, message="no more")
    row = await row_of(platform)
    assert ((await move_of(platform, move)).state, row.moving) == (MoveState.ABORTED, None)
    await platform.converge()
    shown = await platform.vm("web")
    assert (shown.phase, shown.node and shown.node.id) == (Phase.RUNNING, move.source)

    again = await begun(platform)
    async with database.write() as tx:
        assert await moves.abort(tx, again, message="no more")
        assert not await moves.abort(tx, again, message="no more")
    assert (await move_of(platform, again)).state is MoveState.ABORTED

    third = await begun(platform)
    await once(platform)
    await agent_of(platform, third.source).sync()
    await once(platform)
    async with database.write() as tx:
        with pytest.raises(ConflictError, match="has left its node"):
            await moves.abort(tx, third, message="no more")


async def test_a_target_that_is_lost_before_the_machine_left_is_replaced(database: Database) -> None:
    platform, move = await stopping(database, node_count=3)
    await silence(platform, move.target)
    now, row = await move_of(platform, move), await row_of(platform)
    assert (now.state, now.target, row.moving) == (MoveState.PENDING, None, None)
    assert "is offline" in now.message
    await once(platform)
    third = await move_of(platform, move)
    assert third.state is MoveState.STOPPING
    assert third.target not in {move.source, move.target}


async def test_a_target_that_is_lost_after_the_machine_left_keeps_it_and_the_move_says_so(database: Database) -> None:
    platform, move = await starting(database)
    await silence(platform, move.target)
    now = await move_of(platform, move)
    assert now.state is MoveState.FAILED
    assert "is offline" in now.message
    assert (await row_of(platform)).node == move.target


async def test_a_target_that_takes_nothing_any_more_is_replaced(database: Database) -> None:
    platform, move = await stopping(database, node_count=3)
    async with database.write() as tx:
        row = await nodes.get(tx, str(move.target), lock=True)
        assert row is not None
        await nodes.save(tx, row, row.__class__(**{**vars(row), "state": NodeState.CORDONED}))
    await agent_of(platform, move.source).sync()
    await once(platform)
    now = await move_of(platform, move)
    assert (now.state, (await row_of(platform)).node) == (MoveState.PENDING, move.source)
    await once(platform)
    await agent_of(platform, move.source).sync()
    await once(platform)
    assert (await row_of(platform)).node not in {move.source, move.target}


async def test_a_move_from_a_node_that_is_away_waits_until_it_is_back(database: Database) -> None:
    platform, move = await stopping(database)
    await silence(platform, move.source)
    await once(platform)
    assert (await move_of(platform, move)).state is MoveState.STOPPING
    async with database.write() as tx:
        await node_signs.connected(tx, move.source, facts(), "instance-1")
    agent_of(platform, move.source).sequence = 0
    await agent_of(platform, move.source).sync()
    await once(platform)
    assert (await move_of(platform, move)).state is MoveState.STARTING


async def test_a_machine_that_does_not_go_off_is_left_where_it_is(database: Database, clock: ManualClock) -> None:
    platform, move = await stopping(database)
    clock.advance((timedelta(seconds=30) + STOP_SLACK).total_seconds())
    await once(platform)
    now, row = await move_of(platform, move), await row_of(platform)
    assert (now.state, row.moving, row.node) == (MoveState.FAILED, None, move.source)
    assert "was not off within" in now.message


async def test_a_machine_that_does_not_run_on_its_new_node_stays_there_and_the_move_says_why(
    database: Database, clock: ManualClock
) -> None:
    platform, move = await starting(database)
    clock.advance(START_WITHIN.total_seconds())
    await once(platform)
    now = await move_of(platform, move)
    assert (now.state, (await row_of(platform)).node) == (MoveState.FAILED, move.target)
    assert "within 15 minutes" in now.message
