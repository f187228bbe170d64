"""What a new machine gets that asks for little, and what it is refused for."""

import pytest

from nacre.control.store.db import Database
from nacre.errors import ConflictError, InvalidInputError, NacreError, NotFoundError
from nacre.model.images import ImageDefaults, ImageState
from nacre.model.units import GIB, MIB
from support.cloud import cloud, make_image
from support.ledger import events_of

pytestmark = pytest.mark.anyio


async def test_what_is_not_asked_for_comes_from_the_image_then_from_us(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        await make_image(tx, platform.project, "large", defaults=ImageDefaults(cpus=3, memory_bytes=2 * GIB))
    plain = (await platform.create("plain")).resource.spec
    assert (plain.cpus, plain.memory_bytes, plain.disk_bytes) == (1, 512 * MIB, None)
    large = (await platform.create("large", image="large")).resource.spec
    assert (large.cpus, large.memory_bytes) == (3, 2 * GIB)
    asked = (await platform.create("asked", image="large", cpus=2)).resource.spec
    assert (asked.cpus, asked.memory_bytes) == (2, 2 * GIB)


async def test_a_disk_smaller_than_its_image_is_refused(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        await make_image(tx, platform.project, "debian", disk_bytes=2 * GIB)
    with pytest.raises(InvalidInputError) as refused:
        await platform.create(image="debian", disk_bytes=GIB)
    assert (refused.value.code, refused.value.field) == ("disk_too_small", "disk_bytes")
    assert "2GiB" in refused.value.hint


async def test_kernel_arguments_need_a_kernel(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        await make_image(tx, platform.project, "debian", disk_bytes=2 * GIB)
    with pytest.raises(InvalidInputError) as refused:
        await platform.create(image="debian", kernel_args="quiet")
    assert refused.value.code == "kernel_args_without_kernel"


@pytest.mark.parametrize("name", ["../etc", "a/b", "Web", "", "-web", "vm-00000000000000000000000000", "a" * 64])
async def test_a_bad_name_is_refused(sqlite_database: Database, name: str) -> None:
    platform = await cloud(sqlite_database)
    with pytest.raises(InvalidInputError) as refused:
        await platform.create(name)
    assert refused.value.code == "invalid_name"


async def test_a_name_is_unique_in_its_project(database: Database) -> None:
    platform = await cloud(database)
    vm = (await platform.create("web")).resource
    with pytest.raises(ConflictError) as refused:
        await platform.create("web")
    assert refused.value.code == "vm_name_taken"
    assert len(await events_of(database, vm.id)) == 1


@pytest.mark.parametrize("state", [ImageState.UPLOADING, ImageState.FAILED, ImageState.DELETING])
async def test_an_image_that_is_not_ready_boots_nothing(database: Database, state: ImageState) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        await make_image(tx, platform.project, "later", state=state)
    with pytest.raises(NacreError) as refused:
        await platform.create(image="later")
    assert refused.value.hint


async def test_an_unknown_image_or_project_is_named(database: Database) -> None:
    platform = await cloud(database)
    with pytest.raises(NotFoundError) as no_image:
        await platform.create(image="nothing")
    assert no_image.value.code == "image_not_found"
    with pytest.raises(NotFoundError) as no_project:
        await platform.create(project="nothing")
    assert no_project.value.code == "project_not_found"
