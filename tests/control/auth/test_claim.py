"""The claim of the first start."""

import asyncio
import stat
from pathlib import Path

import pytest

from nacre.control.auth import tokens
from nacre.control.auth.claim import ensure_claim, renew_claim
from nacre.control.auth.principals import PLATFORM, Grant
from nacre.control.services import claim as service
from nacre.control.services import events
from nacre.control.store.db import Database
from nacre.errors import UnauthenticatedError
from nacre.lib.clock import ManualClock
from nacre.model.access import Role
from nacre.schema.access import ClaimBody, TokenCreated
from support.access import admin
from support.database import opened

pytestmark = pytest.mark.anyio


async def _redeem(database: Database, claim: str, name: str = "admin") -> TokenCreated:
    async with database.write() as tx:
        return await service.redeem(tx, ClaimBody(claim=claim, user_name=name))


async def test_the_claim_makes_an_administrator_with_a_token(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    claim = await ensure_claim(database, tmp_path / "claim")
    assert claim is not None
    made = await _redeem(database, claim, "ada")
    principal = await tokens.authenticate(database, made.secret, clock)
    assert principal.user_name == "ada"
    assert principal.grants == (Grant(role=Role.ADMIN, scope=PLATFORM),)
    async with database.read() as rd:
        told = await events.list_events(rd, admin("event:list"))
    assert [event.type for event in told] == ["user.created", "token.created"]


async def test_the_file_is_for_its_owner_only_and_goes_when_there_is_a_user(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "claim"
    claim = await ensure_claim(database, path)
    assert claim is not None
    assert path.read_text() == f"{claim}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await _redeem(database, claim)
    assert await ensure_claim(database, path) is None
    assert list(tmp_path.glob("*claim*")) == []


async def test_a_second_start_shows_the_same_claim_and_a_lost_file_makes_a_new_one(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "claim"
    first = await ensure_claim(database, path)
    assert first is not None
    assert await ensure_claim(database, path) == first
    path.unlink()
    second = await ensure_claim(database, path)
    assert second is not None
    assert second != first
    with pytest.raises(UnauthenticatedError):
        await _redeem(database, first)
    await _redeem(database, second)


async def test_a_claim_works_once_even_when_used_twice_at_once(database: Database, tmp_path: Path) -> None:
    claim = await ensure_claim(database, tmp_path / "claim")
    assert claim is not None
    outcomes = await asyncio.gather(
        *(_redeem(database, claim, name) for name in ("ada", "bob", "eve")), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, UnauthenticatedError)]
    assert len(refused) == 2
    assert {error.code for error in refused} <= {"claim_used", "claim_unknown"}


async def test_two_replicas_may_start_at_once(database: Database, database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, database.clock, database.wakes) as other:
        made = await asyncio.gather(ensure_claim(database, tmp_path / "a"), ensure_claim(other, tmp_path / "b"))
    outcomes = await asyncio.gather(*(_redeem(database, str(claim)) for claim in made), return_exceptions=True)
    assert sum(isinstance(outcome, TokenCreated) for outcome in outcomes) == 1


async def test_a_wrong_claim_is_refused(database: Database, tmp_path: Path) -> None:
    with pytest.raises(UnauthenticatedError) as before:
        await _redeem(database, "nacre_claim_x")
    await ensure_claim(database, tmp_path / "claim")
    with pytest.raises(UnauthenticatedError) as after:
        await _redeem(database, "nacre_claim_x")
    assert [before.value.code, after.value.code] == ["claim_unknown", "claim_unknown"]


async def test_the_database_does_not_hold_the_claim(sqlite_database: Database, tmp_path: Path) -> None:
    claim = await ensure_claim(sqlite_database, tmp_path / "claim")
    assert claim is not None
    for file in tmp_path.glob("nacre.sqlite*"):
        assert claim.encode() not in file.read_bytes()


async def test_a_new_claim_makes_an_administrator_again_when_the_last_token_is_lost(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    path = tmp_path / "claim"
    first = await ensure_claim(database, path)
    assert first is not None
    lost = await _redeem(database, first, "ada")
    claim = await renew_claim(database, path)
    assert await ensure_claim(database, path) == claim  # a start in between does not take it away
    made = await _redeem(database, claim, "ada")
    assert made.token.user == lost.token.user
    principal = await tokens.authenticate(database, made.secret, clock)
    assert principal.grants == (Grant(role=Role.ADMIN, scope=PLATFORM),)
    with pytest.raises(UnauthenticatedError):
        await _redeem(database, claim, "eve")
    assert await ensure_claim(database, path) is None
    assert not path.exists()
