"""What is particular to volumes in a cluster, with a real one; what all stores promise is in tests/contract."""

import subprocess

import msgspec
import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.base import CloneOf
from nacre.agent.storage.ceph.volumes import CephVolumes
from nacre.model.ids import PoolId, SnapshotId, VolumeId
from nacre.model.units import MIB
from support import ceph
from support.volume_pools import CephPool

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.host,
    pytest.mark.skipif(not ceph.installed(), reason="Ceph is not installed: `scripts/setup.sh develop` does that"),
]

ONE = VolumeId("vol-00000000000000000000000001")
TWO = VolumeId("vol-00000000000000000000000002")
KEPT = SnapshotId("snap-00000000000000000000000001")
POOL = PoolId("pool-01hzzzzzzzzzzzzzzzzzzzzzzz")
SIZE = 4 * MIB


@pytest.fixture(scope="module")
def cluster():
    with ceph.cluster() as running:
        yield running


@pytest.fixture
def pool(cluster, tmp_path):
    made = CephPool(cluster, tmp_path / "reach")
    yield made
    made.wipe()


async def code_of(asked) -> str:
    with pytest.raises(DriverError) as caught:
        await asked
    return caught.value.code


async def test_somebody_who_has_it_open_is_noticed(pool):
    store = pool.opened()
    await store.create(ONE, size_bytes=SIZE, base=None, keep_base=False)
    disk = await store.disk(ONE)
    image = f"driver=rbd,pool={disk.pool},image={disk.image},user={disk.user},conf={disk.configuration},key-secret=k"
    secret = f"secret,id=k,format=base64,file={disk.secret}"
    words = ["qemu-io", "--object", secret, "--image-opts", image]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        print("write -P 97 0 512", file=other.stdin, flush=True)
        while "wrote 512" not in other.stdout.readline():
            assert other.poll() is None
        assert await code_of(store.check_free(ONE)) == "volume_in_use"
        assert await code_of(store.delete(ONE)) == "volume_in_use"
        await store.snapshot(ONE, KEPT, None)  # asks who has it open, and need not wait for that one to let go
        print("quit", file=other.stdin, flush=True)
        other.wait(60)
    await store.check_free(ONE)
    await store.delete(ONE)
    assert pool.is_empty()


async def test_what_was_half_made_is_made_anew(pool, cluster):
    store = pool.opened()
    for gone in (("rbd_header",), ("rbd_object_map",), ("rbd_header", "rbd_object_map")):
        cluster.rbd("create", "--size", "8M", ONE)
        number = msgspec.json.decode(cluster.rbd("info", ONE, "--format", "json"))["id"]
        for name in gone:
            words = ["rados", "--conf", str(cluster.configuration), "--pool", ceph.POOL, "rm", f"{name}.{number}"]
            subprocess.run(words, check=True, capture_output=True)
        assert await store.look(ONE) is None
        await store.create(ONE, size_bytes=SIZE, base=None, keep_base=False)
        assert (await store.look(ONE)).size_bytes == SIZE
        await store.delete(ONE)
        assert pool.is_empty()


async def test_the_metadata_of_its_origin_do_not_make_a_clone_whole(pool, cluster):
    store = pool.opened()
    await store.create(ONE, size_bytes=SIZE, base=None, keep_base=False)
    await store.snapshot(ONE, KEPT, None)
    cluster.rbd("clone", "--rbd-default-clone-format", "2", "--dest-pool", ceph.POOL, f"{ONE}@{KEPT}", TWO)
    assert "nacre.volume" in cluster.rbd("image-meta", "list", TWO)
    assert await store.look(TWO) is None
    await store.clone(TWO, CloneOf(volume=ONE, snapshot=KEPT), None)
    assert await store.look(TWO) is not None


async def test_a_restore_that_was_cut_off_is_said_and_carried_through(pool, cluster):
    store = pool.opened()
    await store.create(ONE, size_bytes=SIZE, base=None, keep_base=False)
    await pool.fill(ONE, "a")
    await store.snapshot(ONE, KEPT, None)
    await pool.fill(ONE, "b")
    begun = f'{{"volume":"{ONE}","restore_nonce":1,"restoring":{{"nonce":2,"snapshot":"{KEPT}"}}}}'
    cluster.rbd("image-meta", "set", ONE, "nacre.volume", begun)
    state = await store.look(ONE)
    assert (state.unfinished, state.restore_nonce) == (True, 1)
    for _ in range(2):
        await store.finish(ONE, None)
    state = await store.look(ONE)
    assert (state.unfinished, state.restore_nonce) == (False, 2)
    assert (await pool.content(ONE)).startswith("a")


async def test_metadata_that_nobody_can_read_block_the_volume(pool, cluster):
    store = pool.opened()
    await store.create(ONE, size_bytes=SIZE, base=None, keep_base=False)
    cluster.rbd("image-meta", "set", ONE, "nacre.volume", "{")
    assert await code_of(store.look(ONE)) == "volume_damaged"
    await store.delete(ONE)
    assert pool.is_empty()


async def test_a_pool_says_what_is_wrong_with_it(cluster, tmp_path):
    access = cluster.access()
    closed = await CephVolumes(ceph.POOL, cluster.access("nobody"), tmp_path / "nobody").probe(POOL)
    assert (closed.available, "refuses" in closed.reason) == (False, True)
    wrong = msgspec.structs.replace(access, key=cluster.access("nobody").key)
    refused = await CephVolumes(ceph.POOL, wrong, tmp_path / "wrong").probe(POOL)
    assert (refused.available, "refuses" in refused.reason) == (False, True)
    other = await CephVolumes("elsewhere", access, tmp_path / "other").probe(POOL)
    assert not other.available
    assert other.hint


async def test_what_others_have_put_there_is_left_alone(pool, cluster):
    cluster.rbd("create", "--size", "4M", "theirs")
    cluster.rbd("create", "--size", "4M", "thrown-away")
    cluster.rbd("trash", "mv", "thrown-away")
    store = pool.opened()
    await store.create(ONE, size_bytes=SIZE, base=None, keep_base=False)
    await store.delete(ONE)
    await store.sweep()
    assert cluster.images() == (["theirs"], ["thrown-away"])
