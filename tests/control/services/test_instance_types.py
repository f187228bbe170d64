"""Instance types: whose they are, what they may give, and that machines keep what they have."""

import asyncio

import pytest

from nacre.control.services import instance_types, projects
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, PreconditionError
from nacre.model.access import Role
from nacre.model.units import GIB
from nacre.model.vms import HaPolicy, PublishedPort
from nacre.schema.instance_types import NOT_SIZES, InstanceTypeOut, InstanceTypeUpdate
from nacre.schema.vms import VmConfig
from support.access import user
from support.cloud import by, cloud, make_project
from support.ledger import events_of
from support.templates import make_type

pytestmark = pytest.mark.anyio


async def test_the_platforms_types_are_everybodys(database: Database) -> None:
    async with database.write() as tx:
        await make_project(tx, "blue")
    shared = await make_type(database, "small", project=None, cpus=1)
    own = await make_type(database, "large", cpus=8)
    assert (shared.project, own.project and own.project.name) == (None, "default")
    bo = await user(database, "bo", (Role.VIEWER, "blue"))
    async with database.read() as rd:
        seen = await instance_types.list_(rd, by("instance-type:list", bo), query())
        assert [one.name for one in seen.items] == ["small"]
        assert (await instance_types.show(rd, by("instance-type:view", bo), "small", project="blue")).id == shared.id
        for ref in ("large", own.id):
            with pytest.raises(NotFoundError):
                await instance_types.show(rd, by("instance-type:view", bo), ref, project="blue")


async def test_a_projects_own_type_goes_before_the_platforms(database: Database) -> None:
    shared = await make_type(database, "small", project=None, cpus=1)
    own = await make_type(database, "small", cpus=2)
    async with database.read() as rd:
        assert (await instance_types.show(rd, by("instance-type:view"), "small")).id == own.id
        assert (await instance_types.show(rd, by("instance-type:view"), shared.id)).config.cpus == 1


@pytest.mark.parametrize("project", [None, "default"])
async def test_a_name_is_taken_once_even_at_the_same_time(database: Database, project: str | None) -> None:
    made = await asyncio.gather(
        *(make_type(database, "small", project=project, cpus=1) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(one, InstanceTypeOut) for one in made) == 1
    refused = [one for one in made if isinstance(one, ConflictError)]
    assert [one.code for one in refused] == ["instance_type_exists"] * 2


async def test_only_the_platforms_editors_make_and_change_its_types(database: Database) -> None:
    editor = await user(database, "ed", (Role.EDITOR, "default"))
    with pytest.raises(ForbiddenError):
        await make_type(database, project=None, principal=editor, cpus=1)
    shared = await make_type(database, "shared", project=None, cpus=1)
    await make_type(database, "own", principal=editor, cpus=1)
    async with database.write() as tx:
        body = InstanceTypeUpdate(config=VmConfig(cpus=2))
        changed = await instance_types.update(tx, by("instance-type:update", editor), "own", body)
        assert (changed.revision, changed.config.cpus) == (2, 2)
        with pytest.raises(ForbiddenError):
            await instance_types.update(tx, by("instance-type:update", editor), shared.id, body)
        with pytest.raises(ForbiddenError):
            await instance_types.delete(tx, by("instance-type:delete", editor), "shared")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", "tiny"),
        ("labels", {"a": "b"}),
        ("start", False),
        ("publish", (PublishedPort(guest_port=1, host_port=1),)),
    ],
)
async def test_what_is_no_size_is_refused(sqlite_database: Database, name: str, value: object) -> None:
    assert name in NOT_SIZES
    with pytest.raises(InvalidInputError) as refused:
        await make_type(sqlite_database, cpus=1, **{name: value})
    assert (refused.value.code, refused.value.field) == ("not_of_instance_type", f"config.{name}")


async def test_a_type_that_gives_nothing_is_refused(sqlite_database: Database) -> None:
    with pytest.raises(InvalidInputError):
        await make_type(sqlite_database)
    await make_type(sqlite_database, cpus=1)
    async with sqlite_database.write() as tx:
        body = InstanceTypeUpdate(clear=("cpus",))
        with pytest.raises(InvalidInputError) as refused:
            await instance_types.update(tx, by("instance-type:update"), "small", body)
    assert refused.value.code == "empty_instance_type"


async def test_machines_keep_what_they_were_made_with(database: Database) -> None:
    platform = await cloud(database)
    made = await make_type(database, cpus=2, memory_bytes=GIB, ha=HaPolicy.RESTART)
    vm = (await platform.create("web", instance_type="small")).resource
    assert (vm.spec.cpus, vm.spec.memory_bytes, vm.spec.ha) == (2, GIB, HaPolicy.RESTART)
    async with database.write() as tx:
        body = InstanceTypeUpdate(config=VmConfig(cpus=4))
        changed = await instance_types.update(tx, by("instance-type:update"), "small", body)
        assert changed.vms == 1
        await instance_types.delete(tx, by("instance-type:delete"), "small")
    after = await platform.vm("web")
    assert after.spec.cpus == 2
    assert after.instance_type is not None
    assert (after.instance_type.id, after.instance_type.name, after.instance_type.revision) == (made.id, "small", 1)
    with pytest.raises(NotFoundError) as gone:
        await platform.create("late", instance_type="small")
    assert gone.value.code == "instance_type_not_found"


async def test_a_change_of_what_is_no_longer_there_is_refused(database: Database) -> None:
    made = await make_type(database, cpus=2)
    async with database.write() as tx:
        body = InstanceTypeUpdate(description="new", labels={"a": "b"})
        changed = await instance_types.update(tx, by("instance-type:update"), "small", body, if_match=made.etag)
        assert (changed.description, changed.labels, changed.revision) == ("new", {"a": "b"}, 2)
        with pytest.raises(PreconditionError):
            await instance_types.delete(tx, by("instance-type:delete"), "small", if_match=made.etag)


async def test_events_say_what_was_changed(database: Database) -> None:
    made = await make_type(database, cpus=1)
    async with database.write() as tx:
        await instance_types.update(
            tx, by("instance-type:update"), "small", InstanceTypeUpdate(config=VmConfig(cpus=2))
        )
        await instance_types.delete(tx, by("instance-type:delete"), "small")
    told = await events_of(database, made.id)
    assert [event.type for event in told] == [
        "instance-type.created", "instance-type.updated", "instance-type.deleted"
    ]  # fmt: skip
    assert told[1].details["after"] == {"revision": 2, "config": {"cpus": 2}}


async def test_a_project_with_instance_types_is_not_empty(database: Database) -> None:
    await make_type(database, cpus=1)
    async with database.write() as tx:
        with pytest.raises(ConflictError) as refused:
            await projects.delete(tx, by("project:delete"), "default")
    assert "1 instance type" in refused.value.message
