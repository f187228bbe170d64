"""The pools of a node: which are used, which are refused, and volumes as disks."""

import msgspec
import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage import layers
from nacre.agent.volumes.pools import NOT_READY, Pools
from nacre.agent.volumes.records import VolumeRecord, VolumeRecords
from nacre.lib.clock import SystemClock
from nacre.model.arrivals import ArrivingVolume
from nacre.model.hardware import DiskOptions
from nacre.model.ids import PoolId, VolumeId
from nacre.model.migrations import VolumeOffer
from nacre.model.volumes import (
    LOCAL_POOL,
    PoolIntent,
    PoolKind,
    PoolObserved,
    SourceKind,
    VolumeAttachment,
    VolumeSource,
)
from support.waiting import until
from support.wire_volumes import POOL_INTENT, VOLUME_INTENT

pytestmark = pytest.mark.anyio

FAST = PoolId("pool-01hzzzzzzzzzzzzzzzzzzzzzzz")
ONE = VolumeId("vol-00000000000000000000000001")


CLUSTER = msgspec.structs.replace(POOL_INTENT, id=FAST)


def pool(path) -> PoolIntent:
    return PoolIntent(id=FAST, name="fast", kind=PoolKind.DIRECTORY, path=str(path))


@pytest.fixture
def allowed(tmp_path):
    made = tmp_path / "allowed"
    made.mkdir()
    return made


@pytest.fixture
def pools(tmp_path, allowed):
    data = tmp_path / "data"
    data.mkdir()
    made = Pools(data, clock=SystemClock(), roots=[str(allowed)])
    made.prepare()
    return made


async def reason(pools, told) -> str:
    pools.want([told])
    _, found = await pools.observed()
    assert not found.available
    assert found.hint
    with pytest.raises(DriverError):
        pools.store(FAST)
    return found.reason


async def test_every_node_has_the_local_pool(pools):
    (found,) = await pools.observed()
    assert (found.id, found.available) == (LOCAL_POOL, True)


async def test_a_pool_outside_of_what_the_agent_allows_is_refused(pools, tmp_path):
    assert "not among" in await reason(pools, pool(tmp_path / "elsewhere"))


async def test_a_folder_that_is_not_there_is_not_made(pools, allowed):
    assert "not there" in await reason(pools, pool(allowed / "unmounted"))
    assert not (allowed / "unmounted").exists()


async def test_a_link_out_of_what_is_allowed_is_refused(pools, allowed, tmp_path):
    (allowed / "way-out").symlink_to(tmp_path)
    assert "leads elsewhere" in await reason(pools, pool(allowed / "way-out"))


async def test_a_pool_that_is_allowed_and_there_is_used(pools, allowed):
    pools.want([pool(allowed)])
    assert [one.available for one in await pools.observed()] == [True, True]
    assert pools.store(FAST) is pools.store(FAST)


async def test_who_reports_does_not_wait_for_a_cluster_and_hears_of_it_later(pools, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    pools.want([CLUSTER])
    first = (await pools.observed())[-1]
    assert (first.available, "not answered yet" in first.reason) == (False, True)

    async def later() -> PoolObserved | None:
        told = (await pools.observed())[-1]
        return None if told.reason == first.reason else told

    assert "ceph-common" in (await until(later)).hint
    keys = tmp_path / "data" / "ceph" / FAST
    assert (keys / "keyring").exists()
    pools.want([])
    await pools.observed()
    assert not keys.exists()
    await pools.close()


async def test_a_new_key_is_another_way_to_the_same_pool(pools, tmp_path):
    pools.want([CLUSTER])
    before = pools.store(FAST)
    assert pools.store(FAST) is before
    changed = msgspec.structs.replace(CLUSTER.ceph, key="AQDoMgJrX239HRAAix+2xAXXA9T88NXleONDkQ==")
    pools.want([msgspec.structs.replace(CLUSTER, ceph=changed)])
    assert pools.store(FAST) is not before


async def test_a_volume_that_is_not_there_yet_is_waited_for(pools):
    with pytest.raises(DriverError) as caught:
        await pools.disks([VolumeAttachment(volume=ONE)])
    assert caught.value.code == "volume_not_ready"


@pytest.mark.parametrize(
    ("pool", "changes", "new"),
    [
        (CLUSTER.id, {"generation": 2}, True),
        (CLUSTER.id, {"generation": 3}, False),
        (CLUSTER.id, {"generation": 2, "source": VolumeSource(kind=SourceKind.VOLUME, volume=ONE)}, False),
        (CLUSTER.id, {"generation": 1, "made": True}, False),
        (LOCAL_POOL, {"generation": 9}, True),
        (PoolId("pool-unknown"), {"generation": 9}, False),
    ],
)
def test_only_what_no_other_node_can_have_begun_is_new(pools, pool, changes, new):
    pools.want([CLUSTER])
    intent = msgspec.structs.replace(VOLUME_INTENT, source=VolumeSource(), pool=pool, made=False)
    assert pools.is_new(msgspec.structs.replace(intent, **changes)) is new


@pytest.mark.host
async def test_a_volume_is_a_disk_with_the_tail_of_its_id_for_a_serial(pools):
    intent = msgspec.structs.replace(VOLUME_INTENT, id=ONE, pool=LOCAL_POOL)
    await pools.store(LOCAL_POOL).create(ONE, size_bytes=1 << 20, base=None, keep_base=True)
    pools.known[ONE] = VolumeRecord(id=ONE, intent=intent, made=True)
    given = VolumeAttachment(volume=ONE, options=DiskOptions(serial="MINE"), read_only=True)
    plain, mine = await pools.disks([VolumeAttachment(volume=ONE), given])
    assert (plain.id, plain.format, plain.options.serial, plain.read_only) == (ONE, "qcow2", ONE[-20:], False)
    assert (mine.options.serial, mine.read_only) == ("MINE", True)


def test_records_outlive_the_agent_and_a_damaged_one_is_set_aside(tmp_path):
    records = VolumeRecords(tmp_path)
    assert records.load_all() == {}
    record = VolumeRecord(id=VOLUME_INTENT.id, intent=VOLUME_INTENT, made=True)
    records.save(record)
    folder = tmp_path / "volume-records"
    (folder / "vol-broken.json").write_text("{")
    (folder / ".vol-x.json-draft").write_text("")
    assert VolumeRecords(tmp_path).load_all() == {record.id: record}
    assert {path.name for path in folder.iterdir()} == {f"{record.id}.json", "vol-broken.damaged"}
    records.remove(record.id)
    assert records.load_all() == {}


# Volumes of machines that come from other nodes


HOME = ArrivingVolume(id=ONE, name="data", pool=FAST)
ATTACHED = VolumeAttachment(volume=ONE)


async def shared(pools, allowed, *, made=True):
    pools.want([msgspec.structs.replace(pool(allowed), shared=True)])
    if made:
        await pools.store(FAST).create(ONE, size_bytes=1 << 20, base=None, keep_base=False)


async def test_a_volume_of_a_machine_that_comes_is_opened_without_a_record_of_it(pools, allowed):
    await shared(pools, allowed)
    (disk,) = await pools.arriving([ATTACHED], [HOME])
    assert (disk.id, disk.options.serial, disk.read_only) == (ONE, ONE[-20:], False)
    assert disk.path.parent == allowed / ONE
    assert pools.known == pools.records.load_all() == {}
    (disk,) = await pools.arriving([msgspec.structs.replace(ATTACHED, read_only=True)], [HOME])
    assert disk.read_only


@pytest.mark.parametrize(
    ("home", "code"),
    [
        ([], "volume_elsewhere"),
        ([msgspec.structs.replace(HOME, pool=LOCAL_POOL)], "volume_elsewhere"),
        ([msgspec.structs.replace(HOME, pool=PoolId("pool-unknown"))], "volume_elsewhere"),
        ([HOME], "volume_missing"),
    ],
    ids=["nothing known", "local", "no such pool", "not there"],
)
async def test_what_other_nodes_do_not_share_is_refused_and_never_made(pools, allowed, home, code):
    await shared(pools, allowed, made=False)
    with pytest.raises(DriverError) as caught:
        await pools.arriving([ATTACHED], home)
    assert caught.value.code == code
    assert caught.value.hint
    assert list(allowed.iterdir()) == []


async def test_a_volume_that_was_being_switched_when_an_agent_ended_is_waited_for(pools, allowed):
    await shared(pools, allowed)
    folder = allowed / ONE
    manifest = layers.read(folder)
    layers.write(folder, msgspec.structs.replace(manifest, switching=layers.Switching(layer=manifest.active)))
    with pytest.raises(DriverError) as caught:
        await pools.arriving([ATTACHED], [HOME])
    assert caught.value.code == NOT_READY


async def test_what_is_offered_names_the_file_that_is_written(pools, allowed):
    await shared(pools, allowed)
    with pytest.raises(DriverError):
        await pools.offered([ONE])
    intent = msgspec.structs.replace(VOLUME_INTENT, id=ONE, pool=FAST)
    pools.known[ONE] = VolumeRecord(id=ONE, intent=intent, made=True)
    (offered,) = await pools.offered([ONE])
    (disk,) = await pools.arriving([ATTACHED], [HOME])
    assert offered == VolumeOffer(id=ONE, layer=disk.path.name)
