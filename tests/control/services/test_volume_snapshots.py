"""Snapshots and what is made from them: neither goes before that is there."""

from datetime import timedelta

import pytest

from nacre.control.services import volume_snapshots, volumes
from nacre.errors import ConflictError
from nacre.model.volumes import VolumePhase, Wish
from support.cloud import cloud
from support.volume_store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(database):
    """A volume of a running machine, with a snapshot that is taken."""
    made = Store(await cloud(database))
    await made.cloud.running("web")
    await made.create()
    await made.attach()
    await made.sync()
    await made.snapshot(expires_at=made.db.clock.now() + timedelta(seconds=1))
    await made.sync()
    return made


async def refused(asked):
    with pytest.raises(ConflictError) as caught:
        await asked
    assert caught.value.hint
    return caught.value


async def begun(store):
    """The node knows of all volumes and has made nothing of those that are new."""
    intents = await store.intents()
    seen = [store.done(one) for one in intents.values() if one.made]
    seen += [
        store.done(one, phase=VolumePhase.CREATING, size_bytes=0, snapshots=())
        for one in intents.values()
        if not one.made
    ]
    await store.report(seen)


async def expired(store):
    async with store.db.write() as tx:
        return await volume_snapshots.expire(tx)


async def test_a_snapshot_stays_until_the_clones_that_are_begun_are_there(store):
    drop = lambda: store.ask("volume:snapshot", volume_snapshots.delete, "data", "early")  # noqa: E731
    await store.clone("one", snapshot="early")
    await store.clone("two", snapshot="early")
    await begun(store)
    store.db.clock.advance(60)
    error = await refused(drop())
    assert (error.code, "volumes one, two" in error.message) == ("snapshot_in_use", True)
    assert await expired(store) == 0
    await store.ask("volume:delete", volumes.delete, "one")
    error = await refused(drop())
    assert "volume two" in error.message
    assert "one" not in error.message
    await store.sync()
    await drop()


async def test_a_snapshot_expires_once_the_clones_of_its_volume_are_there(store):
    await store.clone(snapshot="early")
    await begun(store)
    store.db.clock.advance(60)
    assert await expired(store) == 0
    await store.sync()
    assert await expired(store) == 1


async def test_a_volume_stays_until_the_clones_that_are_begun_are_there(store):
    await store.ask("volume:snapshot", volume_snapshots.delete, "data", "early")
    await store.detach()
    await store.cloud.converge()
    await store.sync()
    await store.clone()
    await begun(store)
    delete = lambda: store.ask("volume:delete", volumes.delete, "data")  # noqa: E731
    error = await refused(delete())
    assert (error.code, "volume copy" in error.message) == ("volume_being_cloned", True)
    await store.sync()
    await delete()


async def test_a_volume_that_is_still_to_be_cloned_outlives_its_machine(store):
    await store.create("scratch")
    await store.attach(volume="scratch", delete_with_vm=True)
    await store.sync()
    await store.clone(origin="scratch")
    await begun(store)
    await store.cloud.verb("delete")
    await store.cloud.converge()
    kept = await store.show("scratch")
    assert (kept.vm, kept.desired) == (None, Wish.PRESENT)
