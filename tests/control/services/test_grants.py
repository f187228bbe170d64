"""Grants."""

import pytest

from nacre.control.auth.principals import PLATFORM, Principal
from nacre.control.services import grants, projects
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.errors import ConflictError, ForbiddenError, NotFoundError
from nacre.model.access import Role
from nacre.schema.access import GrantCreate, GrantOut, ProjectCreate
from support.access import admin, caller, user

pytestmark = pytest.mark.anyio


async def _give(database: Database, who: Principal, to: str, role: Role, project: str | None) -> GrantOut:
    async with database.write() as tx:
        body = GrantCreate(user=to, role=role, project=project)
        return await grants.create(tx, caller(who, "grant:create"), body)


async def test_a_project_admin_gives_roles_in_that_project_only(database: Database) -> None:
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    async with database.write() as tx:
        await projects.create(tx, caller(boss, "project:create"), ProjectCreate(name="blue"))
    ada = await user(database, "ada", (Role.ADMIN, "default"))
    await user(database, "bob")
    made = await _give(database, ada, "bob", Role.VIEWER, "default")
    assert (made.user_name, made.role, made.project and made.project.name) == ("bob", Role.VIEWER, "default")
    assert made.created_by == "ada"
    with pytest.raises(NotFoundError):
        await _give(database, ada, "bob", Role.VIEWER, "blue")
    with pytest.raises(ForbiddenError):
        await _give(database, ada, "bob", Role.VIEWER, None)
    with pytest.raises(NotFoundError):
        await _give(database, ada, "nobody", Role.VIEWER, "default")


async def test_an_editor_gives_no_roles(database: Database) -> None:
    ada = await user(database, "ada", (Role.EDITOR, "default"))
    with pytest.raises(ForbiddenError):
        await _give(database, ada, "ada", Role.ADMIN, "default")


@pytest.mark.parametrize("project", ["default", None])
async def test_the_same_role_is_given_once(database: Database, project: str | None) -> None:
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    await user(database, "bob")
    await _give(database, boss, "bob", Role.VIEWER, project)
    await _give(database, boss, "bob", Role.EDITOR, project)
    with pytest.raises(ConflictError) as refused:
        await _give(database, boss, "bob", Role.VIEWER, project)
    assert refused.value.code == "grant_exists"


async def test_the_platforms_only_administrator_stays(database: Database) -> None:
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    async with database.read() as rd:
        [only] = (await grants.list_(rd, admin("grant:list"), query())).items
    with pytest.raises(ConflictError) as refused:
        await _take(database, boss, only.id)
    assert refused.value.code == "last_admin"
    other = await user(database, "other", (Role.ADMIN, PLATFORM))
    await _take(database, other, only.id)


async def test_grants_elsewhere_are_hidden(database: Database) -> None:
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    ada = await user(database, "ada", (Role.VIEWER, "default"))
    async with database.read() as rd:
        [on_platform] = (await grants.list_(rd, admin("grant:list"), query(filters={"user": boss.user}))).items
        named = (await grants.list_(rd, admin("grant:list"), query(filters={"user": "boss"}))).items
        assert named == [on_platform], "by name as well"
        seen = (await grants.list_(rd, caller(ada, "grant:list"), query())).items
        assert [grant.user_name for grant in seen] == ["ada"]
        with pytest.raises(NotFoundError):
            await grants.show(rd, caller(ada, "grant:view"), on_platform.id)
        assert await grants.show(rd, caller(ada, "grant:view"), seen[0].id) == seen[0]
    with pytest.raises(NotFoundError):
        await _take(database, ada, on_platform.id)
    with pytest.raises(ForbiddenError):
        await _take(database, ada, seen[0].id)


async def _take(database: Database, who: Principal, grant: str) -> None:
    async with database.write() as tx:
        await grants.delete(tx, caller(who, "grant:delete"), grant)
