"""Images and the machines that boot from them: none goes under a machine, and no machine boots from one that goes."""

import asyncio

import pytest

from nacre.control.services import images, vms
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.errors import ConflictError, NacreError
from nacre.model.access import Role as Grade
from nacre.model.images import ImageState, Visibility
from support import access
from support import images as made
from support.cloud import cloud, make_image, make_project

pytestmark = pytest.mark.anyio


async def delete(database: Database, image: str, caller: access.Caller | None = None) -> None:
    async with database.write() as tx:
        await images.delete(tx, caller or access.admin("image:delete"), image)


async def test_an_image_that_machines_boot_from_is_kept_and_they_are_named(database: Database) -> None:
    platform = await cloud(database)
    for name in ("one", "two"):
        await platform.create(name)
    async with database.read() as rd:
        image = await images.show(rd, access.admin("image:view"), "tiny")
    assert image.vms == 2
    with pytest.raises(ConflictError) as refused:
        await delete(database, image.id)
    assert refused.value.code == "image_in_use"
    assert "one" in refused.value.hint
    assert "two" in refused.value.hint
    assert await made.in_state(database, image.id, ImageState.READY)
    async with database.read() as rd:
        listed = await images.list_(rd, access.admin("image:list"), query())
    assert [each.vms for each in listed.items] == [2]


async def test_machines_of_projects_that_the_caller_may_not_see_are_not_named(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        home = await make_project(tx, "home")
        image = await make_image(tx, home, "shared", visibility=Visibility.PUBLIC)
    await platform.create("hush", image=image)
    owner = await access.user(database, "olga", (Grade.ADMIN, "home"))
    with pytest.raises(ConflictError) as refused:
        await delete(database, image, access.caller(owner, "image:delete"))
    assert refused.value.code == "image_in_use"
    assert "hush" not in refused.value.message + refused.value.hint
    assert "private" in refused.value.hint


async def test_once_its_machines_are_gone_an_image_may_go(database: Database) -> None:
    platform = await cloud(database)
    vm = (await platform.create("one", start=False)).resource
    async with database.write() as tx:
        await vms.delete(tx, access.admin("vm:delete"), vm.id)
    await delete(database, vm.image.id)
    assert await made.in_state(database, vm.image.id, ImageState.DELETING)


async def test_of_a_machine_and_a_deletion_at_once_only_one_wins(database: Database) -> None:
    platform = await cloud(database)
    for turn in range(6):
        async with database.write() as tx:
            image = await make_image(tx, platform.project, f"image-{turn}")
        answers = await asyncio.gather(
            platform.create(f"vm-{turn}", image=image), delete(database, image), return_exceptions=True
        )
        refusals = [answer for answer in answers if isinstance(answer, NacreError)]
        assert len(refusals) == 1, answers
        assert all(answer is None or not isinstance(answer, BaseException) or answer in refusals for answer in answers)
