"""What every driver of pools promises (`storage.base.VolumeStore`), and that who is killed leaves old or new.

Drivers: `directory`, with volumes of either format, on the file system of the tests and on one that copies by reflink;
`ceph`, with a real cluster, if Ceph is installed. What a driver cannot do is what it says that it cannot (`probe`).
"""

import asyncio
import os
import shutil
import threading

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage import sharing
from nacre.agent.storage.base import BaseDisk, CloneOf
from nacre.agent.storage.layers import chain, read, tree
from nacre.agent.storage.volumes import LONGEST_CHAIN, DirectoryVolumes
from nacre.lib.clock import SystemClock
from nacre.model.convergence import FailureClass
from nacre.model.ids import SnapshotId, VolumeId
from nacre.model.images import Format
from nacre.model.units import MIB
from nacre.model.volumes import LOCAL_POOL, CloneCost, DiskFormat, FormatCapabilities
from support import ceph
from support.filesystems import with_reflinks
from support.thorough import EVERY_STEP
from support.volume_pools import CephPool, FolderPool
from support.volumes import strike_at
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]

ONE = VolumeId("vol-00000000000000000000000001")
TWO = VolumeId("vol-00000000000000000000000002")
THREE = VolumeId("vol-00000000000000000000000003")
FIRST = SnapshotId("snap-00000000000000000000000001")
SECOND = SnapshotId("snap-00000000000000000000000002")
SIZE = 4 * MIB
FOLDERS = ("directory", "reflink", "raw", "raw reflink")
LAYERED = ("directory", "reflink")
KINDS = (*FOLDERS, "ceph")


@pytest.fixture(scope="session")
def cluster():
    if not ceph.installed():
        pytest.skip("Ceph is not installed: `scripts/setup.sh develop` does that")
    with ceph.cluster() as running:
        yield running


@pytest.fixture(scope="module")
def reflinks(tmp_path_factory):
    with with_reflinks(tmp_path_factory.mktemp("reflinks")) as folder:
        yield folder


@pytest.fixture(params=KINDS)
def pool(request, tmp_path):
    if request.param == "ceph":
        made = CephPool(request.getfixturevalue("cluster"), tmp_path / "reach")
        yield made
        made.wipe()
        return
    place = tmp_path
    if "reflink" in request.param:
        place = request.getfixturevalue("reflinks") / tmp_path.name
    (place / "pool").mkdir(parents=True)
    yield FolderPool(place / "pool", form=DiskFormat.RAW if "raw" in request.param else DiskFormat.QCOW2)
    shutil.rmtree(place)


@pytest.fixture
def store(pool):
    return pool.opened()


async def blank(pool, store, volume=ONE) -> None:
    await store.create(volume, size_bytes=SIZE, base=None, keep_base=True, form=pool.form)


async def said(pool) -> FormatCapabilities:
    """What a pool says of its volumes' format."""
    found = await pool.opened().probe(LOCAL_POOL)
    return next(one for one in found.capabilities.formats if one.format is pool.form)


async def holds(pool, text: str, volume=ONE, offset: int = 0) -> bool:
    return (await pool.content(volume))[offset // 65536] == text


async def test_a_blank_volume_is_made_once(pool, store):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    await blank(pool, store)
    assert await holds(pool, "a")
    state = await store.look(ONE)
    assert (state.size_bytes, state.snapshots, state.unfinished, state.mergeable) == (SIZE, (), False, False)
    assert (await store.disk(ONE)).id == ONE
    await store.check_free(ONE)
    pool.check_tidy()


@pytest.mark.parametrize("keep", [True, False])
async def test_a_volume_from_an_image_starts_as_that(pool, store, tmp_path, keep):
    image = tmp_path / "image,raw"
    image.write_bytes(b"i" * MIB)
    base = BaseDisk(path=image, format=Format.RAW)
    await store.create(ONE, size_bytes=SIZE, base=base, keep_base=keep, form=pool.form)
    if not keep or pool.form is DiskFormat.RAW:
        image.unlink()
    assert await holds(pool, "i")
    assert (await store.look(ONE)).size_bytes == SIZE


async def test_a_volume_smaller_than_its_image_is_refused_and_leaves_nothing(pool, store, tmp_path):
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(8 * MIB))
    base = BaseDisk(path=image, format=Format.RAW)
    with pytest.raises(DriverError) as caught:
        await store.create(ONE, size_bytes=SIZE, base=base, keep_base=True, form=pool.form)
    assert caught.value.code == "disk_smaller_than_image"
    assert pool.is_empty()


async def test_a_volume_grows_and_never_shrinks(pool, store):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    for size in (2 * SIZE, 2 * SIZE, SIZE):
        await store.grow(ONE, size, None)
    assert (await store.look(ONE)).size_bytes == 2 * SIZE
    assert await holds(pool, "a")


async def test_a_snapshot_keeps_what_was_there_and_the_volume_is_put_back_to_it(pool, store):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    for _ in range(2):
        await store.snapshot(ONE, FIRST, None)
    await pool.fill(ONE, "b")
    await store.grow(ONE, 2 * SIZE, None)
    for _ in range(2):
        await store.restore(ONE, FIRST, 1)
    assert await holds(pool, "a")
    state = await store.look(ONE)
    assert (state.restore_nonce, state.size_bytes, len(state.snapshots)) == (1, SIZE, 1)
    assert (state.snapshots[0].id, state.snapshots[0].size_bytes) == (FIRST, SIZE)
    await pool.fill(ONE, "c")
    await store.restore(ONE, FIRST, 2)
    assert await holds(pool, "a")
    pool.check_tidy()


async def test_chains_stay_short_when_snapshots_go(pool, store):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    for number in range(6):
        snapshot = SnapshotId(f"snap-0000000000000000000000000{number}")
        await store.snapshot(ONE, snapshot, None)
        await pool.fill(ONE, "abcdef"[number], offset=number * 65536)
        if number:
            await store.drop(ONE, SnapshotId(f"snap-0000000000000000000000000{number - 1}"))
            while (await store.look(ONE)).mergeable:
                await store.merge(ONE, None)
    if isinstance(pool, FolderPool):
        manifest = read(pool.root / ONE)
        assert len(chain(tree(pool.root / ONE, manifest), manifest.active)) <= 3
    assert len((await store.look(ONE)).snapshots) == 1
    assert await pool.content(ONE) == "abcdef"
    pool.check_tidy()


async def test_a_part_of_a_checkpoint_is_seen_kept_and_goes(pool, store):
    part = SnapshotId("ckpt-00000000000000000000000001")
    await blank(pool, store)
    await pool.fill(ONE, "a")
    await store.snapshot(ONE, part, None)
    assert [one.id for one in (await store.look(ONE)).snapshots] == [part]
    await pool.fill(ONE, "b")
    await store.restore(ONE, part, 1)
    assert await holds(pool, "a")
    await store.drop(ONE, part)
    assert (await store.look(ONE)).snapshots == ()
    await store.snapshot(ONE, part, None)  # one that was begun and cleared away is taken again
    assert len((await store.look(ONE)).snapshots) == 1


@pytest.mark.parametrize("pool", FOLDERS, indirect=True)
async def test_a_volume_at_rest_is_cloned_any_number_of_times(pool, store):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    for number in range(LONGEST_CHAIN + 2):
        await store.clone(VolumeId(f"vol-1{number:025d}"), CloneOf(volume=ONE), None)
    await store.clone(TWO, CloneOf(volume=ONE, full=True), None)
    youngest = VolumeId(f"vol-1{LONGEST_CHAIN + 1:025d}")
    await store.snapshot(youngest, FIRST, None)
    assert await holds(pool, "a", youngest)
    assert await holds(pool, "a", TWO)
    await pool.fill(ONE, "b")
    await store.clone(THREE, CloneOf(volume=ONE), None)
    assert await holds(pool, "b", THREE)
    assert await holds(pool, "a", youngest)
    await store.grow(ONE, 2 * SIZE, None)
    await store.clone(VolumeId(f"vol-2{0:025d}"), CloneOf(volume=ONE), None)
    assert (await store.look(VolumeId(f"vol-2{0:025d}"))).size_bytes == 2 * SIZE
    pool.check_tidy()


@pytest.mark.parametrize("pool", FOLDERS, indirect=True)
async def test_a_volume_at_the_end_of_a_long_chain_is_cloned_as_a_copy(pool, store):
    await blank(pool, store)
    for number in range(LONGEST_CHAIN - 1):
        await store.snapshot(ONE, SnapshotId(f"snap-{number:026d}"), None)
    await pool.fill(ONE, "a")
    for full in (False, True):
        await store.clone(TWO, CloneOf(volume=ONE, full=full), None)
        assert await holds(pool, "a", TWO)
        await store.delete(TWO)
    pool.check_tidy()


class _Reader:
    """A guest that reads one chain of layers and nothing else, as QEMU does."""

    async def merge(self, layer, taker):
        raise AssertionError(f"{taker.name} is not open here")

    switch = grow = None


@pytest.mark.parametrize("pool", LAYERED, indirect=True)
async def test_layers_that_the_guest_does_not_read_are_merged_beside_it(pool, store):
    await blank(pool, store)
    for number, letter in enumerate("abc"):
        await pool.fill(ONE, letter)
        await store.snapshot(ONE, SnapshotId(f"snap-{number:026d}"), None)
    await store.restore(ONE, SnapshotId(f"snap-{0:026d}"), 1)
    await store.drop(ONE, SnapshotId(f"snap-{1:026d}"))
    assert (await store.look(ONE)).mergeable
    await store.merge(ONE, _Reader())
    assert not (await store.look(ONE)).mergeable
    assert await holds(pool, "a")
    await store.restore(ONE, SnapshotId(f"snap-{2:026d}"), 2)
    assert await holds(pool, "c")


@pytest.mark.parametrize("pool", ["directory", "raw", "ceph"], indirect=True)
async def test_a_node_that_was_told_of_before_leaves_a_volume_alone_that_another_has_by_now(pool):
    here, there = pool.opened(shared=True), pool.opened(shared=True)
    async with here.alone(ONE, 1):
        await blank(pool, here)
    for generation in (2, 2, 3):
        async with here.alone(ONE, generation):
            await here.snapshot(ONE, FIRST, None)
    async with there.alone(ONE, 4):
        await there.snapshot(ONE, SECOND, None)
    with pytest.raises(DriverError) as caught:
        async with here.alone(ONE, 3):
            await here.drop(ONE, SECOND)
    assert (caught.value.code, caught.value.generation) == ("volume_elsewhere", 4)
    assert [one.id for one in (await here.look(ONE)).snapshots] == [FIRST, SECOND]
    async with here.alone(ONE, 5):  # it came back
        await here.restore(ONE, FIRST, 1)
    with pytest.raises(DriverError):
        async with there.alone(ONE, 4):
            pass
    async with here.alone(ONE, 6):
        await here.delete(ONE)
    assert pool.is_empty()


@pytest.mark.parametrize("pool", ["directory"], indirect=True)
async def test_one_node_at_a_time_has_a_shared_volume_and_who_dies_lets_go(pool):
    here, there = pool.opened(shared=True), pool.opened(shared=True)
    async with here.alone(ONE, 1):
        await blank(pool, here)
        with pytest.raises(DriverError) as caught:
            async with there.alone(ONE, 1):
                pass
        assert (caught.value.code, caught.value.failure_class) == ("volume_busy", FailureClass.WAITING)
        async with there.alone(TWO, 1):
            pass
    async with there.alone(ONE, 1):
        pass
    pid = os.fork()
    if pid == 0:
        sharing.Lock(pool.root, ONE).take()
        os._exit(0)
    os.waitpid(pid, 0)
    async with here.alone(ONE, 1):
        await here.delete(ONE)
        async with there.alone(ONE, 1):  # what was locked is gone: this is another one
            await blank(pool, there)


@pytest.mark.parametrize("pool", FOLDERS, indirect=True)
async def test_what_a_merge_left_that_nobody_finished_is_swept(pool, store):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    (pool.root / ONE / "00000000000000000000.qcow2").write_bytes(b"merged")  # as when QEMU is killed with its answer
    (pool.root / ONE / ".nfs0001").write_bytes(b"deleted, and open")
    elsewhere = DirectoryVolumes(pool.root, clock=SystemClock(), shared=True)
    assert not (await elsewhere.look(ONE)).mergeable  # there it may be another node's
    assert (await store.look(ONE)).mergeable
    await store.merge(ONE, None)
    assert not (await store.look(ONE)).mergeable
    (pool.root / ONE / ".nfs0001").unlink()
    assert await holds(pool, "a")
    pool.check_tidy()


@pytest.mark.parametrize("full", [False, True])
async def test_a_clone_is_a_volume_of_its_own(pool, store, full):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    await store.snapshot(ONE, FIRST, None)
    await pool.fill(ONE, "b")
    for _ in range(2):
        await store.clone(TWO, CloneOf(volume=ONE, snapshot=FIRST, full=full), None)
    assert await holds(pool, "a", TWO)
    await pool.fill(TWO, "c")
    assert await holds(pool, "b")
    await store.drop(ONE, FIRST)
    await store.delete(ONE)
    assert await holds(pool, "c", TWO)
    assert await store.look(ONE) is None
    pool.check_tidy()
    await store.delete(TWO)
    assert pool.is_empty()


async def test_a_clone_of_a_volume_as_it_is_shares_its_content(pool, store):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    await store.clone(TWO, CloneOf(volume=ONE), None)
    await pool.fill(ONE, "b")
    assert await holds(pool, "a", TWO)
    assert await holds(pool, "b")
    if isinstance(pool, FolderPool) and pool.form is DiskFormat.QCOW2:
        (below,) = [path for path in (pool.root / TWO).glob("*.qcow2") if path.stat().st_nlink == 2]
        assert below.exists()
    elif isinstance(pool, CephPool):
        assert (await store.look(TWO)).used_bytes == 0
    pool.check_tidy()


async def test_clones_of_clones_go_in_any_order(pool, store):
    three = VolumeId("vol-00000000000000000000000003")
    await blank(pool, store)
    await pool.fill(ONE, "a")
    await store.clone(TWO, CloneOf(volume=ONE), None)
    await store.clone(three, CloneOf(volume=TWO), None)
    await store.delete(TWO)
    await store.delete(ONE)
    assert await holds(pool, "a", three)
    await store.delete(three)
    assert pool.is_empty()


async def test_a_deleted_volume_is_gone_and_deleted_again(pool, store):
    await blank(pool, store)
    for _ in range(2):
        await store.delete(ONE)
    assert pool.is_empty()


async def test_what_a_pool_says_of_itself_is_so(pool, store):
    found = await store.probe(LOCAL_POOL)
    assert found.available, found.reason
    assert found.capacity_bytes >= found.used_bytes >= 0
    assert found.capacity_bytes > 0
    assert found.capabilities.snapshots
    assert not found.capabilities.shrink
    assert pool.is_empty()


@pytest.mark.parametrize("pool", FOLDERS, indirect=True)  # a cluster counts by itself
@pytest.mark.parametrize("full", [False, True])
async def test_what_a_clone_takes_is_as_it_was_said(pool, store, full):
    await store.create(ONE, size_bytes=64 * MIB, base=None, keep_base=True, form=pool.form)
    for number in range(40):
        await pool.fill(ONE, "a", offset=(number * 16 + 1) * 65536)
    await store.snapshot(ONE, FIRST, None)
    os.sync()
    free = os.statvfs(pool.root).f_bfree * os.statvfs(pool.root).f_frsize
    await store.clone(TWO, CloneOf(volume=ONE, snapshot=FIRST, full=full), None)
    os.sync()
    taken = free - os.statvfs(pool.root).f_bfree * os.statvfs(pool.root).f_frsize
    can = await said(pool)
    if (await store.probe(LOCAL_POOL)).capabilities.reflink:  # nobody else writes to that file system
        assert taken < MIB
    else:
        own = [path for path in (pool.root / TWO).iterdir() if path.stat().st_nlink == 1]
        shares = can.clone is not CloneCost.COPY and not full
        assert (sum(path.stat().st_blocks * 512 for path in own) < MIB) is shares
    assert await holds(pool, "a", TWO, offset=65536)


@pytest.mark.parametrize("pool", FOLDERS, indirect=True)  # what a cluster keeps has one format
async def test_a_volume_becomes_one_of_another_format_by_a_full_copy(pool, store):
    await blank(pool, store)
    await pool.fill(ONE, "a")
    await store.snapshot(ONE, FIRST, None)
    await pool.fill(ONE, "b")
    other = _other(pool)
    await store.clone(TWO, CloneOf(volume=ONE, snapshot=FIRST, full=True, form=other), None)
    three = VolumeId("vol-00000000000000000000000003")
    await store.clone(three, CloneOf(volume=ONE, full=True, form=other), None)
    assert [(await store.disk(one)).format for one in (ONE, TWO, three)] == [pool.form, other, other]
    assert await holds(pool, "a", TWO)
    assert await holds(pool, "b", three)
    assert {(await store.look(one)).size_bytes for one in (ONE, TWO, three)} == {SIZE}
    await store.delete(ONE)
    assert await holds(pool, "a", TWO)
    pool.check_tidy()


class RawWriter:
    """A guest that writes to a raw volume all the time, and is never asked for anything."""

    def __init__(self, path):
        self.path = path
        self.ended = threading.Event()
        self.count = 0
        self.thread = threading.Thread(target=self.write)

    def write(self):
        with self.path.open("r+b", buffering=0) as file:
            while not self.ended.is_set():
                self.count += 1
                for block in range(2):  # the second only ever says what the first has said before
                    os.pwrite(file.fileno(), self.count.to_bytes(8, "big"), block * 65536)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def numbers(path) -> tuple[int, int]:
    """The two numbers in a copy of what `RawWriter` writes."""
    with path.open("rb") as file:
        return tuple(int.from_bytes(os.pread(file.fileno(), 8, block * 65536), "big") for block in range(2))


@pytest.mark.parametrize("kind", ["raw", "raw reflink"])
async def test_a_raw_volume_that_is_written_is_copied_at_one_instant_or_not_at_all(tmp_path, request, kind):
    place = tmp_path if kind == "raw" else request.getfixturevalue("reflinks") / tmp_path.name
    (place / "pool").mkdir(parents=True)
    pool = FolderPool(place / "pool", form=DiskFormat.RAW)
    store, can = pool.opened(), await said(pool)
    assert can.live_note
    await blank(pool, store)
    of = CloneOf(volume=ONE)
    with RawWriter(await pool.path(ONE)) as writer:
        await until(lambda: writer.count > 1000)
        if not can.live_snapshots:
            for asked in (store.snapshot(ONE, FIRST, writer), store.clone(TWO, of, writer)):
                with pytest.raises(DriverError) as caught:
                    await asked
                assert (caught.value.code, caught.value.failure_class) == ("live_copy_unsupported", "waiting")
        else:
            await store.snapshot(ONE, FIRST, writer)
            await store.clone(TWO, of, writer)
            other = CloneOf(volume=ONE, full=True, form=DiskFormat.QCOW2)
            await store.clone(VolumeId("vol-00000000000000000000000003"), other, writer)
            before = writer.count
            await until(lambda: writer.count > before)
    if can.live_snapshots:
        kept = pool.root / ONE / read(pool.root / ONE).snapshot(FIRST).layer
        for path in (kept, await pool.path(TWO)):
            first, second = numbers(path)
            assert first > 1000
            assert first - second in {0, 1}, "of two instants"
        assert (await store.look(VolumeId("vol-00000000000000000000000003"))).size_bytes == SIZE
    else:
        assert (await store.look(ONE)).snapshots == ()
        assert await store.look(TWO) is None
        await store.sweep()
    pool.check_tidy()
    shutil.rmtree(pool.root)


async def test_a_missing_snapshot_is_waited_for(pool, store):
    await blank(pool, store)
    with pytest.raises(DriverError) as caught:
        await store.restore(ONE, FIRST, 1)
    assert caught.value.code == "snapshot_missing"
    with pytest.raises(DriverError) as caught:
        await store.clone(TWO, CloneOf(volume=ONE, snapshot=FIRST), None)
    assert caught.value.code == "snapshot_missing"


async def test_a_missing_volume_is_said_to_be_missing(store):
    assert await store.look(ONE) is None
    for asked in (store.disk(ONE), store.snapshot(ONE, FIRST, None), store.clone(TWO, CloneOf(volume=ONE), None)):
        with pytest.raises(DriverError) as caught:
            await asked
        assert caught.value.code == "volume_missing"


# Who is killed


async def _prepared(pool) -> None:
    store = pool.opened()
    await blank(pool, store)
    await pool.fill(ONE, "a")
    await store.snapshot(ONE, FIRST, None)
    await pool.fill(ONE, "b")
    if isinstance(pool, CephPool):
        return
    await store.snapshot(ONE, SECOND, None)
    await pool.fill(ONE, "c", offset=65536)
    await store.drop(ONE, SECOND)


def _other(pool) -> DiskFormat:
    return DiskFormat.QCOW2 if pool.form is DiskFormat.RAW else DiskFormat.RAW


ACTS = {
    "create": lambda pool: pool.opened().create(TWO, size_bytes=SIZE, base=None, keep_base=True, form=pool.form),
    "clone": lambda pool: pool.opened().clone(TWO, CloneOf(volume=ONE), None),
    "clone a snapshot": lambda pool: pool.opened().clone(TWO, CloneOf(volume=ONE, snapshot=FIRST), None),
    "copy": lambda pool: pool.opened().clone(TWO, CloneOf(volume=ONE, snapshot=FIRST, full=True), None),
    "convert": lambda pool: pool.opened().clone(
        TWO, CloneOf(volume=ONE, snapshot=FIRST, full=True, form=_other(pool)), None
    ),
    "grow": lambda pool: pool.opened().grow(ONE, 2 * SIZE, None),
    "snapshot": lambda pool: pool.opened().snapshot(ONE, SECOND, None),
    "drop": lambda pool: pool.opened().drop(ONE, FIRST),
    "restore": lambda pool: pool.opened().restore(ONE, FIRST, 1),
    "merge": lambda pool: pool.opened().merge(ONE, None),
    "delete": lambda pool: pool.opened().delete(ONE),
}
WITH_STEPS = ("create", "clone", "restore", "delete")
"""Acts that take a cluster more than one command that changes something. All others are one command of its own."""
NOTHING_TO_MERGE = {"raw", "raw reflink"}
KILLED = [
    (kind, name)
    for kind in KINDS
    for name in (WITH_STEPS if kind == "ceph" else ACTS)
    if name != "merge" or kind not in NOTHING_TO_MERGE
]


def _look(pool) -> tuple[object, ...]:
    """All that anybody can see of both volumes, once what was begun is carried through as the executor does."""

    async def look() -> tuple[object, ...]:
        seen: list[object] = []
        for volume in (ONE, TWO):
            store = pool.opened()
            state = await store.look(volume)
            if state is not None and state.unfinished:
                await store.finish(volume, None)
                state = await store.look(volume)
            if state is None:
                seen.append(None)
                continue
            words = await pool.content(volume)
            seen.append((state.size_bytes, {one.id for one in state.snapshots}, state.restore_nonce, words))
        return tuple(seen)

    return asyncio.run(look())


def _killed(pool, act, number: int) -> bool:
    """Let a process do it and be killed before its n-th effect. False if it came to the end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            strike_at(number)
            asyncio.run(act(pool))
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0
    return os.WIFSIGNALED(ended)


async def _tidied(pool) -> None:
    """Do what agents do when they start, and about volumes that they know."""
    store = pool.opened()
    await store.sweep()
    for volume in (ONE, TWO):
        state = await store.look(volume)
        if state is not None and state.mergeable and isinstance(pool, CephPool):
            await store.merge(volume, None)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("pool", "name"), KILLED, indirect=["pool"])
def test_who_is_killed_at_any_step_leaves_old_or_new_and_nothing_else(pool, name):
    """In a cluster, where each try takes seconds, every eighth step is tried; `NACRE_EVERY_STEP` has all."""
    act = ACTS[name]
    pool = pool.again(_prepared)
    before = _look(pool)
    stride = 8 if isinstance(pool, CephPool) and not EVERY_STEP else 1
    number = first = 1 + list(ACTS).index(name) % min(stride, 4)
    killed = True
    while killed:
        if number > first:
            pool = pool.again(_prepared)
        killed = _killed(pool, act, number)
        asyncio.run(pool.opened().sweep())
        after = _look(pool)
        if isinstance(pool, FolderPool):
            pool.check_tidy()
        asyncio.run(act(pool))
        asyncio.run(_tidied(pool))
        new = _look(pool)
        assert after in (before, new), f"neither old nor new when killed before effect {number}"
        pool.check_tidy()
        number += stride
    assert number > first + stride, "nothing was ever killed"
