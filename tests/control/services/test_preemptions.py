"""Room that is made for important machines: who goes, who gets the room, and that it ends."""

import pytest

from nacre.control.reconcilers.moves import MoveReconciler
from nacre.control.reconcilers.vms import Placer
from nacre.control.services.vm_placement import PREEMPTING
from nacre.control.store.db import Database
from nacre.model.units import GIB
from nacre.model.vms import Phase
from support.cloud import Cloud, cloud, facts
from support.ledger import event_types

pytestmark = pytest.mark.anyio


async def settle(platform: Cloud, rounds: int = 6) -> None:
    """Let placer, moves and agents do what they do, a few times."""
    for _ in range(rounds):
        await Placer(platform.db).once()
        for agent in platform.agents:
            await agent.sync()
        await MoveReconciler(platform.db).once()


async def full(database: Database) -> Cloud:
    """One node of 4 GiB, full of two machines that may be stopped."""
    platform = await cloud(database, told=facts(memory_bytes=4 * GIB))
    for name, priority in (("low", 10), ("lower", 5)):
        await platform.running(name, memory_bytes=2 * GIB, priority=priority, preemptible=True)
    return platform


async def test_a_machine_of_lower_priority_makes_room_and_waits_itself(database: Database) -> None:
    platform = await full(database)
    vm = (await platform.create("high", memory_bytes=2 * GIB, priority=200)).resource
    await Placer(database).once()
    failure = (await platform.vm("high")).conditions.degraded
    assert failure is not None
    assert (failure.code, failure.message) == (PREEMPTING, "1 machine of lower priority must make room first")
    victim = await platform.vm("lower")
    assert "vm.preempted" in await event_types(database, victim.id)
    await settle(platform)
    assert (await platform.vm("high")).phase is Phase.RUNNING
    assert (await platform.vm("low")).phase is Phase.RUNNING
    left = await platform.vm("lower")
    assert (left.node, left.phase) == (None, Phase.PENDING)
    assert left.conditions.degraded is not None
    assert (await event_types(database, vm.id)).count("vm.waiting") == 1


async def test_what_becomes_free_is_kept_for_the_one_it_was_freed_for(database: Database) -> None:
    platform = await full(database)
    await platform.create("high", memory_bytes=4 * GIB, priority=200)
    await Placer(database).once()
    await platform.create("greedy", memory_bytes=2 * GIB, priority=150)
    await settle(platform)
    assert (await platform.vm("high")).phase is Phase.RUNNING
    assert (await platform.vm("greedy")).node is None
    for name in ("low", "lower"):
        assert (await platform.vm(name)).node is None
        assert (await event_types(database, (await platform.vm(name)).id)).count("vm.preempted") == 1


async def test_nobody_is_stopped_for_a_machine_that_would_not_fit_even_then(database: Database) -> None:
    platform = await full(database)
    await platform.create("huge", memory_bytes=8 * GIB, priority=200)
    await platform.create("equal", memory_bytes=2 * GIB, priority=5)
    await settle(platform)
    for name in ("low", "lower"):
        assert (await platform.vm(name)).phase is Phase.RUNNING
        assert "vm.preempted" not in await event_types(database, (await platform.vm(name)).id)


async def test_a_machine_that_forbids_it_is_not_stopped(database: Database) -> None:
    platform = await cloud(database, told=facts(memory_bytes=2 * GIB))
    await platform.running("quiet", memory_bytes=2 * GIB, priority=1)
    await platform.create("high", memory_bytes=2 * GIB, priority=1000)
    await settle(platform)
    assert (await platform.vm("quiet")).phase is Phase.RUNNING
    assert (await platform.vm("high")).node is None


async def test_room_that_is_no_longer_wanted_goes_back(database: Database) -> None:
    platform = await full(database)
    await platform.create("high", memory_bytes=2 * GIB, priority=200)
    await Placer(database).once()
    await platform.verb("delete", "high")
    await settle(platform)
    assert {(await platform.vm(name)).phase for name in ("low", "lower")} == {Phase.RUNNING}
