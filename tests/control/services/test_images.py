"""Images as rows: created, found, shown to whom, changed, deleted, used by machines."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.control.services import image_lookup, images, operations
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.image_uploads import ImageUploads
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.errors import ConflictError, ForbiddenError, InvalidInputError, NacreError, NotFoundError, PreconditionError
from nacre.model.access import Role as Grade
from nacre.model.ids import ProjectId
from nacre.model.images import Format, ImageDefaults, ImageState, Role, Visibility
from nacre.model.operations import OperationState
from nacre.schema.images import ArtifactSource, ImageUpdate
from support import access
from support import images as made

pytestmark = pytest.mark.anyio

DISK = ArtifactSource(role=Role.DISK)
CREATE = access.admin


@pytest.fixture
def depot(tmp_path: Path) -> ImageDepot:
    return replace(ImageDepot.of(tmp_path, image_roots=(str(tmp_path / "roots"),)), reserve_bytes=0)


async def show(database: Database, ref: str, caller: access.Caller | None = None, project: str | None = None):
    async with database.read() as rd:
        return await images.show(rd, caller or access.admin("image:view"), ref, project=project)


async def test_a_created_image_is_a_promise_that_can_be_followed(database: Database, depot: ImageDepot) -> None:
    accepted = await made.create(
        database, depot, DISK, labels={"os": "none"}, defaults=ImageDefaults(cpus=2), name="first"
    )
    image, operation = accepted.resource, accepted.operation
    assert (image.state, image.project.name, image.labels) == (ImageState.UPLOADING, "default", {"os": "none"})
    assert (operation.type, operation.object_id, operation.generation) == ("image.import", image.id, 1)
    assert operation.cancellable
    await made.upload(ImageUploads(database, depot), image.id, made.raw_disk())
    async with database.read() as rd:
        assert (
            await operations.show(rd, access.admin("operation:view"), operation.id)
        ).state is OperationState.SUCCEEDED
    shown = await show(database, "first")
    assert (shown.state, shown.artifacts[0].format, shown.defaults.cpus) == (ImageState.READY, Format.RAW, 2)


@pytest.mark.parametrize(
    ("sources", "fields", "code"),
    [
        ([DISK], {"name": "a/b"}, "invalid_name"),
        ([DISK], {"name": ""}, "invalid_name"),
        ([DISK], {"labels": {"-": "x"}}, "invalid_label"),
        ([DISK, DISK], {}, "duplicate_artifact"),
        ([ArtifactSource(role=Role.INITRD)], {}, "initrd_without_kernel"),
        ([DISK], {"kernel_args": "quiet"}, "kernel_args_without_kernel"),
        ([ArtifactSource(role=Role.KERNEL)], {"kernel_args": "a\nb"}, "invalid_kernel_args"),
        ([ArtifactSource(role=Role.KERNEL, format=Format.QCOW2)], {}, "artifact_format"),
        ([ArtifactSource(role=Role.DISK, url="http://example.org/x", path="/x")], {}, "artifact_source"),
        ([ArtifactSource(role=Role.DISK, url="")], {}, "artifact_source"),
        ([ArtifactSource(role=Role.DISK, url="file:///etc/passwd")], {}, "fetch_url"),
        ([ArtifactSource(role=Role.DISK, url="http://127.0.0.1/x")], {}, "fetch_address"),
        ([ArtifactSource(role=Role.DISK, path="/etc/passwd")], {}, "image_path_not_allowed"),
        ([ArtifactSource(role=Role.DISK, size_bytes=1 << 50)], {}, "image_too_large"),
        ([DISK], {"project": "nowhere"}, "project_not_found"),
    ],
)
async def test_a_bad_description_changes_nothing(
    sqlite_database: Database, depot: ImageDepot, sources: list[ArtifactSource], fields: dict[str, object], code: str
) -> None:
    with pytest.raises(NacreError) as refused:
        await made.create(sqlite_database, depot, *sources, **{"name": "good", **fields})  # type: ignore[arg-type]
    assert refused.value.code == code
    assert refused.value.hint
    async with sqlite_database.read() as rd:
        assert (await images.list_(rd, access.admin("image:list"), query())).items == []


async def test_a_path_under_an_allowed_folder_is_looked_at_when_it_is_registered(
    sqlite_database: Database, depot: ImageDepot
) -> None:
    root = depot.roots[0]
    root.mkdir()
    (root / "good.img").write_bytes(made.raw_disk())
    (root / "bad.img").write_bytes(b"text")
    made_image = await made.create(sqlite_database, depot, ArtifactSource(role=Role.DISK, path=str(root / "good.img")))
    assert made_image.resource.state is ImageState.FETCHING
    with pytest.raises(InvalidInputError) as refused:
        await made.create(sqlite_database, depot, ArtifactSource(role=Role.DISK, path=str(root / "bad.img")), name="b")
    assert refused.value.code == "not_a_disk_image"
    assert str(root) not in refused.value.message + refused.value.hint


async def test_a_name_is_taken_once_per_project(database: Database, depot: ImageDepot) -> None:
    await made.make_project(database, "other")
    await made.create(database, depot, DISK, name="twin")
    await made.create(database, depot, DISK, name="twin", project="other")
    with pytest.raises(ConflictError) as refused:
        await made.create(database, depot, DISK, name="twin")
    assert refused.value.code == "image_exists"
    answers = await asyncio.gather(
        *(made.create(database, depot, DISK, name="race") for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Accepted"] + ["ConflictError"] * 3


async def test_an_image_is_found_by_id_and_by_name_and_an_ambiguous_name_is_told(
    database: Database, depot: ImageDepot
) -> None:
    await made.make_project(database, "other")
    here = await made.create(database, depot, DISK, name="twin")
    there = await made.create(database, depot, DISK, name="twin", project="other")
    assert (await show(database, here.resource.id)).id == here.resource.id
    assert (await show(database, "twin", project="other")).id == there.resource.id
    with pytest.raises(InvalidInputError) as refused:
        await show(database, "twin")
    assert refused.value.code == "image_ambiguous"
    for ref in ("nothing", "img-00000000000000000000000000", "", "a/b"):
        with pytest.raises(NotFoundError):
            await show(database, ref)


async def test_images_of_other_projects_are_as_if_they_were_not_there(database: Database, depot: ImageDepot) -> None:
    await made.make_project(database, "other")
    mine = (await made.create(database, depot, DISK, name="mine")).resource
    theirs = (await made.create(database, depot, DISK, name="theirs", project="other")).resource
    user = await access.user(database, "vera", (Grade.EDITOR, "default"))
    viewing = access.caller(user, "image:view")
    assert (await show(database, mine.id, viewing)).name == "mine"
    for ref, project in ((theirs.id, None), ("theirs", None), ("theirs", "other")):
        with pytest.raises(NotFoundError):
            await show(database, ref, viewing, project)
    async with database.read() as rd:
        listed = await images.list_(rd, access.caller(user, "image:list"), query())
        assert [image.name for image in listed.items] == ["mine"]
        with pytest.raises(NotFoundError):
            await images.list_(rd, access.caller(user, "image:list"), query(project="other"))
    for change in (
        lambda tx: images.delete(tx, access.caller(user, "image:delete"), theirs.id),
        lambda tx: images.update(tx, access.caller(user, "image:update"), theirs.id, ImageUpdate(labels={})),
    ):
        with pytest.raises(NotFoundError):
            async with database.write() as tx:
                await change(tx)


async def test_a_public_image_is_seen_by_all_and_changed_only_by_its_owners(
    database: Database, depot: ImageDepot
) -> None:
    await made.make_project(database, "other")
    public = await made.ready_image(database, depot, name="tiny", visibility=Visibility.PUBLIC)
    user = await access.user(database, "otto", (Grade.ADMIN, "other"))
    assert (await show(database, "tiny", access.caller(user, "image:view"))).id == public.id
    assert (await show(database, "tiny", access.caller(user, "image:view"), "other")).id == public.id
    async with database.read() as rd:
        listed = await images.list_(rd, access.caller(user, "image:list"), query())
    assert [image.name for image in listed.items] == ["tiny"]
    with pytest.raises(ForbiddenError):
        async with database.write() as tx:
            await images.delete(tx, access.caller(user, "image:delete"), public.id)


async def test_making_an_image_public_needs_an_editor_of_the_platform(database: Database, depot: ImageDepot) -> None:
    local = await access.user(database, "lora", (Grade.ADMIN, "default"))
    with pytest.raises(ForbiddenError):
        await made.create(
            database, depot, DISK, visibility=Visibility.PUBLIC, caller=access.caller(local, "image:create")
        )
    image = (await made.create(database, depot, DISK, caller=access.caller(local, "image:create"))).resource
    body = ImageUpdate(visibility=Visibility.PUBLIC)
    with pytest.raises(ForbiddenError):
        async with database.write() as tx:
            await images.update(tx, access.caller(local, "image:update"), image.id, body)
    async with database.write() as tx:
        assert (await images.update(tx, access.admin("image:update"), image.id, body)).visibility is Visibility.PUBLIC


async def test_viewers_may_not_create_or_change(database: Database, depot: ImageDepot) -> None:
    viewer = await access.user(database, "vera", (Grade.OPERATOR, "default"))
    with pytest.raises(ForbiddenError):
        await made.create(database, depot, DISK, caller=access.caller(viewer, "image:create"))
    image = (await made.create(database, depot, DISK)).resource
    with pytest.raises(ForbiddenError):
        async with database.write() as tx:
            await images.delete(tx, access.caller(viewer, "image:delete"), image.id)


async def test_an_update_needs_the_state_that_was_read(database: Database, depot: ImageDepot) -> None:
    image = (await made.create(database, depot, DISK)).resource
    async with database.write() as tx:
        body = ImageUpdate(labels={"a": "b"}, defaults=ImageDefaults(memory_bytes=1 << 29))
        changed = await images.update(tx, access.admin("image:update"), image.id, body, if_match=image.etag)
    assert (changed.labels, changed.defaults.memory_bytes) == ({"a": "b"}, 1 << 29)
    assert changed.etag != image.etag
    with pytest.raises(PreconditionError):
        async with database.write() as tx:
            await images.update(tx, access.admin("image:update"), image.id, ImageUpdate(), if_match=image.etag)


async def test_a_list_is_paged_filtered_and_sorted(database: Database, depot: ImageDepot) -> None:
    for name in ("c", "a", "b"):
        await made.create(database, depot, DISK, name=name, labels={"half": "first" if name < "c" else "second"})
    asking = access.admin("image:list")
    async with database.read() as rd:
        first = await images.list_(rd, asking, query(limit=2))
        second = await images.list_(rd, asking, query(limit=2, cursor=first.next))
        assert [image.name for page in (first, second) for image in page.items] == ["a", "b", "c"]
        assert second.next is None
        labelled = await images.list_(rd, asking, query(labels={"half": "second"}))
        assert [image.name for image in labelled.items] == ["c"]
        assert (await images.list_(rd, asking, query(filters={"state": "ready"}))).items == []


async def test_a_delete_is_accepted_once_and_again(database: Database, depot: ImageDepot) -> None:
    image = await made.ready_image(database, depot)
    for generation in (2, 3):
        async with database.write() as tx:
            accepted = await images.delete(tx, access.admin("image:delete"), image.id)
        assert (accepted.resource.state, accepted.generation) == (ImageState.DELETING, generation)
    with pytest.raises(ConflictError) as refused:
        await made.create(database, depot, DISK)
    assert "being deleted" in refused.value.hint


async def test_cancelling_an_import_deletes_the_image(database: Database, depot: ImageDepot) -> None:
    accepted = await made.create(database, depot, DISK)
    with database.wakes.listen("images") as bell:
        async with database.write() as tx:
            cancelled = await operations.cancel(
                tx, access.admin("operation:cancel"), accepted.operation.id, {"image": images.cancel}
            )
        assert await bell.wait(0)
    assert cancelled.state is OperationState.CANCELLED
    assert await made.in_state(database, accepted.resource.id, ImageState.DELETING)


async def test_machines_boot_from_ready_images_of_their_project_and_from_public_ones(
    database: Database, depot: ImageDepot
) -> None:
    other = ProjectId(await made.make_project(database, "other"))
    private = await made.ready_image(database, depot, name="private")
    public = await made.ready_image(database, depot, name="tiny", visibility=Visibility.PUBLIC)
    mine = await made.ready_image(database, depot, name="mine", project="other")
    coming = (await made.create(database, depot, DISK, name="coming", project="other")).resource
    caller = access.admin("vm:create")
    caller.checked = True
    async with database.write() as tx:
        for ref, image in (("tiny", public), (public.id, public), ("mine", mine), (mine.id, mine)):
            assert (await images.resolve(tx, caller, ref, other)).id == image.id
        for ref in ("private", private.id, "nothing", "img-00000000000000000000000000"):
            with pytest.raises(NotFoundError):
                await images.resolve(tx, caller, ref, other)
        for ref in ("coming", coming.id):
            with pytest.raises(ConflictError) as refused:
                await image_lookup.resolve(tx, caller, ref, other)
            assert refused.value.code == "image_not_ready"


async def test_the_project_s_own_image_comes_before_a_public_one_of_the_same_name(
    database: Database, depot: ImageDepot
) -> None:
    other = ProjectId(await made.make_project(database, "other"))
    await made.ready_image(database, depot, name="tiny", visibility=Visibility.PUBLIC)
    own = await made.ready_image(database, depot, name="tiny", project="other")
    caller = access.admin("vm:create")
    caller.checked = True
    async with database.write() as tx:
        assert (await images.resolve(tx, caller, "tiny", other)).id == own.id


async def test_only_ready_images_have_a_manifest(database: Database, depot: ImageDepot) -> None:
    ready = await made.ready_image(database, depot, name="ready")
    coming = (await made.create(database, depot, DISK, name="coming")).resource
    async with database.read() as rd:
        manifest = await images.manifest(rd, ready.id)
        assert manifest is not None
        assert manifest.artifacts == ready.artifacts
        assert await images.manifest(rd, coming.id) is None
        assert set(await images.manifests(rd, [ready.id, coming.id, "img-x"])) == {ready.id}
        assert await images.artifact_path(rd, depot, ready.id, Role.KERNEL) is None
        assert await images.artifact_path(rd, depot, coming.id, Role.DISK) is None
