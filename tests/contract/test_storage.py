"""What every driver of pools promises (`storage.base.VolumeStore`), and that who is killed leaves old or new.

Drivers: `directory`, on the file system of the tests, and on one that copies by reflink.
"""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.base import BaseDisk, CloneOf
from nacre.agent.storage.layers import MANIFEST, chain, read, tree
from nacre.agent.storage.volumes import DirectoryVolumes
from nacre.lib.clock import SystemClock
from nacre.model.ids import SnapshotId, VolumeId
from nacre.model.images import Format
from nacre.model.units import MIB
from nacre.model.volumes import LOCAL_POOL
from support.filesystems import with_reflinks
from support.volumes import content, fill, holds, sound, strike_at

pytestmark = [pytest.mark.anyio, pytest.mark.host]

ONE = VolumeId("vol-00000000000000000000000001")
TWO = VolumeId("vol-00000000000000000000000002")
FIRST = SnapshotId("snap-00000000000000000000000001")
SECOND = SnapshotId("snap-00000000000000000000000002")
SIZE = 4 * MIB


@pytest.fixture(scope="module")
def reflinks(tmp_path_factory):
    with with_reflinks(tmp_path_factory.mktemp("reflinks")) as folder:
        yield folder


def folder_for(kind: str, request) -> Path:
    if kind == "reflink":
        return request.getfixturevalue("reflinks") / request.getfixturevalue("tmp_path").name
    return request.getfixturevalue("tmp_path") / "pool"


@pytest.fixture(params=["directory", "reflink"])
def root(request):
    made = folder_for(request.param, request)
    made.mkdir()
    return made


def opened(root: Path) -> DirectoryVolumes:
    return DirectoryVolumes(root, clock=SystemClock())


@pytest.fixture
def store(root):
    return opened(root)


async def path_of(store, volume=ONE) -> Path:
    return (await store.disk(volume)).path


def tidy(root: Path) -> None:
    """Nothing is there but what volumes are made of, and all of that is sound."""
    for folder in root.iterdir():
        assert not folder.name.startswith("."), folder
        manifest = read(folder)
        assert manifest is not None, folder
        useful = tree(folder, manifest)
        assert {path.name for path in folder.iterdir()} == {*useful, MANIFEST}
        assert all(sound(folder / name) for name in useful)


async def blank(store, volume=ONE) -> Path:
    await store.create(volume, size_bytes=SIZE, base=None, keep_base=True)
    return await path_of(store, volume)


async def test_a_blank_volume_is_made_once(store, root):
    path = await blank(store)
    fill(path, "a")
    assert await blank(store) == path
    assert holds(path, "a")
    state = await store.look(ONE)
    assert (state.size_bytes, state.snapshots, state.unfinished, state.mergeable) == (SIZE, (), False, False)
    tidy(root)


@pytest.mark.parametrize("keep", [True, False])
async def test_a_volume_from_an_image_starts_as_that(store, root, tmp_path, keep):
    image = tmp_path / "image.raw"
    image.write_bytes(b"i" * MIB)
    base = BaseDisk(path=image, format=Format.RAW)
    await store.create(ONE, size_bytes=SIZE, base=base, keep_base=keep)
    if not keep:
        image.unlink()
    assert holds(await path_of(store), "i")
    assert (await store.look(ONE)).size_bytes == SIZE


async def test_a_volume_smaller_than_its_image_is_refused_and_leaves_nothing(store, root, tmp_path):
    image = tmp_path / "image.raw"
    image.write_bytes(bytes(8 * MIB))
    with pytest.raises(DriverError) as caught:
        await store.create(ONE, size_bytes=SIZE, base=BaseDisk(path=image, format=Format.RAW), keep_base=True)
    assert caught.value.code == "disk_smaller_than_image"
    assert list(root.iterdir()) == []


async def test_a_volume_grows_and_never_shrinks(store):
    path = await blank(store)
    fill(path, "a")
    for size in (2 * SIZE, 2 * SIZE, SIZE):
        await store.grow(ONE, size, None)
    assert (await store.look(ONE)).size_bytes == 2 * SIZE
    assert holds(path, "a")


async def test_a_snapshot_keeps_what_was_there_and_the_volume_is_put_back_to_it(store, root):
    fill(await blank(store), "a")
    for _ in range(2):
        await store.snapshot(ONE, FIRST, None)
    fill(await path_of(store), "b")
    await store.grow(ONE, 2 * SIZE, None)
    for _ in range(2):
        await store.restore(ONE, FIRST, 1)
    assert holds(await path_of(store), "a")
    state = await store.look(ONE)
    assert (state.restore_nonce, state.size_bytes, len(state.snapshots)) == (1, SIZE, 1)
    fill(await path_of(store), "c")
    await store.restore(ONE, FIRST, 2)
    assert holds(await path_of(store), "a")
    tidy(root)


async def test_chains_stay_short_when_snapshots_go(store, root):
    fill(await blank(store), "a")
    for number in range(6):
        snapshot = SnapshotId(f"snap-0000000000000000000000000{number}")
        await store.snapshot(ONE, snapshot, None)
        fill(await path_of(store), "abcdef"[number], offset=number * 65536)
        if number:
            await store.drop(ONE, SnapshotId(f"snap-0000000000000000000000000{number - 1}"))
            while (await store.look(ONE)).mergeable:
                await store.merge(ONE, None)
    manifest = read(root / ONE)
    assert len(chain(tree(root / ONE, manifest), manifest.active)) <= 3
    path = await path_of(store)
    assert all(holds(path, "abcdef"[number], offset=number * 65536) for number in range(6))
    tidy(root)


@pytest.mark.parametrize("full", [False, True])
async def test_a_clone_is_a_volume_of_its_own(store, root, full):
    fill(await blank(store), "a")
    await store.snapshot(ONE, FIRST, None)
    fill(await path_of(store), "b")
    for _ in range(2):
        await store.clone(TWO, CloneOf(volume=ONE, snapshot=FIRST, full=full), None)
    assert holds(await path_of(store, TWO), "a")
    fill(await path_of(store, TWO), "c")
    assert holds(await path_of(store), "b")
    await store.drop(ONE, FIRST)
    await store.delete(ONE)
    assert holds(await path_of(store, TWO), "c")
    assert await store.look(ONE) is None
    tidy(root)


async def test_a_clone_of_a_volume_as_it_is_shares_its_content(store, root):
    path = await blank(store)
    fill(path, "a")
    await store.clone(TWO, CloneOf(volume=ONE), None)
    fill(await path_of(store), "b")
    assert holds(await path_of(store, TWO), "a")
    assert (root / TWO / path.name).stat().st_nlink == 2
    tidy(root)


async def test_a_deleted_volume_is_gone_and_deleted_again(store, root):
    await blank(store)
    for _ in range(2):
        await store.delete(ONE)
    assert list(root.iterdir()) == []


async def test_what_a_pool_says_of_itself_is_so(store, root):
    found = await store.probe(LOCAL_POOL)
    assert found.available
    assert found.capacity_bytes >= found.used_bytes > 0
    assert found.capabilities.snapshots
    assert not found.capabilities.shrink
    assert list(root.iterdir()) == []


async def test_a_missing_snapshot_is_waited_for(store):
    await blank(store)
    with pytest.raises(DriverError) as caught:
        await store.restore(ONE, FIRST, 1)
    assert caught.value.code == "snapshot_missing"


# Who is killed


async def _prepared(store) -> None:
    fill(await blank(store), "a")
    await store.snapshot(ONE, FIRST, None)
    fill(await path_of(store), "b")
    await store.snapshot(ONE, SECOND, None)
    fill(await path_of(store), "c", offset=65536)
    await store.drop(ONE, SECOND)


ACTS = {
    "create": lambda store: store.create(TWO, size_bytes=SIZE, base=None, keep_base=True),
    "clone": lambda store: store.clone(TWO, CloneOf(volume=ONE), None),
    "clone a snapshot": lambda store: store.clone(TWO, CloneOf(volume=ONE, snapshot=FIRST), None),
    "copy": lambda store: store.clone(TWO, CloneOf(volume=ONE, snapshot=FIRST, full=True), None),
    "grow": lambda store: store.grow(ONE, 2 * SIZE, None),
    "snapshot": lambda store: store.snapshot(ONE, SECOND, None),
    "drop": lambda store: store.drop(ONE, FIRST),
    "restore": lambda store: store.restore(ONE, FIRST, 1),
    "merge": lambda store: store.merge(ONE, None),
    "delete": lambda store: store.delete(ONE),
}


def _look(root: Path) -> tuple[object, ...]:
    """All that anybody can see of both volumes."""

    async def look() -> tuple[object, ...]:
        seen: list[object] = []
        for volume in (ONE, TWO):
            state = await opened(root).look(volume)
            if state is None:
                seen.append(None)
                continue
            words = content(await path_of(opened(root), volume))
            seen.append((state.size_bytes, {one.id for one in state.snapshots}, state.restore_nonce, words))
        return tuple(seen)

    return asyncio.run(look())


def _killed(root: Path, act, number: int) -> bool:
    """Let a process do it and be killed before its n-th effect. False if it came to the end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            strike_at(number)
            asyncio.run(act(opened(root)))
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0
    return os.WIFSIGNALED(ended)


@pytest.mark.parametrize("name", list(ACTS))
def test_who_is_killed_at_any_step_leaves_old_or_new_and_nothing_else(tmp_path, name):
    act = ACTS[name]
    first = tmp_path / "first"
    first.mkdir()
    asyncio.run(_prepared(opened(first)))
    before = _look(first)
    number, killed = 1, True
    while killed:
        root = tmp_path / f"pool-{number}"
        shutil.copytree(first, root)
        killed = _killed(root, act, number)
        asyncio.run(opened(root).sweep())
        tidy(root)
        after = _look(root)
        asyncio.run(act(opened(root)))
        asyncio.run(opened(root).sweep())
        new = _look(root)
        assert after in (before, new), f"neither old nor new when killed before effect {number}"
        tidy(root)
        number += 1
    assert number > 2, "nothing was ever killed"
