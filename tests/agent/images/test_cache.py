"""The image cache: verified, gone on with, shared, bounded."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nacre.agent.images.cache import ImageCache
from nacre.errors import NotFoundError, UnavailableError
from nacre.model.ids import ImageId
from nacre.model.images import Artifact, Format, ImageManifest, Role

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 40


def manifest(name: str = "img-a", content: bytes = CONTENT, roles: tuple[Role, ...] = (Role.DISK,)) -> ImageManifest:
    return ImageManifest(
        id=ImageId(name),
        artifacts=tuple(
            Artifact(
                role=role,
                format=Format.RAW,
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                virtual_size_bytes=len(content),
            )
            for role in roles
        ),
    )


class Source:
    """Where images come from; can break off, lie, and be waited for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[int] = []
        self.breaks_after: int | None = None
        self.gate: asyncio.Event | None = None
        self.closed = 0

    async def fetch(self, image: ImageId, role: Role, offset: int) -> AsyncIterator[bytes]:
        self.asked.append(offset)
        try:
            for start in range(offset, len(self.content), 1000):
                if self.gate is not None:
                    await self.gate.wait()
                if self.breaks_after is not None and start - offset >= self.breaks_after:
                    raise UnavailableError("connection_lost", "broke off", hint="again")
                yield self.content[start : start + 1000]
        finally:
            self.closed += 1


class Shelf:
    def __init__(self, folder: Path, limit: int = 1 << 30) -> None:
        self.folder = folder
        self.source = Source()
        self.needed: frozenset[ImageId] | None = frozenset()
        self.cache = ImageCache(folder, limit_bytes=limit, fetch=self.source.fetch, needed=lambda: self.needed)


@pytest.fixture
def shelf(tmp_path) -> Shelf:
    return Shelf(tmp_path)


async def test_an_image_is_fetched_once_and_verified(shelf):
    image = await shelf.cache.fetch(manifest(roles=(Role.KERNEL, Role.INITRD)))
    assert image.path(Role.KERNEL).read_bytes() == CONTENT
    assert image.path(Role.DISK) is None
    await shelf.cache.fetch(manifest(roles=(Role.KERNEL, Role.INITRD)))
    assert shelf.source.asked == [0, 0]
    assert shelf.cache.cached() == ("img-a",)
    assert shelf.source.closed == 2


async def test_a_fetch_that_broke_off_goes_on_where_it_was(shelf):
    shelf.source.breaks_after = 3000
    with pytest.raises(UnavailableError):
        await shelf.cache.fetch(manifest())
    assert shelf.cache.cached() == ()
    shelf.source.breaks_after = None
    image = await shelf.cache.fetch(manifest())
    assert shelf.source.asked == [0, 3000]
    assert image.path(Role.DISK).read_bytes() == CONTENT


async def test_content_that_is_not_what_it_should_be_is_thrown_away(shelf):
    shelf.source.content = CONTENT[:-1] + b"x"
    with pytest.raises(UnavailableError) as caught:
        await shelf.cache.fetch(manifest())
    assert caught.value.code == "image_corrupt"
    assert list((shelf.folder / "img-a").iterdir()) == []
    shelf.source.content = CONTENT
    await shelf.cache.fetch(manifest())
    assert shelf.source.asked == [0, 0]


@pytest.mark.parametrize("content", [CONTENT + b"more", CONTENT[:-7]])
async def test_too_much_or_too_little_is_not_accepted(shelf, content):
    shelf.source.content = content
    with pytest.raises(UnavailableError):
        await shelf.cache.fetch(manifest())
    assert shelf.cache.cached() == ()


async def test_a_partial_file_that_is_wrong_costs_one_more_try(shelf):
    (shelf.folder / "img-a").mkdir()
    (shelf.folder / "img-a/disk.partial").write_bytes(b"x" * 500)
    with pytest.raises(UnavailableError):
        await shelf.cache.fetch(manifest())
    image = await shelf.cache.fetch(manifest())
    assert image.path(Role.DISK).read_bytes() == CONTENT
    (shelf.folder / "img-b").mkdir()
    (shelf.folder / "img-b/disk.partial").write_bytes(b"x" * (len(CONTENT) + 1))
    await shelf.cache.fetch(manifest("img-b"))


async def test_two_machines_that_need_the_same_image_fetch_it_once(shelf):
    both = await asyncio.gather(shelf.cache.fetch(manifest()), shelf.cache.fetch(manifest()))
    assert both[0].path(Role.DISK) == both[1].path(Role.DISK)
    assert shelf.source.asked == [0]


async def test_a_fetch_that_is_given_up_is_gone_on_with_by_whoever_waits(shelf):
    shelf.source.gate = asyncio.Event()
    first = asyncio.create_task(shelf.cache.fetch(manifest()))
    second = asyncio.create_task(shelf.cache.fetch(manifest()))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    shelf.source.gate.set()
    image = await second
    assert image.path(Role.DISK).read_bytes() == CONTENT
    assert shelf.source.closed == len(shelf.source.asked) == 2


async def test_an_image_that_does_not_exist_any_more_is_said_so(shelf):
    with pytest.raises(NotFoundError):
        await shelf.cache.fetch(ImageManifest(id=ImageId("img-a"), artifacts=()))


async def test_unused_images_make_room_longest_unused_first(tmp_path):
    shelf = Shelf(tmp_path, limit=3 * len(CONTENT))
    for age, name in enumerate(("img-a", "img-b", "img-c")):
        await shelf.cache.fetch(manifest(name))
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    shelf.needed = frozenset({ImageId("img-a")})
    await shelf.cache.fetch(manifest("img-d"))
    assert shelf.cache.cached() == ("img-a", "img-c", "img-d")
    assert shelf.cache.size() == 3 * len(CONTENT)


async def test_what_is_needed_stays_even_if_it_is_too_much(tmp_path):
    shelf = Shelf(tmp_path, limit=0)
    for name in ("img-a", "img-b"):
        shelf.needed = frozenset({ImageId("img-a"), ImageId("img-b")})
        await shelf.cache.fetch(manifest(name))
    assert shelf.cache.cached() == ("img-a", "img-b")
    shelf.needed = None
    await shelf.cache.evict()
    assert shelf.cache.cached() == ("img-a", "img-b")
    shelf.needed = frozenset()
    await shelf.cache.evict()
    assert shelf.cache.cached() == ()
