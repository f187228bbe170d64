"""From the secret in a request to a principal."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from nacre.control.auth import tokens
from nacre.control.auth.principals import PLATFORM, Grant
from nacre.control.services import tokens as service
from nacre.control.services import users
from nacre.control.store.db import Database
from nacre.errors import UnauthenticatedError
from nacre.lib.clock import ManualClock
from nacre.model.access import Role
from nacre.schema.access import TokenCreate, TokenCreated
from support.access import admin, caller, user

pytestmark = pytest.mark.anyio


async def _token(database: Database, *, ttl_s: int = 3600) -> TokenCreated:
    ada = await user(database, "ada", (Role.EDITOR, "default"))
    async with database.write() as tx:
        return await service.create(tx, caller(ada, "token:create"), TokenCreate(name="laptop", ttl_s=ttl_s))


async def _refusal(database: Database, secret: str, clock: ManualClock) -> str:
    with pytest.raises(UnauthenticatedError) as refused:
        await tokens.authenticate(database, secret, clock)
    assert secret not in refused.value.message + refused.value.hint
    return refused.value.code


async def test_a_secret_leads_to_its_user_and_what_the_user_holds(database: Database, clock: ManualClock) -> None:
    made = await _token(database)
    principal = await tokens.authenticate(database, made.secret, clock)
    assert (principal.user_name, principal.token, principal.token_actions) == ("ada", made.token.id, ("*:*",))
    assert [grant.role for grant in principal.grants] == [Role.EDITOR]
    assert principal.token_expires_at == made.token.expires_at


async def test_secrets_have_a_form_that_scanners_find(database: Database) -> None:
    secret = (await _token(database)).secret
    prefix, name, random = secret.split("_", 2)
    assert (prefix, len(name), len(random)) == ("nacre", 26, 43)


async def test_only_a_digest_is_stored(database: Database, database_url: str) -> None:
    secret = (await _token(database)).secret
    random = secret.split("_", 2)[2]
    async with database.read() as rd:
        tables = {"tokens", "events", "operations", "idempotency_answers"}
        for table in tables:
            rows = (await rd.connection.execute(text(f"SELECT * FROM {table}"))).all()
            assert random not in repr(rows)


async def test_an_expired_token_is_refused(database: Database, clock: ManualClock) -> None:
    made = await _token(database, ttl_s=60)
    clock.advance(59.9)
    await tokens.authenticate(database, made.secret, clock)
    clock.advance(0.1)
    assert await _refusal(database, made.secret, clock) == "token_expired"


async def test_a_revoked_token_is_refused_at_once(database: Database, clock: ManualClock) -> None:
    made = await _token(database)
    async with database.write() as tx:
        await service.revoke(tx, admin("token:delete"), made.token.id)
    assert await _refusal(database, made.secret, clock) == "token_revoked"


@pytest.mark.parametrize("spoil", [lambda s: s[:-1] + ("A" if s[-1] != "A" else "B"), lambda s: s + "A", lambda _: "x"])
async def test_a_secret_that_is_not_exact_is_unknown(sqlite_database: Database, clock: ManualClock, spoil) -> None:
    made = await _token(sqlite_database)
    assert await _refusal(sqlite_database, spoil(made.secret), clock) == "token_unknown"


async def test_a_revoked_token_does_not_answer_to_a_wrong_secret(database: Database, clock: ManualClock) -> None:
    made = await _token(database)
    async with database.write() as tx:
        await service.revoke(tx, admin("token:delete"), made.token.id)
    wrong = made.secret[:-4] + "AAAA"
    assert await _refusal(database, wrong, clock) == "token_unknown"


async def test_a_deleted_user_has_no_tokens(database: Database, clock: ManualClock) -> None:
    made = await _token(database)
    async with database.write() as tx:
        await users.delete(tx, admin("user:delete"), "ada")
    assert await _refusal(database, made.secret, clock) == "token_unknown"


async def test_use_is_recorded_once_a_minute(database: Database, clock: ManualClock) -> None:
    made = await _token(database)

    async def last_used() -> timedelta | None:
        async with database.read() as rd:
            used = (await service.show(rd, admin("token:view"), made.token.id)).last_used_at
            return None if used is None else used - made.token.created_at

    assert await last_used() is None
    for wait, recorded in [(10, 10), (30, 10), (29, 10), (1, 70)]:
        clock.advance(wait)
        await tokens.authenticate(database, made.secret, clock)
        assert await last_used() == timedelta(seconds=recorded)


async def test_a_grant_on_the_platform_has_the_platform_as_scope(database: Database, clock: ManualClock) -> None:
    root = await user(database, "boss", (Role.ADMIN, PLATFORM))
    async with database.write() as tx:
        made = await service.create(tx, caller(root, "token:create"), TokenCreate(name="laptop"))
    principal = await tokens.authenticate(database, made.secret, clock)
    assert principal.grants == (Grant(role=Role.ADMIN, scope=PLATFORM),)


@pytest.mark.parametrize(
    ("patterns", "wanted", "covered"),
    [
        (("*:*",), ("vm:*", "*:view"), True),
        (("vm:*",), ("vm:start",), True),
        (("vm:*",), ("vm:*",), True),
        (("vm:*",), ("*:start",), False),
        (("vm:start", "vm:stop"), ("vm:*",), False),
        (("*:view",), ("vm:view",), True),
        (("*:view",), ("vm:*",), False),
        (("vm:view",), ("vm:view", "image:view"), False),
    ],
)
def test_a_token_covers_patterns_that_are_within_its_own(patterns, wanted, covered) -> None:
    assert tokens.covers(patterns, wanted) is covered
