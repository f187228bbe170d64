"""Users."""

import asyncio

import pytest

from nacre.control.auth.principals import PLATFORM
from nacre.control.services import users
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.errors import ConflictError, ForbiddenError, NotFoundError, PreconditionError
from nacre.model.access import Role
from nacre.schema.access import UserCreate
from support.access import admin, caller, user

pytestmark = pytest.mark.anyio


async def test_a_user_is_made_shown_listed_and_deleted(database: Database) -> None:
    async with database.write() as tx:
        made = await users.create(tx, admin("user:create"), UserCreate(name="ada", display_name="Ada L."))
    async with database.read() as rd:
        assert await users.show(rd, admin("user:view"), "ada") == made
        assert (await users.list_(rd, admin("user:list"), query())).items == [made]
    async with database.write() as tx:
        with pytest.raises(PreconditionError):
            await users.delete(tx, admin("user:delete"), made.id, if_match='"9"')
        await users.delete(tx, admin("user:delete"), made.id, if_match=made.etag)
    async with database.read() as rd:
        with pytest.raises(NotFoundError):
            await users.show(rd, admin("user:view"), "ada")


async def test_a_name_is_taken_once(database: Database) -> None:
    await user(database, "ada")
    with pytest.raises(ConflictError) as refused:
        await user(database, "ada")
    assert refused.value.code == "user_exists"


async def test_only_the_platform_knows_its_users(database: Database) -> None:
    ada = await user(database, "ada", (Role.ADMIN, "default"))
    async with database.write() as tx:
        with pytest.raises(NotFoundError):
            await users.show(tx, caller(ada, "user:view"), "ada")
        with pytest.raises(ForbiddenError):
            await users.list_(tx, caller(ada, "user:list"), query())
        with pytest.raises(ForbiddenError):
            await users.create(tx, caller(ada, "user:create"), UserCreate(name="bob"))
        with pytest.raises(NotFoundError):
            await users.delete(tx, caller(ada, "user:delete"), "ada")


async def test_the_last_administrator_cannot_be_deleted(database: Database) -> None:
    await user(database, "boss", (Role.ADMIN, PLATFORM))
    with pytest.raises(ConflictError) as refused:
        await _delete(database, "boss")
    assert refused.value.code == "last_admin"
    await user(database, "other", (Role.ADMIN, PLATFORM))
    await _delete(database, "boss")


async def test_two_administrators_cannot_delete_each_other_at_once(database: Database) -> None:
    for name in ("one", "two"):
        await user(database, name, (Role.ADMIN, PLATFORM))
    outcomes = await asyncio.gather(_delete(database, "one"), _delete(database, "two"), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConflictError", "NoneType"]


async def _delete(database: Database, name: str) -> None:
    async with database.write() as tx:
        await users.delete(tx, admin("user:delete"), name)
