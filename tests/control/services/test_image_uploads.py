"""Uploads of artifacts: whole, in parts, broken off, wrong, on a full disk, two at once."""

import asyncio
import subprocess
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.control.services import events as event_service
from nacre.control.services import images
from nacre.control.services.image_files import ImageDepot, UploadBusyError
from nacre.control.services.image_uploads import ImageUploads
from nacre.control.store.db import Database
from nacre.control.store.images import Stage
from nacre.errors import ConflictError, ExhaustedError, ForbiddenError, InvalidInputError, NotFoundError, TooLargeError
from nacre.model.access import Role as Grade
from nacre.model.images import Format, ImageState, Role
from nacre.schema.images import ArtifactSource
from support import access
from support import images as made
from support.images import MIB

pytestmark = pytest.mark.anyio

DISK = ArtifactSource(role=Role.DISK)


@pytest.fixture
def depot(tmp_path: Path) -> ImageDepot:
    return replace(ImageDepot.of(tmp_path), reserve_bytes=0)


@pytest.fixture
async def uploads(database: Database, depot: ImageDepot) -> ImageUploads:
    return ImageUploads(database, depot)


async def started(uploads: ImageUploads, *sources: ArtifactSource) -> str:
    return (await made.create(uploads.db, uploads.depot, *(sources or (DISK,)))).resource.id


async def offset_of(uploads: ImageUploads, image: str, role: Role = Role.DISK) -> int:
    async with uploads.db.read() as rd:
        return (await images.upload_state(rd, access.admin("image:upload"), image, role)).offset


async def test_an_upload_makes_the_image_ready(uploads: ImageUploads) -> None:
    content = made.raw_disk()
    accepted = await made.create(uploads.db, uploads.depot, DISK)
    assert accepted.resource.state is ImageState.UPLOADING
    done = await made.upload(uploads, accepted.resource.id, content)
    assert (done.offset, done.complete) == (len(content), True)
    row = await made.row(uploads.db, accepted.resource.id)
    assert row is not None
    assert row.state is ImageState.READY
    artifact = row.artifacts[0]
    assert (artifact.sha256, artifact.size_bytes, artifact.format) == (made.sha256(content), len(content), Format.RAW)
    assert uploads.depot.path(row.id, Role.DISK).read_bytes() == content
    assert sorted(path.name for path in (uploads.depot.folder / row.id).iterdir()) == ["disk"]
    async with uploads.db.read() as rd:
        assert await images.artifact_path(rd, uploads.depot, row.id, Role.DISK) == uploads.depot.path(row.id, Role.DISK)


async def test_an_image_of_kernel_and_initrd_is_ready_when_both_are_there(uploads: ImageUploads) -> None:
    image = await started(uploads, ArtifactSource(role=Role.KERNEL), ArtifactSource(role=Role.INITRD))
    await asyncio.gather(
        made.upload(uploads, image, made.kernel(), role=Role.KERNEL),
        made.upload(uploads, image, made.initrd(), role=Role.INITRD),
    )
    row = await made.row(uploads.db, image)
    assert row is not None
    assert row.state is ImageState.READY
    assert {artifact.role for artifact in row.artifacts} == {Role.KERNEL, Role.INITRD}


async def test_a_broken_upload_goes_on_where_it_broke_off(uploads: ImageUploads) -> None:
    content = made.raw_disk(3 * MIB)
    image = await started(uploads, ArtifactSource(role=Role.DISK, sha256=made.sha256(content)))
    with pytest.raises(ConnectionResetError):
        await made.upload(uploads, image, made.broken_stream(content[: 2 * MIB + 100]))
    offset = await offset_of(uploads, image)
    assert offset == 2 * MIB + 100
    done = await made.upload(uploads, image, content[offset:], offset=offset)
    assert done.complete
    assert await made.in_state(uploads.db, image, ImageState.READY)


async def test_with_an_announced_size_an_upload_may_come_in_several_requests(uploads: ImageUploads) -> None:
    content = made.raw_disk(MIB)
    image = await started(uploads, ArtifactSource(role=Role.DISK, size_bytes=len(content)))
    first = await made.upload(uploads, image, content[:1000])
    assert (first.offset, first.complete) == (1000, False)
    assert (await made.upload(uploads, image, content[1000:], offset=1000)).complete


async def test_a_wrong_offset_is_refused_with_the_right_one(uploads: ImageUploads) -> None:
    image = await started(uploads, ArtifactSource(role=Role.DISK, size_bytes=MIB))
    await made.upload(uploads, image, made.raw_disk()[:1000])
    for wrong in (0, 999, 1001, MIB):
        with pytest.raises(ConflictError) as refused:
            await made.upload(uploads, image, b"x", offset=wrong)
        assert refused.value.code == "upload_offset_mismatch"
        assert "1000" in refused.value.hint
    assert await offset_of(uploads, image) == 1000


async def test_a_second_upload_of_the_same_artifact_is_refused_while_the_first_runs(uploads: ImageUploads) -> None:
    image = await started(uploads)
    began, finish = asyncio.Event(), asyncio.Event()
    content = made.raw_disk()

    async def slow() -> AsyncGenerator[bytes]:
        began.set()
        await finish.wait()
        yield content

    first = asyncio.create_task(made.upload(uploads, image, slow()))
    await began.wait()
    with pytest.raises(UploadBusyError) as refused:
        await made.upload(uploads, image, b"other")
    assert refused.value.retryable
    finish.set()
    assert (await first).complete


async def test_a_finished_artifact_is_not_taken_again(uploads: ImageUploads) -> None:
    image = await started(uploads)
    await made.upload(uploads, image, made.raw_disk())
    with pytest.raises(ConflictError) as refused:
        await made.upload(uploads, image, made.raw_disk())
    assert refused.value.code == "upload_complete"


async def test_a_wrong_checksum_is_refused_and_the_upload_starts_anew(uploads: ImageUploads) -> None:
    content = made.raw_disk()
    image = await started(uploads, ArtifactSource(role=Role.DISK, sha256=made.sha256(content)))
    with pytest.raises(InvalidInputError) as refused:
        await made.upload(uploads, image, made.raw_disk(seed=b"other"))
    assert refused.value.code == "image_checksum_mismatch"
    assert await offset_of(uploads, image) == 0
    assert (await made.upload(uploads, image, content)).complete


async def test_what_is_no_image_is_refused(uploads: ImageUploads) -> None:
    image = await started(uploads)
    for content, code in (
        (b"<!doctype html><title>404</title>", "not_a_disk_image"),
        (made.kernel(), "not_a_disk_image"),
        (bytes(4096), "not_a_disk_image"),
        (made.raw_disk()[:-1], "image_cut_off"),
        (b"", "image_empty"),
    ):
        with pytest.raises(InvalidInputError) as refused:
            await made.upload(uploads, image, content)
        assert refused.value.code == code
        assert refused.value.hint
    row = await made.row(uploads.db, image)
    assert row is not None
    assert (row.state, row.parts[0].received_bytes) == (ImageState.UPLOADING, 0)


async def test_an_image_with_a_backing_file_is_refused(uploads: ImageUploads, tmp_path: Path) -> None:
    made.qemu_img("create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", str(tmp_path / "evil.qcow2"), "10M")
    image = await started(uploads)
    with pytest.raises(InvalidInputError) as refused:
        await made.upload(uploads, image, (tmp_path / "evil.qcow2").read_bytes())
    assert refused.value.code == "image_refers_outside"
    assert "passwd" not in refused.value.message + refused.value.hint


async def test_a_format_that_is_not_what_was_announced_is_refused(uploads: ImageUploads) -> None:
    image = await started(uploads, ArtifactSource(role=Role.DISK, format=Format.QCOW2))
    with pytest.raises(InvalidInputError) as refused:
        await made.upload(uploads, image, made.raw_disk())
    assert refused.value.code == "image_format_mismatch"


async def test_more_bytes_than_announced_or_allowed_are_refused(uploads: ImageUploads) -> None:
    image = await started(uploads, ArtifactSource(role=Role.DISK, size_bytes=1000))
    with pytest.raises(InvalidInputError):
        await made.upload(uploads, image, made.raw_disk())
    small = ImageUploads(uploads.db, replace(uploads.depot, max_bytes=1000))
    other = (await made.create(uploads.db, uploads.depot, DISK, name="other")).resource.id
    with pytest.raises(TooLargeError):
        await made.upload(small, other, made.raw_disk())


async def test_a_vmdk_is_left_to_the_reconciler_to_convert(uploads: ImageUploads, tmp_path: Path) -> None:
    image = await started(uploads)
    content = made.converted(tmp_path, "vmdk", made.raw_disk()).read_bytes()
    assert (await made.upload(uploads, image, content)).complete
    row = await made.row(uploads.db, image)
    assert row is not None
    assert (row.state, row.parts[0].stage) == (ImageState.UPLOADING, Stage.CONVERTING)
    assert row.work_at is not None


async def test_a_finish_that_a_crash_cut_short_is_done_again(uploads: ImageUploads) -> None:
    content = made.raw_disk()
    image = await started(uploads, ArtifactSource(role=Role.DISK, size_bytes=len(content)))
    await made.upload(uploads, image, content[:-1])
    depot = uploads.depot
    with depot.part_path(image, Role.DISK).open("ab") as file:  # all bytes came, the file was put in place, then: dead
        file.write(content[-1:])
    depot.part_path(image, Role.DISK).rename(depot.path(image, Role.DISK))
    offset = await offset_of(uploads, image)
    assert (await made.upload(uploads, image, content[offset:], offset=offset)).complete
    assert depot.path(image, Role.DISK).read_bytes() == content


async def test_bytes_that_were_not_recorded_before_a_crash_are_sent_again(uploads: ImageUploads) -> None:
    content = made.raw_disk()
    image = await started(uploads, ArtifactSource(role=Role.DISK, size_bytes=len(content)))
    await made.upload(uploads, image, content[:1000])
    with uploads.depot.part_path(image, Role.DISK).open("ab") as file:
        file.write(bytes(500))
    assert await offset_of(uploads, image) == 1000
    assert (await made.upload(uploads, image, content[1000:], offset=1000)).complete


async def test_a_lost_file_is_sent_again_from_the_start(uploads: ImageUploads) -> None:
    content = made.raw_disk()
    image = await started(uploads, ArtifactSource(role=Role.DISK, size_bytes=len(content)))
    await made.upload(uploads, image, content[:1000])
    uploads.depot.part_path(image, Role.DISK).unlink()
    with pytest.raises(ConflictError):
        await made.upload(uploads, image, content[1000:], offset=1000)
    assert await offset_of(uploads, image) == 0
    assert (await made.upload(uploads, image, content)).complete


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Generator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_on_a_full_disk_an_upload_stops_with_a_hint_and_can_go_on_later(
    uploads: ImageUploads, tiny_disk: Path
) -> None:
    cramped = ImageUploads(uploads.db, replace(uploads.depot, folder=tiny_disk))
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(1500 * 1024))
    content = made.raw_disk(MIB)
    image = await started(cramped)
    with pytest.raises(ExhaustedError) as refused:
        await made.upload(cramped, image, content)
    assert refused.value.code == "image_store_full"
    assert str(tiny_disk) not in refused.value.message + refused.value.hint
    offset = await offset_of(cramped, image)
    assert 0 < offset < MIB
    assert str(offset) in refused.value.hint
    row = await made.row(uploads.db, image)
    assert row is not None
    assert (row.state, row.artifacts) == (ImageState.UPLOADING, ())
    ballast.unlink()
    assert (await made.upload(cramped, image, content[offset:], offset=offset)).complete
    assert cramped.depot.path(row.id, Role.DISK).read_bytes() == content


async def test_an_announced_size_that_cannot_fit_is_refused_before_a_byte_is_taken(
    uploads: ImageUploads, tiny_disk: Path
) -> None:
    cramped = ImageUploads(uploads.db, replace(uploads.depot, folder=tiny_disk, reserve_bytes=MIB))
    image = await started(cramped, ArtifactSource(role=Role.DISK, size_bytes=2 * MIB))
    with pytest.raises(ExhaustedError):
        await made.upload(cramped, image, made.raw_disk(2 * MIB))
    assert await offset_of(cramped, image) == 0


async def test_an_upload_to_an_image_that_is_deleted_meanwhile_ends(uploads: ImageUploads) -> None:
    image = await started(uploads)
    content = made.raw_disk()

    async def deleting() -> AsyncGenerator[bytes]:
        yield content
        async with uploads.db.write() as tx:
            await images.delete(tx, access.admin("image:delete"), image)

    with pytest.raises(ConflictError) as refused:
        await made.upload(uploads, image, deleting())
    assert refused.value.code == "image_gone"
    with pytest.raises(ConflictError):
        await made.upload(uploads, image, content)


async def test_only_editors_of_the_project_may_upload_and_strangers_see_nothing(uploads: ImageUploads) -> None:
    image = await started(uploads)
    viewer = await access.user(uploads.db, "vera", (Grade.VIEWER, "default"))
    stranger = await access.user(uploads.db, "stan")
    with pytest.raises(ForbiddenError):
        await made.upload(uploads, image, b"x", caller=access.caller(viewer, "image:upload"))
    with pytest.raises(NotFoundError):
        await made.upload(uploads, image, b"x", caller=access.caller(stranger, "image:upload"))


async def test_an_artifact_that_was_not_declared_is_not_taken(uploads: ImageUploads) -> None:
    image = await started(uploads)
    with pytest.raises(NotFoundError) as refused:
        await made.upload(uploads, image, made.kernel(), role=Role.KERNEL)
    assert refused.value.code == "artifact_not_declared"


async def test_uploading_is_told_in_events(uploads: ImageUploads) -> None:
    image = await started(uploads)
    with pytest.raises(InvalidInputError):
        await made.upload(uploads, image, b"text")
    await made.upload(uploads, image, made.raw_disk())
    async with uploads.db.read() as rd:
        told = await event_service.list_events(rd, access.admin("event:list"), after=0, object=image, limit=10)
    assert [event.type for event in told] == ["image.created", "image.upload_refused", "image.ready"]
