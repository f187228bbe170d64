"""Idempotency keys."""

import asyncio

import pytest

from nacre.control.auth.principals import Principal
from nacre.control.services import idempotency
from nacre.control.store.db import Database
from nacre.errors import ConflictError
from nacre.lib.clock import ManualClock
from support.access import user
from support.database import opened

pytestmark = pytest.mark.anyio


async def _once(database: Database, who: Principal, key: str, fingerprint: str, done: list[str]) -> bytes:
    async with database.write() as tx:
        stored = await idempotency.replay(tx, who, key, fingerprint)
        if stored is not None:
            return stored.body
        await asyncio.sleep(0.01)
        done.append(key)
        body = f"answer {len(done)}".encode()
        await idempotency.remember(tx, who, key, fingerprint, status=202, body=body)
        return body


async def test_a_repeated_request_gets_the_first_answer(database: Database) -> None:
    ada, bob = await user(database, "ada"), await user(database, "bob")
    done: list[str] = []
    assert await _once(database, ada, "k", "f", done) == b"answer 1"
    assert await _once(database, ada, "k", "f", done) == b"answer 1"
    assert await _once(database, bob, "k", "f", done) == b"answer 2"
    assert await _once(database, ada, "other", "f", done) == b"answer 3"


async def test_a_key_for_another_request_is_refused(database: Database) -> None:
    ada = await user(database, "ada")
    await _once(database, ada, "k", "f", [])
    with pytest.raises(ConflictError) as refused:
        await _once(database, ada, "k", "g", [])
    assert refused.value.code == "idempotency_key_reused"


async def test_the_same_request_twice_at_once_on_two_replicas_is_done_once(
    database: Database, database_url: str
) -> None:
    ada = await user(database, "ada")
    done: list[str] = []
    async with opened(database_url, database.clock, database.wakes) as other:
        answers = await asyncio.gather(
            *(_once(replica, ada, "k", "f", done) for replica in (database, other, database, other))
        )
    assert done == ["k"]
    assert set(answers) == {b"answer 1"}


async def test_a_key_is_forgotten_after_a_day(database: Database, clock: ManualClock) -> None:
    ada = await user(database, "ada")
    done: list[str] = []
    await _once(database, ada, "k", "f", done)
    clock.advance(24 * 3600 - 1)
    assert await _once(database, ada, "k", "f", done) == b"answer 1"
    clock.advance(1)
    assert await _once(database, ada, "k", "g", done) == b"answer 2"
