"""No pool is promised more than it has: not by creating, growing, attaching or placing, and not by two at once."""

import asyncio
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import event

from nacre.control.reconcilers.vms import Placer
from nacre.control.services import pools, scheduling, vms, volume_attachments, volume_room, volumes
from nacre.control.services.volume_room import PoolRoom
from nacre.control.store import vms as vm_store
from nacre.control.store import volumes as volume_store
from nacre.control.wake import Wakes
from nacre.errors import ConflictError, ExhaustedError, NotFoundError
from nacre.lib.clock import ManualClock
from nacre.model.units import GIB
from nacre.model.volumes import PoolObserved, Wish
from nacre.schema.volumes import VolumeCreate, VolumeUpdate
from support.cloud import by, cloud, make_node
from support.database import opened
from support.volume_store import Store, refusal

pytestmark = pytest.mark.anyio

NODES = 2


@pytest.fixture
async def store(database):
    """Two nodes that each have 3 GiB of the pool `fast`."""
    made = Store(await cloud(database, node_count=NODES))
    await made.pool("fast", node_1=3, node_2=3)
    return made


async def grown(store, size, volume="data"):
    return await store.ask("volume:update", volumes.update, volume, VolumeUpdate(size_bytes=size * GIB))


async def promised(store, name="fast"):
    """What is promised of a pool on each node, and on none, in GiB."""
    async with store.db.read() as rd:
        pool = await pools.resolve(rd, name)
        found = (await volume_store.promised_on(rd, [pool.id]))[pool.id]
    names = {agent.node: number for number, agent in enumerate(store.cloud.agents, 1)}
    return {names.get(node): size // GIB for node, size in found.items()}


async def test_what_is_nowhere_yet_counts(store):
    for number in range(3):
        await store.create(f"data-{number}", pool="fast", size_bytes=2 * GIB)
    asked = store.create("data-3", pool="fast", size_bytes=GIB)
    assert await refusal(ExhaustedError, asked) == "pool_full"
    await store.ask("volume:delete", volumes.delete, "data-0")
    await store.create("data-3", pool="fast", size_bytes=GIB)


async def test_a_volume_that_is_nowhere_yet_grows_to_what_one_node_has(store):
    await store.create(pool="fast", size_bytes=2 * GIB)
    assert await refusal(ExhaustedError, grown(store, 4)) == "pool_full"
    await grown(store, 3)
    await store.create("more", pool="fast", size_bytes=2 * GIB)
    await grown(store, 3, "more")
    assert await refusal(ExhaustedError, store.create("last", pool="fast", size_bytes=GIB)) == "pool_full"


async def test_attaching_to_a_machine_that_has_a_node_takes_room_there(store):
    await store.cloud.running("web")
    await store.create("one", pool="fast", size_bytes=2 * GIB)
    await store.create("two", pool="fast", size_bytes=2 * GIB)
    await store.attach(volume="one")
    assert await refusal(ExhaustedError, store.attach(volume="two")) == "pool_full"
    assert (await store.show("two")).vm is None
    assert sorted((await promised(store)).values()) == [2, 2]
    assert await refusal(ExhaustedError, grown(store, 4, "one")) == "pool_full"
    await grown(store, 3, "one")


async def test_a_shared_pool_has_promised_what_is_nowhere_yet_already(store):
    await store.pool("nfs", shared=True, node_1=3, node_2=3)
    await store.cloud.running("web")
    await store.create(pool="nfs", size_bytes=3 * GIB)
    assert await refusal(ExhaustedError, store.create("more", pool="nfs", size_bytes=GIB)) == "pool_full"
    await store.attach()


async def test_a_machine_goes_where_there_is_room_for_its_volumes(store):
    for number in range(3):
        await store.cloud.create(f"vm-{number}", start=False)
        await store.create(f"data-{number}", pool="fast", size_bytes=2 * GIB)
        await store.attach(f"vm-{number}", f"data-{number}")
    for number in range(3):
        await store.cloud.verb("start", f"vm-{number}")
    await store.cloud.converge()
    await store.cloud.converge()
    assert await promised(store) == {1: 2, 2: 2, None: 2}
    shown = [await store.cloud.vm(f"vm-{number}") for number in range(3)]
    (waits,) = [vm for vm in shown if vm.node is None]
    assert waits.conditions.degraded.code == "pool_full"
    assert "fast" in waits.conditions.degraded.message
    async with store.db.read() as rd:
        why = await scheduling.explain(rd, by("vm:view"), waits.id, random=lambda: 0.5)
    assert why.code == "pool_full"
    await store.cloud.create("other")
    await store.cloud.converge()
    assert (await store.cloud.vm("other")).node is not None


async def test_who_places_by_an_old_view_promises_no_more_either(store, monkeypatch):
    """Of a batch and of several deciders: what is left is looked at again when placements are written."""

    async def nothing_known(_rd, _among):
        return PoolRoom()

    for number in range(3):
        await store.cloud.create(f"vm-{number}", start=False)
        await store.create(f"data-{number}", pool="fast", size_bytes=2 * GIB)
        await store.attach(f"vm-{number}", f"data-{number}")
    for number in range(3):
        await store.cloud.verb("start", f"vm-{number}")
    monkeypatch.setattr(volume_room, "measure", nothing_known)
    for _ in range(8):
        await Placer(store.db, chance=lambda: 0.0).once()
        found = await promised(store)
        assert max(found.get(1, 0), found.get(2, 0)) <= 3
    assert found == {1: 2, 2: 2, None: 2}


async def test_a_machine_of_which_the_pool_is_full_stands_in_nobodys_way(store):
    """What fits nowhere is remembered during a round, but not for a machine that could go elsewhere."""
    await store.cloud.create("full", start=False, priority=200)
    for name in ("one", "two"):
        await store.create(name, pool="fast", size_bytes=2 * GIB)
        await store.attach("full", name)
    await store.cloud.create("free", start=False)
    await store.cloud.verb("start", "full")
    await store.cloud.verb("start", "free")
    await store.cloud.converge()
    assert (await store.cloud.vm("full")).node is None
    assert (await store.cloud.vm("free")).node is not None


async def test_of_two_who_promise_the_same_room_at_once_one_is_refused(store, database_url):
    async with opened(database_url, ManualClock(), Wakes()) as replica:
        other = Store(store.cloud)
        other.db = replica
        body = VolumeCreate(name="one", pool="fast", size_bytes=3 * GIB)
        await store.create("full", pool="fast", size_bytes=3 * GIB)
        async with store.db.write() as tx:
            await volumes.create(tx, by("volume:create"), body)
            asking = asyncio.create_task(other.create("two", pool="fast", size_bytes=GIB))
            await asyncio.sleep(0.5)  # until it waits; if it does not yet, nothing is lost but what this proves
        assert await refusal(ExhaustedError, asking) == "pool_full"


async def test_room_is_asked_for_with_as_many_statements_however_many_nodes_have_told(store):
    async def taken_by(name):
        with counted(store.db) as statements:
            await store.create(name, pool="fast", size_bytes=GIB)
        return len(statements)

    before = await taken_by("one")
    async with store.db.write() as tx:
        more = [await make_node(tx, f"more-{number}") for number in range(50)]
        said = PoolObserved(id=(await pools.resolve(tx, "fast")).id, available=True, capacity_bytes=GIB)
        await pools.follow(tx, dict.fromkeys(more, (said,)))
    assert await taken_by("two") == before


@contextmanager
def counted(db):
    """The statements of write transactions."""
    statements = []

    def count(_connection, _cursor, statement, *_rest):
        statements.append(statement)

    writer = db.writer.sync_engine
    event.listen(writer, "before_cursor_execute", count)
    try:
        yield statements
    finally:
        event.remove(writer, "before_cursor_execute", count)


async def test_a_volume_whose_node_was_removed_is_deleted_by_another_and_not_only_forgotten(store):
    """What is in a shared pool stays there until somebody removes it."""
    await store.pool("nfs", shared=True, node_1=3, node_2=3)
    await store.create(pool="nfs", size_bytes=GIB)
    vm = await store.cloud.running()
    await store.attach(vm.id)
    async with store.db.read() as rd:
        row = await vm_store.get(rd, vm.id)
    here = next(one for one in store.cloud.agents if one.node == row.node)
    (there,) = [one for one in store.cloud.agents if one is not here]
    await store.sync(here)
    await store.detach(vm.id)
    await store.ask("vm:delete", vms.delete, vm.id)
    async with store.db.write() as tx:
        volume = (await volumes.resolve(tx, by("volume:view"), "data", None)).id
        await volume_store.detach(tx, volume)
        await volume_attachments.node_removed(tx, here.node, "here", force=False)
    assert (await store.show()).node is None
    await store.ask("volume:delete", volumes.delete, "data")
    assert [one.desired for one in (await store.intents(there)).values()] == [Wish.ABSENT]
    await store.sync(there)
    with pytest.raises(NotFoundError):
        await store.show()


async def test_a_volume_that_no_node_reaches_any_more_is_not_forgotten(store):
    await store.pool("nfs", shared=True, node_1=3)
    await store.create(pool="nfs", size_bytes=GIB)
    async with store.db.write() as tx:
        row = await volumes.resolve(tx, by("volume:view"), "data", None)
        await volume_store.save(tx, replace(row, made=True))
        pool = await pools.resolve(tx, "nfs")
        await pools.follow(tx, {store.cloud.agents[0].node: (PoolObserved(id=pool.id, available=False),)})
    assert await refusal(ConflictError, store.ask("volume:delete", volumes.delete, "data")) == "volume_out_of_reach"
