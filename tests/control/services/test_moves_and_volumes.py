"""Machines that move while they run, and their volumes: those that the new node reaches follow, when that is done."""

import pytest

from nacre.control.reconcilers.drains import DrainReconciler
from nacre.control.services import move_requests, moves, nodes
from nacre.control.services.listing import ListQuery
from nacre.control.services.vm_room import volume_bytes
from nacre.control.store.db import Database
from nacre.errors import ConflictError
from nacre.model.arrivals import ArrivingVolume, Room
from nacre.model.moves import DrainState, MoveMethod, MoveState
from nacre.model.vms import Phase
from nacre.schema.moves import MoveOut, NodeDrain, VmMove
from support.cloud import Cloud, by
from support.moving import move_of, once, row_of, settle
from support.travelling import (
    holders,
    openers,
    shared_pool,
    traveller,
    travelling,
    volume_row,
    with_volume,
)

pytestmark = pytest.mark.anyio

LIVE = VmMove(method=MoveMethod.LIVE)


async def asked(platform: Cloud, body: VmMove = LIVE, vm: str = "web") -> MoveOut:
    async with platform.db.write() as tx:
        return await move_requests.begin(tx, by("vm:move"), vm, body)


async def shown(platform: Cloud, move: MoveOut) -> MoveOut:
    async with platform.db.read() as rd:
        return await move_requests.show(rd, by("move:view"), move.id)


async def refused(platform: Cloud, body: VmMove = LIVE) -> str:
    with pytest.raises(ConflictError) as caught:
        await asked(platform, body)
    assert caught.value.code == "live_move_impossible"
    assert caught.value.hint
    return caught.value.message


async def on_first(database: Database, *, node_count: int = 2, pool: str | None = "nfs") -> Cloud:
    """A machine that runs on the first node with a volume called `data`."""
    platform = await travelling(database, node_count=node_count)
    if pool is not None:
        await shared_pool(platform, pool)
    for index in range(2, node_count + 1):
        async with platform.db.write() as tx:
            await nodes.cordon(tx, by("node:drain"), f"node-{index}")
    await platform.running("web")
    await with_volume(platform, pool=pool)
    await platform.converge()
    for index in range(2, node_count + 1):
        async with platform.db.write() as tx:
            await nodes.uncordon(tx, by("node:drain"), f"node-{index}")
    return platform


async def under_way(platform: Cloud, move: MoveOut, *, whole: bool) -> None:
    """Until the machine is being copied; `whole`: until both nodes have said that all of it is on the target."""
    await once(platform)  # a target
    await traveller(platform, 1).sync()  # which is ready
    await once(platform)  # the order
    assert (await shown(platform, move)).state is MoveState.MIGRATING
    if whole:
        await traveller(platform, 0).sync()
        await traveller(platform, 1).sync()


async def test_a_volume_that_both_nodes_reach_follows_its_machine_when_that_is_handed_over(database: Database) -> None:
    platform = await on_first(database)
    here, there = (agent.node for agent in platform.agents)
    before = await volume_row(platform)
    vm = await row_of(platform)
    assert (before.node, vm.node) == (here, here)
    move = await asked(platform)
    await under_way(platform, move, whole=True)
    target = await traveller(platform, 1).pull()
    (arrival,) = target.arrivals
    assert [one.volume for one in arrival.vm.volumes] == [before.id]
    assert arrival.volumes == (ArrivingVolume(id=before.id, name="data", pool=before.pool),)
    root = vm.reserved_disk_bytes - volume_bytes(vm)
    assert arrival.room == Room(cpus=vm.reserved_cpus, memory_bytes=vm.reserved_memory_bytes, disk_bytes=root)
    assert target.volumes == ()
    assert (await volume_row(platform)) == before
    await once(platform)  # the hand-over
    after, vm = await volume_row(platform), await row_of(platform)
    assert (after.node, vm.node, vm.arrived_by) == (there, there, arrival.stream)
    assert after.generation == before.generation + 1
    await traveller(platform, 0).pull()
    await settle(platform)
    done = await shown(platform, move)
    assert (done.state, done.way, done.stopped_because) == (MoveState.DONE, MoveMethod.LIVE, "")
    assert holders(platform, after) == openers(platform, vm.id) == [there]
    assert (await platform.vm("web")).phase is Phase.RUNNING


@pytest.mark.parametrize("whole", [False, True])
async def test_of_a_move_that_is_aborted_the_volume_hears_nothing(database: Database, *, whole: bool) -> None:
    platform = await on_first(database)
    before = await volume_row(platform)
    move = await asked(platform)
    await under_way(platform, move, whole=whole)
    async with platform.db.write() as tx:
        await moves.abort(tx, await move_of(platform, move), message="aborted")  # type: ignore[arg-type]
    await settle(platform)
    for agent in platform.agents:
        await agent.sync()
    after = await volume_row(platform)
    assert (after.node, after.generation) == (before.node, before.generation)
    assert holders(platform, after) == [before.node]
    assert (await row_of(platform)).node == before.node


@pytest.mark.parametrize("whole", [False, True])
async def test_a_volume_of_its_node_that_is_attached_meanwhile_keeps_a_machine_there(
    database: Database, *, whole: bool
) -> None:
    platform = await on_first(database)
    here = traveller(platform, 0).node
    move = await asked(platform)
    await under_way(platform, move, whole=whole)
    await with_volume(platform, "late")
    await once(platform)
    delayed = await shown(platform, move)
    assert delayed.state is MoveState.PENDING
    assert ("does not reach its volume late" if whole else "volumes") in delayed.message
    assert {(await volume_row(platform, name)).node for name in ("data", "late")} == {here}
    assert (await row_of(platform)).node == here


async def test_a_shared_volume_that_is_attached_when_all_of_the_machine_has_left_is_attached_there(
    database: Database,
) -> None:
    platform = await on_first(database)
    there = traveller(platform, 1).node
    move = await asked(platform)
    await under_way(platform, move, whole=True)
    await with_volume(platform, "late", pool="nfs")
    await settle(platform)
    assert (await shown(platform, move)).state is MoveState.DONE
    vm = await row_of(platform)
    assert vm.run is not None
    assert {(await volume_row(platform, name)).node for name in ("data", "late")} == {there}
    assert set(vm.run.volumes) == {(await volume_row(platform, name)).id for name in ("data", "late")}


async def test_a_machine_whose_volume_lies_on_its_node_is_not_moved_while_it_runs(database: Database) -> None:
    platform = await on_first(database, pool=None)
    assert "no other node reaches its volume data" in await refused(platform)


async def test_a_node_that_does_not_reach_a_volume_is_refused_by_name_and_never_chosen(database: Database) -> None:
    platform = await travelling(database, node_count=3)
    await shared_pool(platform, nodes=("node-1", "node-3"))
    for index in (2, 3):
        async with platform.db.write() as tx:
            await nodes.cordon(tx, by("node:drain"), f"node-{index}")
    await platform.running("web")
    await with_volume(platform, pool="nfs")
    await platform.converge()
    for index in (2, 3):
        async with platform.db.write() as tx:
            await nodes.uncordon(tx, by("node:drain"), f"node-{index}")
    said = await refused(platform, VmMove(to="node-2", method=MoveMethod.LIVE))
    assert "node-2 does not reach its volume data" in said
    move = await asked(platform)
    await settle(platform)
    assert (await shown(platform, move)).state is MoveState.DONE
    assert (await row_of(platform)).node == traveller(platform, 2).node


async def test_a_volume_that_is_still_being_given_to_the_guest_is_waited_for(database: Database) -> None:
    platform = await on_first(database)
    await with_volume(platform, "late", pool="nfs")
    assert "changes wait for a restart: volumes" in await refused(platform)
    move = await asked(platform, VmMove())
    await once(platform)
    assert (await shown(platform, move)).state is MoveState.PENDING
    await settle(platform)
    done = await shown(platform, move)
    assert (done.state, done.way) == (MoveState.DONE, MoveMethod.LIVE)


async def test_a_drain_takes_machines_along_with_shared_volumes_while_they_run_and_says_which_must_stay(
    database: Database,
) -> None:
    platform = await on_first(database)
    async with platform.db.write() as tx:
        await nodes.cordon(tx, by("node:drain"), "node-2")
    await platform.running("local")
    await with_volume(platform, "own", vm="local")
    await platform.converge()
    async with platform.db.write() as tx:
        await nodes.uncordon(tx, by("node:drain"), "node-2")
        await nodes.drain(tx, by("node:drain"), "node-1", NodeDrain(method=MoveMethod.AUTO))
    await settle(platform)
    await DrainReconciler(platform.db).once()
    async with platform.db.read() as rd:
        drain = (await nodes.show(rd, by("node:view"), "node-1")).drain
        found = {move.vm.name: move for move in (await move_requests.list_(rd, by("move:list"), ListQuery())).items}
    assert drain is not None
    assert drain.state is DrainState.INCOMPLETE
    assert (found["web"].state, found["web"].way, found["web"].stopped_because) == (
        MoveState.DONE,
        MoveMethod.LIVE,
        "",
    )
    assert found["local"].state is MoveState.FAILED
    assert "volume own" in found["local"].message
    assert (await volume_row(platform)).node == traveller(platform, 1).node
    assert (await row_of(platform, "local")).node == traveller(platform, 0).node
