"""Projects."""

import asyncio
from pathlib import Path

import pytest

from nacre.control.auth.principals import PLATFORM
from nacre.control.services import events, images, projects
from nacre.control.services import grants as grant_service
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, PreconditionError
from nacre.lib.clock import ManualClock
from nacre.model.access import Role
from nacre.model.images import Role as ImageRole
from nacre.schema.access import ProjectCreate, ProjectOut, ProjectUpdate
from nacre.schema.images import ArtifactSource, ImageCreate
from support.access import admin, caller, user

pytestmark = pytest.mark.anyio


async def _create(database: Database, name: str, **fields) -> ProjectOut:
    boss = await user(database, f"maker-of-{name}", (Role.EDITOR, PLATFORM))
    async with database.write() as tx:
        return await projects.create(tx, caller(boss, "project:create"), ProjectCreate(name=name, **fields))


async def test_there_is_a_default_project_from_the_start(database: Database) -> None:
    async with database.read() as rd:
        page = await projects.list_(rd, admin("project:list"), query())
    assert [item.name for item in page.items] == ["default"]


async def test_who_makes_a_project_is_its_admin(database: Database) -> None:
    made = await _create(database, "blue", description="sky", labels={"team": "x"})
    async with database.read() as rd:
        held = await grant_service.list_(rd, admin("grant:list"), query(filters={"role": "admin"}))
        shown = await projects.show(rd, admin("project:view"), "blue")
    assert [(grant.user_name, grant.project and grant.project.id) for grant in held.items] == [
        ("maker-of-blue", made.id)
    ]
    assert shown == made
    assert (shown.description, shown.labels) == ("sky", {"team": "x"})


async def test_a_name_is_taken_once_even_at_the_same_time(database: Database) -> None:
    boss = await user(database, "boss", (Role.EDITOR, PLATFORM))

    async def attempt() -> ProjectOut:
        async with database.write() as tx:
            return await projects.create(tx, caller(boss, "project:create"), ProjectCreate(name="blue"))

    outcomes = await asyncio.gather(*(attempt() for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(outcome, ProjectOut) for outcome in outcomes) == 1
    assert all(isinstance(outcome, ProjectOut | ConflictError) for outcome in outcomes)


@pytest.mark.parametrize("name", ["", "A", "-x", "x" * 64, "prj-" + "0" * 26, "a b"])
async def test_a_bad_name_is_refused(sqlite_database: Database, name: str) -> None:
    with pytest.raises(InvalidInputError):
        await _try(sqlite_database, name)


async def _try(database: Database, name: str) -> None:
    async with database.write() as tx:
        await projects.create(tx, admin("project:create"), ProjectCreate(name=name))


async def test_an_update_changes_what_is_given_and_the_etag(database: Database, clock: ManualClock) -> None:
    made = await _create(database, "blue", labels={"a": "b"})
    clock.advance(5)
    async with database.write() as tx:
        body = ProjectUpdate(description="new")
        changed = await projects.update(tx, admin("project:update"), made.id, body, if_match=made.etag)
    assert (changed.description, changed.labels) == ("new", {"a": "b"})
    assert changed.updated_at > made.updated_at
    assert changed.etag != made.etag


async def test_an_update_of_something_else_than_was_read_is_refused(database: Database) -> None:
    made = await _create(database, "blue")
    async with database.write() as tx:
        await projects.update(tx, admin("project:update"), "blue", ProjectUpdate(description="new"))
    async with database.write() as tx:
        with pytest.raises(PreconditionError):
            await projects.update(tx, admin("project:update"), "blue", ProjectUpdate(labels={}), if_match=made.etag)
        with pytest.raises(PreconditionError):
            await projects.delete(tx, admin("project:delete"), "blue", if_match=made.etag)


async def test_an_update_that_changes_nothing_is_no_event(database: Database) -> None:
    made = await _create(database, "blue")
    async with database.write() as tx:
        same = await projects.update(tx, admin("project:update"), "blue", ProjectUpdate(description=""))
    async with database.read() as rd:
        told = await events.list_events(rd, admin("event:list"), object=made.id)
    assert same == made
    assert [event.type for event in told] == ["project.created"]


async def test_a_deleted_project_is_gone_with_its_grants_and_its_history_stays(database: Database) -> None:
    made = await _create(database, "blue")
    async with database.write() as tx:
        await projects.delete(tx, admin("project:delete"), "blue")
    async with database.read() as rd:
        with pytest.raises(NotFoundError):
            await projects.show(rd, admin("project:view"), made.id)
        held = await grant_service.list_(rd, admin("grant:list"), query(filters={"role": "admin"}))
        told = await events.list_events(rd, admin("event:list"), object=made.id)
    assert held.items == []
    assert [event.type for event in told] == ["project.created", "project.deleted"]


async def test_another_tenants_project_does_not_exist(database: Database) -> None:
    await _create(database, "blue")
    ada = await user(database, "ada", (Role.ADMIN, "default"))
    async with database.read() as rd:
        with pytest.raises(NotFoundError) as hidden:
            await projects.show(rd, caller(ada, "project:view"), "blue")
        with pytest.raises(NotFoundError) as absent:
            await projects.show(rd, caller(ada, "project:view"), "green")
        page = await projects.list_(rd, caller(ada, "project:list"), query())
    assert hidden.value.code == absent.value.code
    assert hidden.value.message.replace("blue", "green") == absent.value.message
    assert [item.name for item in page.items] == ["default"]


async def test_a_viewer_may_look_but_not_change(database: Database) -> None:
    ada = await user(database, "ada", (Role.EDITOR, "default"))
    async with database.write() as tx:
        with pytest.raises(ForbiddenError):
            await projects.delete(tx, caller(ada, "project:delete"), "default")
        with pytest.raises(ForbiddenError):
            await projects.create(tx, caller(ada, "project:create"), ProjectCreate(name="mine"))


async def test_a_project_that_holds_something_is_not_deleted(database: Database, tmp_path: Path) -> None:
    await _create(database, "blue")
    async with database.write() as tx:
        blue = await projects.resolve(tx, "blue")
        image = ImageCreate(name="disk", project="blue", artifacts=(ArtifactSource(role=ImageRole.DISK),))
        await images.create(tx, admin("image:create"), image, depot=ImageDepot(folder=tmp_path))
        with pytest.raises(ConflictError) as refused:
            await projects.delete(tx, admin("project:delete"), blue.id)
    assert refused.value.code == "project_not_empty"
    assert refused.value.message == "the project blue still holds 1 image"
