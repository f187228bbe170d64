"""Volumes as callers and nodes see them: created, attached, snapshotted, refused, reported."""

from datetime import timedelta

import msgspec
import pytest

from nacre.control.auth.sealing import SealedError, Sealer
from nacre.control.gateway import desired
from nacre.control.services import pool_changes, pools, vms, volume_snapshots, volumes
from nacre.control.services.listing import ListQuery
from nacre.control.store import vms as vm_store
from nacre.control.wake import node_topic
from nacre.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnsupportedError,
)
from nacre.model.capabilities import BASELINE, NATIVE, Capability, told
from nacre.model.ceph import CephAccess
from nacre.model.consistency import Consistency
from nacre.model.hardware import DiskOptions
from nacre.model.nodes import HypervisorInfo, NodeFacts
from nacre.model.units import GIB
from nacre.model.volumes import (
    LOCAL_POOL,
    DiskFormat,
    PoolKind,
    PoolObserved,
    SnapshotPhase,
    VolumePhase,
    Wish,
)
from nacre.schema.vms import VmUpdate
from nacre.schema.volumes import (
    CephBody,
    CephOut,
    PoolCreate,
    PoolUpdate,
    SnapshotUpdate,
    VolumeClone,
    VolumeRestore,
    VolumeUpdate,
)
from support.cloud import by, cloud, facts
from support.ledger import events_of
from support.volume_store import Store, refusal

pytestmark = pytest.mark.anyio

CLUSTER = CephBody(monitors=("10.0.0.1",), user="nacre", key="AQCoMgJrX239HRAAix+2xAXXA9T88NXleONDkQ==")


@pytest.fixture
async def store(database):
    return Store(await cloud(database))


@pytest.fixture
async def attached(store):
    """A volume of a running machine, made."""
    await store.cloud.running("web")
    await store.create()
    await store.attach()
    await store.sync()
    return store


async def test_a_new_volume_waits_until_it_is_needed(store):
    accepted = await store.create()
    assert accepted.operation.state == "succeeded"
    assert (accepted.resource.phase, accepted.resource.node) == (VolumePhase.PENDING, None)
    assert accepted.resource.conditions.converged
    assert await refusal(ConflictError, store.create()) == "volume_name_taken"
    gone = await store.ask("volume:delete", volumes.delete, "data")
    assert gone.operation.state == "succeeded"
    assert await refusal(NotFoundError, store.show()) == "volume_not_found"


async def test_a_blank_volume_needs_a_size(store):
    assert await refusal(InvalidInputError, store.create("x", pool="local")) == "size_needed"


async def test_a_volume_is_on_the_node_of_its_machine(attached):
    seen = await attached.show()
    assert seen.node is not None
    assert (seen.phase, seen.vm.name) == (VolumePhase.READY, "web")
    intents = await attached.cloud.agent.intents()
    (vm,) = intents.values()
    assert [one.volume for one in vm.volumes] == [seen.id]


async def test_a_volume_is_attached_once(attached):
    await attached.cloud.create("other")
    assert await refusal(ConflictError, attached.attach("other")) == "volume_attached"


async def test_a_volume_is_free_once_its_machine_has_let_go(attached):
    await attached.detach()
    assert (await attached.show()).vm is not None
    await attached.cloud.converge()
    assert (await attached.show()).vm is None


async def test_a_machine_goes_where_its_volume_is(database):
    store = Store(await cloud(database, node_count=2))
    await store.cloud.running("web")
    await store.create()
    await store.attach()
    home = (await store.show()).node
    await store.detach()
    await store.cloud.verb("stop")
    await store.cloud.converge()
    for number in range(4):
        name = f"next-{number}"
        await store.cloud.create(name, start=False)
        await store.attach(name)
        await store.cloud.verb("start", name)
        await store.cloud.converge()
        assert (await store.cloud.vm(name)).node == home
        await store.cloud.verb("delete", name)
        await store.cloud.converge()
        assert (await store.show()).vm is None


async def test_a_volume_is_kept_or_deleted_with_its_machine_as_was_said(attached):
    await attached.create("scratch")
    await attached.attach(volume="scratch", delete_with_vm=True)
    await attached.sync()
    await attached.cloud.verb("delete")
    await attached.cloud.converge()
    assert (await attached.show()).vm is None
    assert (await attached.show("scratch")).desired is Wish.ABSENT
    await attached.sync()
    assert await refusal(NotFoundError, attached.show("scratch")) == "volume_not_found"


async def test_what_stands_in_the_way_of_a_deletion_is_said(attached):
    asked = lambda: attached.ask("volume:delete", volumes.delete, "data")  # noqa: E731
    with pytest.raises(ConflictError, match="is attached to machine web") as caught:
        await asked()
    assert (caught.value.code, "nacre vm detach web data" in caught.value.hint) == ("volume_attached", True)
    await attached.snapshot(protected=True)
    await attached.detach()
    await attached.cloud.converge()
    await attached.sync()
    assert await refusal(ConflictError, asked()) == "volume_has_snapshots"
    drop = lambda: attached.ask("volume:snapshot", volume_snapshots.delete, "data", "early")  # noqa: E731
    assert await refusal(ConflictError, drop()) == "snapshot_protected"
    body = SnapshotUpdate(protected=False)
    await attached.ask("volume:protect", volume_snapshots.update, "data", "early", body)
    await drop()
    await attached.sync()
    accepted = await asked()
    await attached.sync()
    assert await refusal(NotFoundError, attached.show()) == "volume_not_found"
    assert accepted.operation.type == "volume.delete"


async def test_a_volume_is_put_back_only_while_nobody_uses_it(attached):
    await attached.snapshot()
    body = VolumeRestore(snapshot="early")
    asked = lambda: attached.ask("volume:restore", volume_snapshots.restore, "data", body)  # noqa: E731
    assert await refusal(ConflictError, asked()) == "snapshot_pending"
    await attached.sync()
    assert await refusal(ConflictError, asked()) == "volume_in_use"
    await attached.cloud.verb("stop")
    await attached.cloud.converge()
    accepted = await asked()
    (intent,) = (await attached.intents()).values()
    assert intent.restore.nonce == 1
    assert not accepted.resource.conditions.converged
    await attached.sync()
    assert (await attached.show()).conditions.converged


async def test_a_clone_is_made_where_its_origin_is(attached):
    accepted = await attached.ask("volume:create", volumes.clone, "data", VolumeClone(name="copy"))
    assert accepted.resource.node == (await attached.show()).node
    assert (await attached.intents())[accepted.resource.id].source.volume == (await attached.show()).id
    await attached.sync()
    assert (await attached.show("copy")).phase is VolumePhase.READY


async def test_a_volume_that_was_never_made_cannot_be_cloned_or_kept(store):
    await store.create()
    asked = store.ask("volume:create", volumes.clone, "data", VolumeClone(name="copy"))
    assert await refusal(ConflictError, asked) == "volume_not_made"
    assert await refusal(ConflictError, store.snapshot()) == "volume_not_made"


async def test_a_volume_grows_and_does_not_shrink(attached):
    grow = lambda size: attached.ask("volume:update", volumes.update, "data", VolumeUpdate(size_bytes=size))  # noqa: E731
    await grow(2 * GIB)
    await attached.sync()
    assert (await attached.show()).actual_size_bytes == 2 * GIB
    assert await refusal(InvalidInputError, grow(GIB)) == "volume_shrink"
    assert await refusal(ExhaustedError, grow(10_000 * GIB)) == "pool_full"


async def test_a_machine_with_volumes_grows_its_own_disk_and_reserves_both(attached):
    async def sized(size):
        await attached.ask("vm:update", vms.update, "web", VmUpdate(disk_bytes=size))
        async with attached.db.read() as rd:
            row = await vm_store.named(rd, attached.cloud.project, "web")
        return row.reserved_disk_bytes

    volume = (await attached.show()).size_bytes
    for size in (4 * GIB, 6 * GIB):
        assert await sized(size) == size + volume
    assert await refusal(InvalidInputError, sized(5 * GIB)) == "disk_shrinks"


async def test_nodes_are_told_that_a_volume_has_been_there_once_it_has(attached):
    copy = (await attached.ask("volume:create", volumes.clone, "data", VolumeClone(name="copy"))).resource.id
    assert not (await attached.intents())[copy].made
    await attached.sync()
    assert (await attached.intents())[copy].made
    await attached.sync(size_bytes=0, phase=VolumePhase.CREATING)  # as one says that does not find it
    assert (await attached.intents())[copy].made


async def test_a_snapshot_says_in_which_state_it_is_once_it_is_taken(attached):
    async def shown():
        async with attached.db.read() as rd:
            (one,) = (await volume_snapshots.list_(rd, by("volume:view"), "data", ListQuery())).items
            assert one == await volume_snapshots.show(rd, by("volume:view"), "data", "early")
            return one.phase, one.consistency

    await attached.snapshot()
    assert await shown() == (SnapshotPhase.CREATING, None)
    await attached.sync()
    assert await shown() == (SnapshotPhase.READY, Consistency.FILESYSTEM)
    async with attached.db.read() as rd:
        asked = volume_snapshots.show(rd, by("volume:view"), "data", "nothing")
        assert await refusal(NotFoundError, asked) == "snapshot_not_found"


async def test_a_snapshot_expires_unless_it_is_protected(attached):
    now = attached.db.clock.now()
    for name, protected in (("goes", False), ("stays", True)):
        await attached.snapshot(name, expires_at=now + timedelta(seconds=1), protected=protected)
    await attached.sync()
    async with attached.db.write() as tx:
        assert await volume_snapshots.expire(tx) == 0
    attached.db.clock.advance(60)
    async with attached.db.write() as tx:
        assert await volume_snapshots.expire(tx) == 1
    await attached.sync()
    async with attached.db.read() as rd:
        left = await volume_snapshots.list_(rd, by("volume:view"), "data", ListQuery())
    assert [one.name for one in left.items] == ["stays"]


async def test_a_full_pool_refuses(store):
    await store.ask("pool:create", pools.create, PoolCreate(name="small", path="/srv/small"))
    async with store.db.read() as rd:
        made = await pools.show(rd, by("pool:view"), "small")
    said = PoolObserved(id=made.id, available=True, capacity_bytes=3 * GIB, used_bytes=0)
    async with store.db.write() as tx:
        await pools.follow(tx, {store.cloud.agent.node: (said,)})
    await store.create("one", pool="small", size_bytes=GIB)
    assert await refusal(ExhaustedError, store.create("two", pool="small", size_bytes=4 * GIB)) == "pool_full"


async def test_pools_are_told_to_their_nodes_and_go_when_they_are_empty(store):
    await store.ask("pool:create", pools.create, PoolCreate(name="fast", path="/srv/fast/"))
    async with store.db.read() as rd:
        (told,) = (await desired.load(rd, store.cloud.agent.node)).pools
    assert (told.name, told.path) == ("fast", "/srv/fast")
    await store.create("one", pool="fast", size_bytes=GIB)
    gone = lambda ref: store.ask("pool:delete", pools.delete, ref)  # noqa: E731
    assert await refusal(ConflictError, gone("fast")) == "pool_not_empty"
    await store.ask("volume:delete", volumes.delete, "one")
    await gone("fast")
    assert await refusal(ConflictError, gone(LOCAL_POOL)) == "pool_built_in"
    bad = store.ask("pool:create", pools.create, PoolCreate(name="bad", path="/srv/../etc"))
    assert await refusal(InvalidInputError, bad) == "invalid_pool_path"


async def change_pool(store, ref="fast", *, if_match=None, **fields):
    return await store.ask("pool:update", pool_changes.update, ref, PoolUpdate(**fields), if_match=if_match)


async def told_of(store, ref="fast"):
    """Which of the nodes are told of a pool, by their numbers."""
    async with store.db.read() as rd:
        told = [(await desired.load(rd, agent.node)).pools for agent in store.cloud.agents]
    return [number for number, pools_ in enumerate(told, 1) if ref in {one.name for one in pools_}]


async def test_a_pool_gets_and_loses_nodes(database):
    store = Store(await cloud(database, node_count=3))
    body = PoolCreate(name="fast", path="/srv/fast", nodes=("node-1",))
    made = await store.ask("pool:create", pools.create, body)
    assert ([one.name for one in made.members], await told_of(store)) == (["node-1"], [1])
    with store.db.wakes.listen(node_topic(store.cloud.agents[1].node)) as bell:
        more = await change_pool(store, add=("node-2",), if_match=made.etag)
        assert await bell.wait(0)
    assert ([one.name for one in more.members], await told_of(store)) == (["node-1", "node-2"], [1, 2])
    late = change_pool(store, add=("node-3",), if_match=made.etag)
    assert await refusal(PreconditionError, late) == "etag_mismatch"
    assert (await change_pool(store, add=("node-2",))).etag == more.etag, "nothing to change"
    await change_pool(store, remove=("node-1",))
    assert await told_of(store) == [2]
    assert await refusal(ConflictError, change_pool(store, remove=("node-2",))) == "pool_without_nodes"
    assert (await change_pool(store, nodes=())).members is None
    assert await told_of(store) == [1, 2, 3]
    assert await refusal(InvalidInputError, change_pool(store, remove=("node-2",))) == "pool_on_all_nodes"
    assert await refusal(InvalidInputError, change_pool(store, nodes=(), add=("node-2",))) == "nodes_twice"
    assert await refusal(NotFoundError, change_pool(store, add=("node-9",))) == "node_not_found"
    assert await refusal(ConflictError, change_pool(store, LOCAL_POOL, add=("node-2",))) == "pool_built_in"
    (_, told, *_) = await events_of(database, made.id)
    first, second = (agent.node for agent in store.cloud.agents[:2])
    assert (told.type, told.details["before"]) == ("pool.updated", {"nodes": [first]})
    assert told.details["after"] == {"nodes": sorted([first, second])}


async def test_a_node_keeps_a_pool_while_its_volumes_need_it(database):
    store = Store(await cloud(database, node_count=2))
    await store.cloud.running("web")
    here = (await store.cloud.vm("web")).node
    assert here is not None
    agent = next(one for one in store.cloud.agents if one.node == here.id)
    other = next(one for one in store.cloud.agents if one.node != here.id)
    for name, shared in (("own", False), ("nfs", True)):
        body = PoolCreate(name=name, path=f"/srv/{name}", shared=shared, nodes=("node-1", "node-2"))
        await store.ask("pool:create", pools.create, body)
        await store.create(name, pool=name, size_bytes=GIB)
        await store.attach(volume=name)
    await store.sync(agent)
    for pool in ("own", "nfs"):
        with pytest.raises(ConflictError, match="1 volumes of pool") as caught:
            await change_pool(store, pool, remove=(here.name,))
        assert caught.value.code == "pool_nodes_in_use"
    for volume in ("own", "nfs"):
        await store.detach(volume=volume)
    await store.cloud.converge()
    assert await refusal(ConflictError, change_pool(store, "own", remove=(here.name,))) == "pool_nodes_in_use"
    await change_pool(store, "nfs", remove=(here.name,))
    kept = (await store.show("nfs")).node
    assert kept is not None
    assert kept.id == other.node, "the other node looks after what both see"


async def test_the_key_to_a_cluster_is_sealed_and_only_nodes_get_it(store):
    sealer = Sealer(bytes(32))
    body = PoolCreate(name="rados", kind=PoolKind.CEPH, path="rbd", ceph=CLUSTER)
    made = await store.ask("pool:create", pools.create, body, sealer=sealer)
    assert (made.shared, made.path, made.ceph) == (True, "rbd", CephOut(monitors=CLUSTER.monitors, user="nacre"))
    assert CLUSTER.key not in repr(made)
    async with store.db.read() as rd:
        (told,) = (await desired.load(rd, store.cloud.agent.node, sealer)).pools
        row = await pools.resolve(rd, "rados")
        with pytest.raises(SealedError):
            await desired.load(rd, store.cloud.agent.node, Sealer(bytes(31) + b"x"))
    assert told.ceph == CephAccess(monitors=CLUSTER.monitors, user="nacre", key=CLUSTER.key)
    assert CLUSTER.key.encode() not in (row.sealed or b"")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ceph": None}, "ceph_needed"),
        ({"kind": PoolKind.DIRECTORY, "path": "/srv"}, "pool_not_in_ceph"),
        ({"path": "/srv"}, "invalid_ceph_pool"),
        ({"ceph": CephBody(monitors=("a b",), user="nacre", key="x")}, "invalid_monitor"),
    ],
)
async def test_a_pool_in_a_cluster_that_cannot_be_is_refused(store, changes, code):
    fields = {"name": "rados", "kind": PoolKind.CEPH, "path": "rbd", "ceph": CLUSTER, **changes}
    asked = store.ask("pool:create", pools.create, PoolCreate(**fields), sealer=Sealer(bytes(32)))
    assert await refusal(InvalidInputError, asked) == code


async def test_without_a_master_key_no_key_is_taken(store):
    body = PoolCreate(name="rados", kind=PoolKind.CEPH, path="rbd", ceph=CLUSTER)
    assert await refusal(UnavailableError, store.ask("pool:create", pools.create, body)) == "master_key_missing"


# Formats


def raw_only() -> NodeFacts:
    """A host that has a hypervisor which opens raw disks only, and QEMU."""
    known = facts()
    offers = {
        "firecracker": (Capability.DISK_RAW, Capability.BOOT_KERNEL),
        "qemu": (*BASELINE, Capability.DISK_RAW, Capability.DISK_SERIAL),
    }
    infos = tuple(
        HypervisorInfo(name=name, available=True, machines=("q35",), offer=told(dict.fromkeys(offer, NATIVE)))
        for name, offer in offers.items()
    )
    return msgspec.structs.replace(known, hypervisors=infos)


@pytest.fixture
async def raw(database):
    """A platform with a machine for raw disks, and one for all, neither of which has a node yet."""
    made = Store(await cloud(database, told=raw_only()))
    await made.cloud.create("small", hypervisor="firecracker", nics=(), start=False)
    await made.cloud.create("web", start=False)
    return made


async def test_a_volume_is_kept_as_it_was_asked_for_and_its_node_is_told(attached):
    await attached.create("flat", size_bytes=GIB, format=DiskFormat.RAW)
    await attached.attach(volume="flat")
    shown = {name: (await attached.show(name)).format for name in ("data", "flat")}
    assert shown == {"data": DiskFormat.QCOW2, "flat": DiskFormat.RAW}
    assert {one.name: one.format for one in (await attached.intents()).values()} == shown
    await attached.sync()
    await attached.ask("volume:create", volumes.clone, "flat", VolumeClone(name="same"))
    assert (await attached.show("same")).format is DiskFormat.RAW
    other = VolumeClone(name="other", format=DiskFormat.QCOW2)
    asked = attached.ask("volume:create", volumes.clone, "flat", other)
    assert await refusal(InvalidInputError, asked) == "clone_format"
    await attached.ask("volume:create", volumes.clone, "flat", msgspec.structs.replace(other, full=True))
    told_ = {one.name: (one.format, one.source.full) for one in (await attached.intents()).values()}
    assert told_["other"] == (DiskFormat.QCOW2, True)


async def test_what_is_in_a_cluster_is_raw(store):
    body = PoolCreate(name="rados", kind=PoolKind.CEPH, path="rbd", ceph=CLUSTER)
    await store.ask("pool:create", pools.create, body, sealer=Sealer(bytes(32)))
    await store.create("one", pool="rados", size_bytes=GIB)
    assert (await store.show("one")).format is DiskFormat.RAW
    await store.create("two", pool="rados", size_bytes=GIB, format=DiskFormat.RAW)
    asked = store.create("three", pool="rados", size_bytes=GIB, format=DiskFormat.QCOW2)
    assert await refusal(InvalidInputError, asked) == "format_of_pool"


@pytest.mark.parametrize("placed", [False, True])
async def test_a_volume_that_a_hypervisor_does_not_open_is_refused_with_what_to_do(raw, placed):
    if placed:
        await raw.cloud.verb("start", "small")
        await raw.cloud.converge()
    await raw.create("data")
    await raw.create("flat", size_bytes=GIB, format=DiskFormat.RAW)
    with pytest.raises(UnsupportedError) as refused:
        await raw.attach("small", "data")
    assert (refused.value.code, refused.value.field) == ("capability_missing", "volume")
    assert "qcow2" in refused.value.message
    assert "--full --format raw" in refused.value.hint
    with pytest.raises(UnsupportedError) as refused:
        await raw.attach("small", "flat", options=DiskOptions(serial="mine"))
    assert refused.value.field == "options.serial"
    await raw.attach("small", "flat")
    await raw.attach("web", "data", options=DiskOptions(serial="mine"))


async def test_a_machine_has_a_disk_of_its_own_whatever_its_hypervisor_opens(raw):
    made = await raw.cloud.create("roomy", hypervisor="firecracker", nics=(), disk_bytes=GIB, start=False)
    assert made.resource.spec.disk_bytes == GIB
