"""What users ask of a machine while it is moved: the newest intent wins, in every state of the move."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest

from nacre.control.store.db import Database
from nacre.control.store.moves import MoveRow
from nacre.model.moves import MoveState
from nacre.model.units import GIB
from nacre.model.vms import Desired, ExitReason, Phase
from nacre.schema.vms import VmStop, VmUpdate
from support.cloud import Cloud, cloud, ended
from support.moving import agent_of, begun, move_of, once, row_of, settle, starting, stopping

pytestmark = pytest.mark.anyio

Setting = Callable[[Database], Awaitable[tuple[Cloud, MoveRow]]]


async def pending(database: Database) -> tuple[Cloud, MoveRow]:
    platform = await cloud(database, node_count=2)
    await platform.running()
    return platform, await begun(platform)


SETTINGS: tuple[Setting, ...] = (pending, stopping, starting)
each_state = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.__name__)


async def outcome(platform: Cloud, move: MoveRow) -> tuple[MoveState, Desired, Phase, bool]:
    """How the move ended, what the machine is, and whether it is on the target."""
    await settle(platform, rounds=8)
    row = await row_of(platform)
    now = await move_of(platform, move)
    assert row.moving is None
    return now.state, row.desired, row.phase, row.node != move.source


@each_state
async def test_start_is_done_and_it_moves(sqlite_database: Database, setting: Setting) -> None:
    platform, move = await setting(sqlite_database)
    await platform.verb("start")
    assert await outcome(platform, move) == (MoveState.DONE, Desired.RUNNING, Phase.RUNNING, True)


@each_state
@pytest.mark.parametrize("force", [False, True])
async def test_stop_moves_it_as_a_machine_that_is_off(sqlite_database: Database, setting: Setting, force: bool) -> None:
    platform, move = await setting(sqlite_database)
    await platform.verb("stop", "web", VmStop(force=force))
    assert await outcome(platform, move) == (MoveState.DONE, Desired.STOPPED, Phase.STOPPED, True)
    assert (await platform.vm("web")).conditions.converged


async def test_stop_by_force_reaches_the_node_while_the_guest_is_still_asked(sqlite_database: Database) -> None:
    platform, move = await stopping(sqlite_database)
    before = (await agent_of(platform, move.source).intents())[move.vm]
    await platform.verb("stop", "web", VmStop(force=True))
    after = (await agent_of(platform, move.source).intents())[move.vm]
    assert (before.desired, before.force_stop) == (Desired.STOPPED, False)
    assert (after.desired, after.force_stop, after.generation > before.generation) == (Desired.STOPPED, True, True)


@each_state
async def test_pause_moves_it_and_it_is_paused(sqlite_database: Database, setting: Setting) -> None:
    platform, move = await setting(sqlite_database)
    await platform.verb("pause")
    assert await outcome(platform, move) == (MoveState.DONE, Desired.PAUSED, Phase.PAUSED, True)


@each_state
@pytest.mark.parametrize("verb", ["reboot", "reset"])
async def test_a_restart_is_done_with_the_move(sqlite_database: Database, setting: Setting, verb: str) -> None:
    platform, move = await setting(sqlite_database)
    await platform.verb(verb)
    assert await outcome(platform, move) == (MoveState.DONE, Desired.RUNNING, Phase.RUNNING, True)
    assert (await platform.vm("web")).conditions.converged


@each_state
async def test_an_update_goes_along(sqlite_database: Database, setting: Setting) -> None:
    platform, move = await setting(sqlite_database)
    await platform.verb("update", "web", VmUpdate(memory_bytes=2 * GIB))
    assert await outcome(platform, move) == (MoveState.DONE, Desired.RUNNING, Phase.RUNNING, True)
    row = await row_of(platform)
    assert row.reserved_memory_bytes == 2 * GIB


async def test_a_machine_that_grows_beyond_its_target_stays_and_the_move_says_why(sqlite_database: Database) -> None:
    """The target keeps 10 of 16 GiB for others; the machine on its way there grows to 8."""
    platform = await cloud(sqlite_database, node_count=1)
    await platform.running("web", memory_bytes=2 * GIB)
    more = await cloud_of_two(platform)
    await more.create("big", memory_bytes=10 * GIB, placement={"node_labels": {"only": "here"}})
    await more.converge()
    move = await begun(more)
    await once(more)
    assert (await move_of(more, move)).state is MoveState.STOPPING
    await more.verb("update", "web", VmUpdate(memory_bytes=8 * GIB))
    assert await outcome(more, move) == (MoveState.FAILED, Desired.RUNNING, Phase.RUNNING, False)
    assert "memory" in (await move_of(more, move)).message


@each_state
async def test_deletion_ends_the_move_at_once(sqlite_database: Database, setting: Setting) -> None:
    platform, move = await setting(sqlite_database)
    await platform.verb("delete")
    now = await move_of(platform, move)
    assert (now.state, now.message) == (MoveState.ABORTED, "the machine is being deleted")
    row = await row_of(platform)
    intents = await agent_of(platform, row.node).intents()
    assert intents[row.id].desired is Desired.ABSENT
    await settle(platform, rounds=3)
    assert [vm for agent in platform.agents for vm in await agent.intents()] == []


@each_state
async def test_a_guest_that_powers_itself_off_stays_off_and_moves(sqlite_database: Database, setting: Setting) -> None:
    platform, move = await setting(sqlite_database)
    row = await row_of(platform)
    agent = agent_of(platform, row.node)
    if row.run is None:
        await agent.sync()
    intent = (await agent.intents())[row.id]
    seen = agent.has[row.id]
    assert seen.run is not None
    off = msgspec.structs.replace(
        seen,
        generation=intent.generation,
        phase=Phase.STOPPED,
        run=ended(seen.run, ExitReason.GUEST_SHUTDOWN, sqlite_database.clock.now()),
    )
    await agent.report(off)
    assert await outcome(platform, move) == (MoveState.DONE, Desired.STOPPED, Phase.STOPPED, True)


async def cloud_of_two(platform: Cloud) -> Cloud:
    """The same platform with another node, which alone has the label `only`."""
    from support.cloud import Agent, facts, make_node

    told = msgspec.structs.replace(facts(), labels={"only": "here"})
    async with platform.db.write() as tx:
        node = await make_node(tx, "node-2", told=told)
    return replace(platform, agents=[*platform.agents, Agent(platform.db, node)])
