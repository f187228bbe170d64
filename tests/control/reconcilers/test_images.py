"""Images brought in and taken away: by URL, by path, by conversion, in bad weather, and killed at any point."""

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nacre.control.auth.principals import Caller
from nacre.control.reconcilers import image_sweeps
from nacre.control.reconcilers.image_conversions import Converter
from nacre.control.reconcilers.images import CLAIM_S, ImageReconciler
from nacre.control.services import image_facts, image_finishing, images, operations
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.image_uploads import ImageUploads
from nacre.control.store.db import Database
from nacre.control.store.images import ImageRow, Stage
from nacre.lib.clock import ManualClock
from nacre.lib.fetch import Fetcher, Limits
from nacre.model.images import Format, ImageState, Role
from nacre.model.operations import OperationState
from nacre.schema.common import OperationOut
from nacre.schema.images import ArtifactSource
from support import access
from support import images as made
from support.images import MIB
from support.waiting import until
from support.webserver import Site, serving

pytestmark = pytest.mark.anyio


@dataclass
class World:
    db: Database
    clock: ManualClock
    depot: ImageDepot
    root: Path

    def reconciler(self, **options: object) -> ImageReconciler:
        fetcher = Fetcher(guard=self.depot.guard, limits=Limits(silence_s=5, total_s=30))
        return ImageReconciler(self.db, self.depot, fetcher=fetcher, renew_s=0.05, **options)  # type: ignore[arg-type]

    @asynccontextmanager
    async def working(self, **options: object) -> AsyncGenerator[asyncio.Task[None]]:
        task = asyncio.create_task(self.reconciler(**options).run())
        try:
            yield task
        finally:
            await stop(task)

    async def create(self, *sources: ArtifactSource, name: str = "disk") -> str:
        return (await made.create(self.db, self.depot, *sources, name=name)).resource.id

    async def settled(self, image: str, state: ImageState) -> ImageRow:
        try:
            found = await until(lambda: made.in_state(self.db, image, state), timeout=20)
        except AssertionError as error:
            raise AssertionError(await made.row(self.db, image)) from error
        assert found is not None
        return found

    async def gone(self, image: str) -> None:
        async def check() -> bool:
            return await made.row(self.db, image) is None

        await until(check, timeout=20)
        assert not (self.depot.folder / image).exists()

    async def operation(self, image: str) -> OperationOut:
        async with self.db.read() as rd:
            page = await operations.list_(
                rd, access.admin("operation:list"), operations.ListQuery(filters={"object": image})
            )
        return max(page.items, key=lambda operation: operation.generation)

    async def delete(self, image: str, caller: Caller | None = None) -> None:
        async with self.db.write() as tx:
            await images.delete(tx, caller or access.admin("image:delete"), image)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.fixture
def world(database: Database, clock: ManualClock, tmp_path: Path) -> World:
    root = tmp_path / "roots"
    root.mkdir()
    depot = ImageDepot.of(tmp_path / "data", image_roots=(str(root),), fetch_allow=("127.0.0.1/32",))
    return World(db=database, clock=clock, depot=replace(depot, reserve_bytes=0), root=root)


def by_url(site: Site, **fields: object) -> ArtifactSource:
    return ArtifactSource(role=Role.DISK, url=site.url(), **fields)  # type: ignore[arg-type]


def virtual_content(path: Path, folder: Path) -> bytes:
    out = folder / "out.raw"
    made.qemu_img("convert", "-O", "raw", str(path), str(out))
    return out.read_bytes()


async def test_an_image_is_fetched_by_url(world: World) -> None:
    content = made.raw_disk(3 * MIB)
    async with serving(content) as site, world.working():
        image = await world.create(by_url(site, sha256=made.sha256(content)))
        row = await world.settled(image, ImageState.READY)
    assert row.artifacts[0].sha256 == made.sha256(content)
    assert world.depot.path(row.id, Role.DISK).read_bytes() == content
    assert (row.claim, row.work_at, row.parts[0].received_bytes) == (None, None, len(content))
    operation = await world.operation(image)
    assert (operation.state, operation.progress) == (OperationState.SUCCEEDED, 1.0)


async def test_an_image_is_copied_from_a_path_even_if_the_original_changes_later(world: World) -> None:
    content = made.raw_disk(2 * MIB)
    (world.root / "disk.img").write_bytes(content)
    async with world.working():
        image = await world.create(ArtifactSource(role=Role.DISK, path=str(world.root / "disk.img")))
        row = await world.settled(image, ImageState.READY)
    (world.root / "disk.img").write_bytes(b"changed")
    assert world.depot.path(row.id, Role.DISK).read_bytes() == content


async def test_a_path_that_became_a_link_to_elsewhere_is_not_followed(world: World, tmp_path: Path) -> None:
    path = world.root / "disk.img"
    path.write_bytes(made.raw_disk())
    image = await world.create(ArtifactSource(role=Role.DISK, path=str(path)))
    path.unlink()
    (tmp_path / "secret.img").write_bytes(made.raw_disk())
    path.symlink_to(tmp_path / "secret.img")
    async with world.working():
        row = await world.settled(image, ImageState.FAILED)
    assert row.error_code == "image_path_unreadable"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vmdk", []),
        ("vmdk", ["-o", "subformat=streamOptimized"]),
        ("vpc", ["-o", "force_size=on"]),
        ("vpc", ["-o", "force_size=on,subformat=fixed"]),
    ],
)
async def test_foreign_formats_are_converted_to_qcow2(
    world: World, tmp_path: Path, kind: str, options: list[str]
) -> None:
    original = made.raw_disk(2 * MIB)
    path = made.converted(tmp_path, kind, original, *options)
    async with world.working():
        image = await world.create(ArtifactSource(role=Role.DISK))
        await made.upload(ImageUploads(world.db, world.depot), image, path.read_bytes())
        row = await world.settled(image, ImageState.READY)
        stored = world.depot.path(row.id, Role.DISK)
        await until(lambda: [path.name for path in stored.parent.iterdir()] == ["disk"])
    artifact = row.artifacts[0]
    assert (artifact.format, artifact.virtual_size_bytes) == (Format.QCOW2, 2 * MIB)
    assert artifact.sha256 == made.sha256(stored.read_bytes())
    assert virtual_content(stored, tmp_path) == original


async def test_what_was_converted_goes_although_recording_the_result_ends_the_claim(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = image_finishing._record

    async def slowly(*args: Any) -> None:
        await record(*args)
        await asyncio.sleep(0.3)  # whoever keeps the claim has seen by then that it is over

    monkeypatch.setattr(image_finishing, "_record", slowly)
    path = made.converted(tmp_path, "vmdk", made.raw_disk(2 * MIB))
    async with world.working():
        image = await world.create(ArtifactSource(role=Role.DISK))
        await made.upload(ImageUploads(world.db, world.depot), image, path.read_bytes())
        row = await world.settled(image, ImageState.READY)
        folder = world.depot.path(row.id, Role.DISK).parent
        await until(lambda: [path.name for path in folder.iterdir()] == ["disk"])


async def test_an_upload_and_a_fetch_may_make_one_image(world: World) -> None:
    async with serving(made.kernel()) as site, world.working():
        image = await world.create(ArtifactSource(role=Role.KERNEL, url=site.url()), ArtifactSource(role=Role.INITRD))
        await made.upload(ImageUploads(world.db, world.depot), image, made.initrd(), role=Role.INITRD)
        row = await world.settled(image, ImageState.READY)
    assert {artifact.role for artifact in row.artifacts} == {Role.KERNEL, Role.INITRD}


@pytest.mark.parametrize(
    ("content", "fields", "code"),
    [
        (b"<!doctype html>", {}, "not_a_disk_image"),
        (made.raw_disk(), {"sha256": "0" * 64}, "image_checksum_mismatch"),
        (made.raw_disk(), {"size_bytes": MIB + 1}, "image_size_mismatch"),
        (made.raw_disk(), {"format": Format.QCOW2}, "image_format_mismatch"),
    ],
)
async def test_what_is_not_what_it_should_be_fails_for_good_and_leaves_no_file(
    world: World, content: bytes, fields: dict[str, object], code: str
) -> None:
    async with serving(content) as site, world.working():
        image = await world.create(by_url(site, **fields))
        row = await world.settled(image, ImageState.FAILED)
        assert (row.error_code, bool(row.hint)) == (code, True)
        await until(lambda: not (world.depot.folder / image).exists())
        operation = await world.operation(image)
        assert (operation.state, operation.error_code) == (OperationState.FAILED, code)
        await world.delete(image)
        await world.gone(image)


async def test_a_missing_file_fails_for_good(world: World) -> None:
    async with serving(status=404) as site, world.working():
        row = await world.settled(await world.create(by_url(site)), ImageState.FAILED)
    assert row.error_code == "fetch_answer"


async def test_a_broken_fetch_is_gone_on_with_after_a_pause(world: World) -> None:
    content = made.raw_disk(8 * MIB)
    async with serving(content, break_after=6 * MIB) as site, world.working():
        image = await world.create(by_url(site))

        async def delayed() -> bool:
            row = await made.row(world.db, image)
            return row is not None and row.error_code == "fetch_failed" and row.claim is None

        await until(delayed)
        row = await world.settled(image, ImageState.FETCHING)
        assert row.attempts == 1
        assert row.parts[0].received_bytes > 0
        world.clock.advance(1.1)
        world.db.wakes.ring("images")
        row = await world.settled(image, ImageState.READY)
        assert (row.error_code, row.attempts) == ("", 0)
        assert site.asked[-1][1].startswith("bytes=")
    assert world.depot.path(row.id, Role.DISK).read_bytes() == content


async def test_a_server_that_never_answers_is_given_up_after_many_tries(world: World) -> None:
    async with serving(status=503) as site, world.working():
        image = await world.create(by_url(site))

        async def tried(times: int) -> bool:
            row = await made.row(world.db, image)
            return row is not None and row.claim is None and (row.attempts == times or row.state is ImageState.FAILED)

        for attempt in range(1, image_facts.MAX_ATTEMPTS):
            await until(lambda attempt=attempt: tried(attempt))
            world.clock.advance(121)
            world.db.wakes.ring("images")
        row = await world.settled(image, ImageState.FAILED)
    assert (row.error_code, len(site.asked)) == ("fetch_failed", image_facts.MAX_ATTEMPTS)


async def test_deleting_an_image_that_is_being_fetched_ends_the_fetch_at_once(world: World) -> None:
    async with serving(made.raw_disk(3 * MIB), stall_after=2 * MIB) as site, world.working():
        image = await world.create(by_url(site))
        await until(lambda: (world.depot.folder / image).exists())
        await world.delete(image)
        await world.gone(image)


async def test_deleting_leaves_nothing(world: World) -> None:
    async with world.working():
        image = (await made.ready_image(world.db, world.depot)).id
        await world.delete(image)
        await world.gone(image)
        operation = await world.operation(image)
    assert (operation.type, operation.state) == ("image.delete", OperationState.SUCCEEDED)
    assert list(world.depot.folder.iterdir()) == []


async def test_a_stop_gives_the_claim_back_so_that_the_next_start_goes_on_at_once(world: World) -> None:
    async with serving(made.raw_disk(3 * MIB), stall_after=2 * MIB) as site:
        async with world.working():
            image = await world.create(by_url(site))
            await until(lambda: bool(site.asked))
        row = await made.row(world.db, image)
        assert row is not None
        assert (row.claim, row.state) == (None, ImageState.FETCHING)
        site.stall_after = None
        async with world.working():
            await world.settled(image, ImageState.READY)


async def test_the_work_of_a_killed_process_is_taken_over_when_its_claim_ends(world: World) -> None:
    content = made.raw_disk()
    async with serving(content) as site:
        image = await world.create(by_url(site))
        dead = world.reconciler()
        assert await dead._claim({ImageState.FETCHING}) is not None  # and then it was killed
        async with world.working():
            await asyncio.sleep(0.1)
            assert site.asked == []
            world.clock.advance(CLAIM_S + 1)
            world.db.wakes.ring("images")
            await world.settled(image, ImageState.READY)


async def test_a_worker_that_lost_its_claim_changes_nothing(world: World) -> None:
    async with serving(made.raw_disk()) as site:
        image = await world.create(by_url(site))
        first = await world.reconciler()._claim({ImageState.FETCHING})
        world.clock.advance(CLAIM_S + 1)
        second = await world.reconciler()._claim({ImageState.FETCHING})
        assert first is not None
        assert second is not None
        with pytest.raises(image_facts.ImageGoneError):
            async with world.db.write() as tx:
                await image_facts.arrived(tx, first.id, Role.DISK, 5, claim=first.claim)
        row = await made.row(world.db, image)
        assert row is not None
        assert (row.claim, row.parts[0].received_bytes) == (second.claim, 0)


async def test_two_replicas_never_work_on_the_same_image(world: World) -> None:
    content = made.raw_disk()
    async with serving(content) as site, world.working(), world.working():
        made_ids = [await world.create(by_url(site), name=f"disk-{n}") for n in range(8)]
        for image in made_ids:
            await world.settled(image, ImageState.READY)
        assert len(site.asked) == len(made_ids)


@pytest.mark.parametrize("when", ["before-rename", "after-rename"])
async def test_a_conversion_that_was_killed_is_done_again(world: World, tmp_path: Path, when: str) -> None:
    path = made.converted(tmp_path, "vmdk", made.raw_disk(2 * MIB))
    image = await world.create(ArtifactSource(role=Role.DISK))
    await made.upload(ImageUploads(world.db, world.depot), image, path.read_bytes())
    row = await made.row(world.db, image)
    assert row is not None
    half = (
        world.depot.convert_path(row.id, Role.DISK) if when == "before-rename" else world.depot.path(row.id, Role.DISK)
    )
    half.write_bytes(b"half of something")
    async with world.working():
        row = await world.settled(image, ImageState.READY)
    assert virtual_content(world.depot.path(row.id, Role.DISK), tmp_path) == made.raw_disk(2 * MIB)


async def test_a_fetch_that_was_killed_between_the_file_and_the_row_is_finished(world: World) -> None:
    content = made.raw_disk()
    async with serving(content) as site:
        image = await world.create(by_url(site))
        folder = world.depot.folder / image
        folder.mkdir(parents=True)
        (folder / "disk").write_bytes(content)
        async with world.working():
            row = await world.settled(image, ImageState.READY)
    assert world.depot.path(row.id, Role.DISK).read_bytes() == content


async def test_a_conversion_is_bounded_in_time_and_its_process_ends(world: World, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 300\n")
    slow.chmod(0o755)
    content = made.converted(tmp_path, "vmdk", made.raw_disk()).read_bytes()
    image = await world.create(ArtifactSource(role=Role.DISK))
    await made.upload(ImageUploads(world.db, world.depot), image, content)
    async with world.working(converter=Converter(program=str(slow), timeout_s=0.3)):
        row = await world.settled(image, ImageState.FAILED)
    assert row.error_code == "image_conversion_slow"
    assert subprocess.run(["pgrep", "-f", str(slow)], check=False, capture_output=True).stdout == b""


async def test_without_qemu_img_the_error_says_what_to_install(world: World, tmp_path: Path) -> None:
    content = made.converted(tmp_path, "vmdk", made.raw_disk()).read_bytes()
    image = await world.create(ArtifactSource(role=Role.DISK))
    await made.upload(ImageUploads(world.db, world.depot), image, content)
    async with world.working(converter=Converter(program="qemu-img-is-not-here")):
        row = await world.settled(image, ImageState.FAILED)
    assert row.error_code == "converter_missing"
    assert "qemu-utils" in row.hint


async def test_a_damaged_disk_fails_without_a_path_in_its_words(world: World, tmp_path: Path) -> None:
    options = ("-o", "subformat=streamOptimized")
    content = bytearray(made.converted(tmp_path, "vmdk", made.raw_disk(2 * MIB), *options).read_bytes())
    content[0x10000:0x14000] = bytes(0x4000)  # compressed grains
    image = await world.create(ArtifactSource(role=Role.DISK))
    await made.upload(ImageUploads(world.db, world.depot), image, bytes(content))
    async with world.working():
        row = await world.settled(image, ImageState.FAILED)
    assert row.error_code == "image_conversion_failed"
    assert str(world.depot.folder) not in row.error + row.hint


async def test_an_upload_that_nobody_goes_on_with_is_given_up_and_its_bytes_go(world: World) -> None:
    image = await world.create(ArtifactSource(role=Role.DISK, size_bytes=MIB))
    await made.upload(ImageUploads(world.db, world.depot), image, made.raw_disk()[:5000])
    await image_sweeps.sweep(world.db, world.depot, set())
    assert await made.in_state(world.db, image, ImageState.UPLOADING)
    world.clock.advance(image_sweeps.UPLOAD_IDLE_S + 1)
    async with world.working():
        row = await world.settled(image, ImageState.FAILED)
        assert row.error_code == "upload_abandoned"
        await until(lambda: not (world.depot.folder / image).exists())


async def test_leftovers_go_but_finished_artifacts_that_nobody_knows_stay(world: World) -> None:
    known = (await made.ready_image(world.db, world.depot)).id
    (world.depot.folder / known / "disk.part").write_bytes(b"left")
    (world.depot.folder / known / "disk.convert").write_bytes(b"left")
    half = world.depot.folder / "img-00000000000000000000000000"
    half.mkdir()
    (half / "disk.part").write_bytes(b"half")
    whole = world.depot.folder / "img-00000000000000000000000001"
    whole.mkdir()
    (whole / "disk").write_bytes(b"whole")
    (world.depot.folder / "something-else").mkdir()
    await image_sweeps.sweep(world.db, world.depot, set())
    assert half.exists()
    await image_sweeps.sweep(world.db, world.depot, set(), leftover_s=-1)
    assert sorted(path.name for path in world.depot.folder.iterdir()) == [whole.name, known, "something-else"]
    assert [path.name for path in (world.depot.folder / known).iterdir()] == ["disk"]


async def test_no_url_and_no_path_is_shown_anywhere(world: World) -> None:
    async with serving(b"<html>") as site, world.working():
        image = (
            await made.create(
                world.db, world.depot, ArtifactSource(role=Role.DISK, url=site.url("/x?signature=geheim"))
            )
        ).resource.id
        await world.settled(image, ImageState.FAILED)
        async with world.db.read() as rd:
            shown = await images.show(rd, access.admin("image:view"), image)
            told = await operations.list_(rd, access.admin("operation:list"), operations.ListQuery())
    assert "geheim" not in json.dumps([repr(shown), repr(told)])


async def test_progress_is_shown_while_bytes_come(world: World) -> None:
    async with serving(made.raw_disk(4 * MIB), stall_after=3 * MIB) as site, world.working():
        image = await world.create(by_url(site))

        async def announced() -> bool:
            row = await made.row(world.db, image)
            return row is not None and row.parts[0].total_bytes == 4 * MIB

        await until(announced)
        row = await made.row(world.db, image)
        assert row is not None
        assert row.parts[0].stage is Stage.RECEIVING
        async with world.db.read() as rd:
            shown = await images.show(rd, access.admin("image:view"), image)
        assert shown.progress[0].total_bytes == 4 * MIB
