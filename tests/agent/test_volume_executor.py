"""Volumes of a node, from an intent to what lies in the pool and what is told. Real files, no hypervisor."""

from contextlib import asynccontextmanager

import msgspec
import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.images.cache import ImageCache
from nacre.agent.storage.layers import MANIFEST, Switching, read, write
from nacre.agent.storage.volumes import DirectoryVolumes
from nacre.agent.volume_executor import VolumeExecutor
from nacre.agent.volumes.pools import Pools
from nacre.agent.volumes.writing import in_use
from nacre.lib.clock import SystemClock
from nacre.model.consistency import Consistency
from nacre.model.convergence import FailureClass
from nacre.model.ids import CheckpointId, PoolId, ProjectId, SnapshotId, VolumeId
from nacre.model.volumes import (
    LOCAL_POOL,
    DiskFormat,
    PoolIntent,
    PoolKind,
    Restore,
    SnapshotIntent,
    SourceKind,
    VolumeAttachment,
    VolumeIntent,
    VolumePhase,
    VolumeSource,
    Wish,
    satisfies,
)
from nacre.protocol.messages import NodeIntent
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]

ONE = VolumeId("vol-00000000000000000000000001")
TWO = VolumeId("vol-00000000000000000000000002")
KEPT = SnapshotId("snap-00000000000000000000000001")
DATA = VolumeIntent(
    id=ONE,
    project=ProjectId("prj-1"),
    name="data",
    generation=1,
    desired=Wish.PRESENT,
    pool=LOCAL_POOL,
    size_bytes=1 << 20,
)


def changed(intent=DATA, **changes) -> VolumeIntent:
    return msgspec.structs.replace(intent, **changes)


class Users:
    """Machines, as far as volumes care."""

    def __init__(self):
        self.error: DriverError | None = None
        self.ready: list[VolumeId] = []
        self.still: list[VolumeId] = []
        self.consistency = Consistency.CRASH

    def user_of(self, volume):
        del volume
        if self.error is not None:
            raise self.error

    @asynccontextmanager
    async def held_still(self, volume):
        self.still.append(volume)
        yield self.consistency
        self.still.remove(volume)

    def volume_ready(self, volume):
        self.ready.append(volume)


class Bench:
    """One node's volumes."""

    def __init__(self, root, roots=()):
        self.root = root
        self.roots = roots
        (root / "images").mkdir(exist_ok=True)
        self.users = Users()
        self.told = {}
        self.forgotten = []
        self.executor = self.another()

    def another(self):
        clock = SystemClock()
        images = ImageCache(self.root / "images", limit_bytes=0, fetch=self.no_images, needed=lambda: None)
        return VolumeExecutor(
            Pools(self.root, clock=clock, roots=self.roots),
            images,
            self.users,
            clock=clock,
            random=lambda: 0.0,
            told=lambda seen: self.told.__setitem__(seen.id, seen),
            forgotten=self.forgotten.append,
        )

    async def no_images(self, image, role, offset):
        raise AssertionError(f"{role} of {image} from {offset}")
        yield b""

    async def want(self, *volumes):
        """Want these, and return when they are so."""
        self.executor.want(NodeIntent(volumes=volumes, teardown_allowed=True))
        await until(lambda: all(self.is_so(one) for one in volumes), timeout=60)

    def is_so(self, intent):
        seen = self.told.get(intent.id)
        return seen is not None and seen.generation == intent.generation and satisfies(intent, seen)

    def stuck(self, intent):
        seen = self.told.get(intent.id)
        return seen is not None and seen.generation == intent.generation and seen.failure is not None


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path)
    await made.executor.begin()
    yield made
    await made.executor.close()


async def test_a_volume_that_is_to_be_put_back_is_handed_to_no_machine_before(bench):
    kept = changed(snapshots=(SnapshotIntent(id=KEPT, desired=Wish.PRESENT),))
    await bench.want(kept)
    bench.users.ready.clear()
    bench.users.error = in_use("be put back")
    back = changed(kept, generation=2, restore=Restore(nonce=1, snapshot=KEPT))
    bench.executor.want(NodeIntent(volumes=(back,)))
    for _ in range(2):  # told, and then on record as well
        with pytest.raises(DriverError) as caught:
            await bench.executor._pools.disks([VolumeAttachment(volume=ONE)])
        assert caught.value.code == "volume_not_ready"
        await until(lambda: bench.stuck(back))
    bench.users.error = None
    bench.executor.look([ONE])
    await until(lambda: bench.users.ready == [ONE])
    assert len(await bench.executor._pools.disks([VolumeAttachment(volume=ONE)])) == 1


async def test_what_another_node_has_by_now_is_left_alone_and_what_is_noted_of_it_is_told(tmp_path):
    shared = tmp_path / "shared"
    nodes = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        nodes.append(Bench(tmp_path / name, roots=[str(shared)]))
    shared.mkdir()
    here, there = nodes
    fast = PoolIntent(id=PoolId("pool-fast"), name="fast", kind=PoolKind.DIRECTORY, path=str(shared), shared=True)
    before = changed(pool=fast.id)
    part = CheckpointId("ckpt-00000000000000000000000001")
    taken = SnapshotIntent(id=SnapshotId(part), desired=Wish.PRESENT)
    after = changed(before, generation=2, snapshots=(taken,), checkpoints=(part,))
    for one in nodes:
        await one.executor.begin()
    here.executor.want(NodeIntent(volumes=(before,), pools=(fast,)))
    await until(lambda: here.is_so(before))
    there.executor.want(NodeIntent(volumes=(after,), pools=(fast,)))
    await until(lambda: there.is_so(after))
    here.executor.look_again()  # it is cut off, and knows of no checkpoint
    seen = await until(lambda: here.told[ONE].failure and here.told[ONE])
    assert (seen.failure.code, seen.failure.failure_class) == ("volume_elsewhere", FailureClass.WAITING)
    assert seen.generation == 2
    assert [one.id for one in read(shared / ONE).snapshots] == [part]
    here.executor.want(NodeIntent(pools=(fast,)))
    await until(lambda: here.forgotten == [ONE])
    for one in nodes:
        await one.executor.close()


async def test_a_volume_goes_through_its_life(bench):
    await bench.want(DATA)
    assert bench.users.ready == [ONE]
    kept = changed(generation=2, snapshots=(SnapshotIntent(id=KEPT, desired=Wish.PRESENT),))
    await bench.want(kept)
    back = changed(kept, generation=3, restore=Restore(nonce=1, snapshot=KEPT), size_bytes=2 << 20)
    await bench.want(back)
    source = VolumeSource(kind=SourceKind.SNAPSHOT, volume=ONE, snapshot=KEPT)
    await bench.want(back, changed(id=TWO, source=source))
    await bench.want(changed(generation=4, desired=Wish.ABSENT), changed(id=TWO, source=source))
    assert [path.name for path in (bench.root / "volumes").iterdir()] == [TWO]
    bench.executor.want(NodeIntent(volumes=(changed(id=TWO, source=source),)))
    await until(lambda: bench.forgotten == [ONE])
    assert [path.stem for path in (bench.root / "volume-records").iterdir()] == [TWO]


async def test_a_snapshot_says_in_which_state_the_volume_was(bench, monkeypatch):
    await bench.want(DATA)
    taken = DirectoryVolumes.snapshot

    async def watched(self, volume, snapshot, writer):
        assert bench.users.still == [volume]
        await taken(self, volume, snapshot, writer)

    monkeypatch.setattr(DirectoryVolumes, "snapshot", watched)
    bench.users.consistency = Consistency.FILESYSTEM
    first = SnapshotIntent(id=KEPT, desired=Wish.PRESENT)
    await bench.want(changed(generation=2, snapshots=(first,)))
    bench.users.consistency = Consistency.CRASH
    second = SnapshotIntent(id=SnapshotId("snap-00000000000000000000000002"), desired=Wish.PRESENT)
    both = changed(generation=3, snapshots=(first, second))
    await bench.want(both)
    expected = {KEPT: Consistency.FILESYSTEM, second.id: Consistency.CRASH}
    assert {one.id: one.consistency for one in bench.told[ONE].snapshots} == expected
    await bench.executor.close()
    bench.told.clear()
    bench.executor = bench.another()
    await bench.executor.begin()
    await bench.want(both)
    assert {one.id: one.consistency for one in bench.told[ONE].snapshots} == expected
    await bench.want(changed(generation=4, snapshots=(second,)))
    third = SnapshotIntent(id=SnapshotId("snap-00000000000000000000000003"), desired=Wish.PRESENT)
    await bench.want(changed(generation=5, snapshots=(second, third)))
    assert bench.executor._volumes[ONE].record.consistency.keys() == {second.id, third.id}, "what is gone is forgotten"


async def test_a_volume_is_kept_in_its_format_and_so_are_its_clones(bench):
    raw = changed(format=DiskFormat.RAW, snapshots=(SnapshotIntent(id=KEPT, desired=Wish.PRESENT),))
    await bench.want(raw)
    same = changed(id=TWO, format=DiskFormat.RAW, source=VolumeSource(kind=SourceKind.VOLUME, volume=ONE))
    source = VolumeSource(kind=SourceKind.SNAPSHOT, volume=ONE, snapshot=KEPT, full=True)
    other = changed(id=VolumeId("vol-00000000000000000000000003"), source=source)
    await bench.want(raw, same, other)
    back = changed(raw, generation=2, restore=Restore(nonce=1, snapshot=KEPT), size_bytes=2 << 20)
    await bench.want(back, same, other)
    kept = [{path.suffix for path in (bench.root / "volumes" / one.id).iterdir()} for one in (back, same, other)]
    assert kept == [{".raw", ".json"}, {".raw", ".json"}, {".qcow2", ".json"}]
    sizes = sorted(path.stat().st_size for path in (bench.root / "volumes" / ONE).glob("*.raw"))
    assert sizes == [1 << 20, 2 << 20]


async def test_what_the_desired_state_omits_stays(bench):
    await bench.want(DATA)
    bench.executor.want(NodeIntent())
    bench.executor.look_again()
    await bench.want(changed(id=TWO))
    assert (bench.root / "volumes" / ONE / MANIFEST).exists()
    assert {seen.id for seen in bench.executor.observed()} == {ONE, TWO}


async def test_what_was_there_and_is_gone_is_never_made_anew(bench):
    await bench.want(DATA)
    (bench.root / "volumes" / ONE).rename(bench.root / "elsewhere")
    bench.executor.look_again()
    await until(lambda: bench.told[ONE].failure is not None)
    failure = bench.told[ONE].failure
    assert (failure.code, failure.failure_class) == ("volume_missing", FailureClass.BLOCKED)
    assert not (bench.root / "volumes" / ONE).exists()
    (bench.root / "elsewhere").rename(bench.root / "volumes" / ONE)
    bench.executor.look_again()
    await until(lambda: bench.told[ONE].failure is None)


async def test_what_another_node_has_had_is_not_made_blank_where_it_is_not_seen(bench):
    """Such as where the folder of a shared pool is there, but nothing is mounted on it."""
    bench.executor.want(NodeIntent(volumes=(changed(made=True),)))
    await until(lambda: bench.stuck(DATA))
    assert bench.told[ONE].failure.code == "volume_missing"
    assert not (bench.root / "volumes" / ONE).exists()


async def test_what_was_never_begun_is_deleted_although_its_pool_is_away(bench):
    """And after its agent was replaced meanwhile."""
    pool = PoolIntent(id=PoolId("pool-1"), name="fast", kind=PoolKind.DIRECTORY, path="/nowhere", shared=False)
    wanted = changed(pool=pool.id)
    bench.executor.want(NodeIntent(volumes=(wanted,), pools=(pool,)))
    await until(lambda: bench.stuck(wanted))
    assert bench.told[ONE].failure.code == "pool_unavailable"
    await bench.executor.close()
    bench.executor = bench.another()
    await bench.executor.begin()
    gone = changed(wanted, generation=2, desired=Wish.ABSENT)
    bench.executor.want(NodeIntent(volumes=(gone,), pools=(pool,), teardown_allowed=True))
    await until(lambda: bench.told[ONE].phase is VolumePhase.ABSENT)
    assert bench.told[ONE].failure is None


async def test_what_may_have_been_begun_stays_until_its_pool_is_back(bench, monkeypatch):
    """A volume that was made just before its agent was killed, which is not on record yet."""

    async def killed(*_args, **_options):
        raise OSError("killed")

    monkeypatch.setattr(DirectoryVolumes, "create", killed)
    bench.executor.want(NodeIntent(volumes=(DATA,)))
    await until(lambda: bench.stuck(DATA))

    async def away(*_args):
        raise DriverError("pool_unavailable", "away", hint="mount it", failure_class=FailureClass.BLOCKED)

    with monkeypatch.context() as unmounted:
        unmounted.setattr(DirectoryVolumes, "look", away)
        gone = changed(generation=2, desired=Wish.ABSENT)
        bench.executor.want(NodeIntent(volumes=(gone,), teardown_allowed=True))
        await until(lambda: bench.stuck(gone) and bench.told[ONE].failure.code == "pool_unavailable")
        assert bench.told[ONE].phase is VolumePhase.DELETING
    bench.executor.look_again()
    await until(lambda: bench.told[ONE].phase is VolumePhase.ABSENT)


async def test_while_nobody_knows_who_has_it_open_nothing_is_done_to_a_volume(bench):
    await bench.want(DATA)
    bench.users.error = DriverError("unknown", "who?", hint="wait", failure_class=FailureClass.WAITING)
    gone = changed(generation=2, desired=Wish.ABSENT)
    bench.executor.want(NodeIntent(volumes=(gone,), teardown_allowed=True))
    await until(lambda: bench.told[ONE].failure is not None)
    assert bench.told[ONE].phase is VolumePhase.DELETING
    assert (bench.root / "volumes" / ONE).exists()
    bench.users.error = None
    bench.executor.look([ONE])
    await until(lambda: bench.told[ONE].phase is VolumePhase.ABSENT)


async def test_a_snapshot_that_is_coming_is_told_of_until_it_is_gone(bench):
    """Or the control plane would forget it, and nobody would ever have it dropped."""
    await bench.want(DATA)
    await bench.executor.close()
    folder = bench.root / "volumes" / ONE
    manifest = read(folder)
    await bench.executor._pools.store(LOCAL_POOL)._overlay(folder, manifest.active, "next.qcow2")
    switching = Switching(layer="next.qcow2", snapshot=KEPT)
    write(folder, msgspec.structs.replace(manifest, switching=switching))
    bench.told.clear()
    bench.executor = bench.another()
    bench.users.error = DriverError("unknown", "who?", hint="wait", failure_class=FailureClass.WAITING)
    await bench.executor.begin()
    kept = changed(generation=2, snapshots=(SnapshotIntent(id=KEPT, desired=Wish.PRESENT),))
    bench.executor.want(NodeIntent(volumes=(kept,)))
    await until(lambda: bench.stuck(kept))
    assert bench.told[ONE].snapshots == ()
    gone = changed(generation=3, snapshots=(SnapshotIntent(id=KEPT, desired=Wish.ABSENT),))
    bench.executor.want(NodeIntent(volumes=(gone,)))
    await until(lambda: bench.stuck(gone))
    assert [one.id for one in bench.told[ONE].snapshots] == [KEPT]
    bench.users.error = None
    await bench.want(changed(gone, generation=4))
    assert read(folder).snapshots == ()


async def test_another_agent_finds_what_there_is(bench):
    await bench.want(DATA)
    await bench.executor.close()
    (bench.root / "volumes" / f".new-{TWO}").mkdir()
    (bench.root / "volumes" / ONE / "stray.qcow2").write_bytes(b"")
    bench.told.clear()
    bench.executor = bench.another()
    await bench.executor.begin()
    await bench.want(DATA)
    assert [path.name for path in (bench.root / "volumes").iterdir()] == [ONE]
    assert not (bench.root / "volumes" / ONE / "stray.qcow2").exists()
