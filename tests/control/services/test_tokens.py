"""Tokens: whose they are and how far they reach."""

from dataclasses import replace

import pytest

from nacre.control.auth.principals import PLATFORM, Principal
from nacre.control.auth.tokens import authenticate
from nacre.control.services import projects, tokens
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from nacre.lib.clock import ManualClock
from nacre.model.access import Role
from nacre.model.ids import ProjectId
from nacre.schema.access import ProjectCreate, TokenCreate, TokenCreated
from support.access import caller, narrowed, user

pytestmark = pytest.mark.anyio


async def _make(database: Database, who: Principal, name: str = "laptop", **fields) -> TokenCreated:
    async with database.write() as tx:
        return await tokens.create(tx, caller(who, "token:create"), TokenCreate(name=name, **fields))


async def _refused(database: Database, who: Principal, **fields) -> str:
    with pytest.raises(ForbiddenError) as refused:
        await _make(database, who, **fields)
    return refused.value.code


async def _blue(database: Database) -> ProjectId:
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    async with database.write() as tx:
        return (await projects.create(tx, caller(boss, "project:create"), ProjectCreate(name="blue"))).id


async def test_everyone_makes_lists_and_revokes_tokens_of_their_own(database: Database) -> None:
    ada, bob = await user(database, "ada"), await user(database, "bob")
    made = await _make(database, ada)
    await _make(database, bob)
    async with database.write() as tx:
        listed = await tokens.list_(tx, caller(ada, "token:list"), query())
        assert listed.items == [made.token]
        assert await tokens.show(tx, caller(ada, "token:view"), "laptop") == made.token
        await tokens.revoke(tx, caller(ada, "token:delete"), "laptop")
        assert (await tokens.show(tx, caller(ada, "token:view"), made.token.id)).revoked_at is not None
        await tokens.revoke(tx, caller(ada, "token:delete"), made.token.id)


async def test_other_peoples_tokens_do_not_exist_except_for_administrators(database: Database) -> None:
    ada, bob = await user(database, "ada"), await user(database, "bob", (Role.ADMIN, "default"))
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    made = await _make(database, ada)
    async with database.write() as tx:
        with pytest.raises(NotFoundError):
            await tokens.show(tx, caller(bob, "token:view"), made.token.id)
        with pytest.raises(NotFoundError):
            await tokens.revoke(tx, caller(bob, "token:delete"), made.token.id)
        assert (await tokens.list_(tx, caller(boss, "token:list"), query())).items == [made.token]
        for whose, found in (("ada", [made.token]), (ada.user, [made.token]), ("bob", [])):
            filters = query(filters={"user": whose})
            assert (await tokens.list_(tx, caller(boss, "token:list"), filters)).items == found
        await tokens.revoke(tx, caller(boss, "token:delete"), made.token.id)
    assert await _refused(database, bob, user="ada") == "forbidden"
    for_ada = await _make(database, boss, name="from-boss", user="ada")
    assert for_ada.token.user_name == "ada"


async def test_a_name_is_free_again_after_revocation(database: Database) -> None:
    ada = await user(database, "ada")
    await _make(database, ada)
    with pytest.raises(ConflictError):
        await _make(database, ada)
    async with database.write() as tx:
        await tokens.revoke(tx, caller(ada, "token:delete"), "laptop")
    await _make(database, ada)


async def test_a_bad_action_pattern_is_refused(sqlite_database: Database) -> None:
    ada = await user(sqlite_database, "ada")
    with pytest.raises(InvalidInputError):
        await _make(sqlite_database, ada, actions=("vm",))


async def test_a_token_makes_none_that_may_do_more_actions(database: Database) -> None:
    ada = await user(database, "ada", (Role.ADMIN, PLATFORM))
    few = narrowed(ada, actions=("token:*", "vm:*"))
    assert await _refused(database, few) == "token_too_wide"
    assert await _refused(database, few, actions=("*:view",)) == "token_too_wide"
    await _make(database, few, actions=("vm:start", "vm:view"))
    assert await _refused(database, narrowed(ada, actions=("vm:*",))) == "token_not_for_action"


async def test_a_token_of_a_project_makes_tokens_of_that_project_only(database: Database) -> None:
    blue = await _blue(database)
    ada = await user(database, "ada", (Role.EDITOR, "default"), (Role.EDITOR, "blue"))
    bound = narrowed(ada, project=blue)
    inherited = await _make(database, bound)
    assert inherited.token.project is not None
    assert inherited.token.project.id == blue
    with pytest.raises(NotFoundError):
        await _make(database, bound, project="default")
    wide = await _make(database, ada, name="wide")
    async with database.write() as tx:
        assert (await tokens.list_(tx, caller(bound, "token:list"), query())).items == [inherited.token]
        with pytest.raises(NotFoundError):
            await tokens.revoke(tx, caller(bound, "token:delete"), wide.token.id)


async def test_a_narrowed_token_makes_none_that_outlives_it(database: Database, clock: ManualClock) -> None:
    ada = await user(database, "ada")
    few = await _make(database, ada, actions=("token:*",), ttl_s=3600)
    principal = await authenticate(database, few.secret, clock)
    refusal = await _refused(database, principal, name="more", actions=("token:view",), ttl_s=3601)
    assert refusal == "token_too_wide"
    await _make(database, principal, name="more", actions=("token:view",), ttl_s=3600)


async def test_an_unnarrowed_token_can_be_renewed(database: Database, clock: ManualClock) -> None:
    ada = await user(database, "ada")
    first = await _make(database, ada, ttl_s=60)
    clock.advance(59)
    principal = await authenticate(database, first.secret, clock)
    second = await _make(database, principal, name="next", ttl_s=3600)
    clock.advance(10)
    assert (await authenticate(database, second.secret, clock)).user_name == "ada"


async def test_a_project_that_may_not_be_viewed_cannot_bind_a_token(database: Database) -> None:
    await _blue(database)
    ada = await user(database, "ada", (Role.EDITOR, "default"))
    with pytest.raises(NotFoundError):
        await _make(database, ada, project="blue")


async def test_a_token_of_a_deleted_project_is_gone(database: Database) -> None:
    blue = await _blue(database)
    ada = await user(database, "ada", (Role.ADMIN, "blue"))
    await _make(database, ada, project="blue")
    async with database.write() as tx:
        await projects.delete(tx, caller(ada, "project:delete"), blue)
        assert (await tokens.list_(tx, caller(ada, "token:list"), query())).items == []


async def test_me_shows_user_token_and_grants(database: Database, clock: ManualClock) -> None:
    ada = await user(database, "ada", (Role.EDITOR, "default"))
    made = await _make(database, ada)
    principal = await authenticate(database, made.secret, clock)
    async with database.read() as rd:
        me = await tokens.me(rd, caller(principal, "me:view"))
    assert (me.user.name, me.token.id) == ("ada", made.token.id)
    assert [(grant.role, grant.project and grant.project.name) for grant in me.grants] == [(Role.EDITOR, "default")]
    with pytest.raises(ForbiddenError):
        async with database.read() as rd:
            await tokens.me(rd, caller(replace(principal, token_actions=("vm:*",)), "me:view"))
