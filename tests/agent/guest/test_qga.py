"""The client of a guest's agent: agreement, one command at a time, and guests that are late, lie or flood."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.agent.guest import qga
from nacre.agent.guest.qga import GuestAgent
from nacre.agent.hypervisors.doors import Door
from nacre.errors import ConflictError, NacreError, UnavailableError, UnsupportedError
from support.guest_agent import FakeAgent, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fake(tmp_path: Path, anyio_backend: str) -> AsyncGenerator[FakeAgent]:
    agent = FakeAgent()
    async with serving(agent, tmp_path / "ga"):
        yield agent


@pytest.fixture
async def agent(fake: FakeAgent, tmp_path: Path) -> AsyncGenerator[GuestAgent]:
    client = GuestAgent(Door(tmp_path / "ga", os.getpid()))
    yield client
    client.close()


async def test_an_answer_comes_back_whatever_portions_it_comes_in(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.portion = 1
    assert await agent.ask("guest-get-host-name") == {"host-name": "web-1"}
    assert await agent.ask("guest-ping") == {}
    assert fake.clients == 1


async def test_what_an_agent_still_had_to_say_is_nobodys_answer(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.stale = b'{"return": {"host-name": "other"}}\n\xff{"return": 7}\nhalf an ans'
    assert await agent.ask("guest-get-host-name") == {"host-name": "web-1"}


async def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.silent = {"guest-get-osinfo"}
    with pytest.raises(UnavailableError) as late:
        await agent.ask("guest-get-osinfo", timeout=0.1)
    assert late.value.code == "guest_agent_silent"
    fake.raw = {"guest-get-fsinfo": b'{"return": "late"}\n{"return": []}\n'}
    assert await agent.ask("guest-get-fsinfo") == "late"
    # There was more than one line: whose the rest is nobody knows, so both agree anew before the next command.
    assert await agent.ask("guest-get-host-name") == {"host-name": "web-1"}
    assert [name for name, _ in fake.asked].count("guest-sync-delimited") == 3


async def test_commands_of_many_go_one_after_the_other(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.portion = 3
    answers = await asyncio.gather(*(agent.ask("guest-get-host-name") for _ in range(20)), agent.ask("guest-ping"))
    assert answers == [{"host-name": "web-1"}] * 20 + [{}]
    assert fake.clients == 1


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        ({"class": "GenericError", "desc": "no\x1b[2J such"}, ConflictError, "guest_agent_refused"),
        ({"class": "CommandNotFound", "desc": "gone"}, UnsupportedError, "guest_agent_lacks_command"),
        ({"class": "CommandDisabled", "desc": "off"}, UnsupportedError, "guest_agent_lacks_command"),
    ],
)
async def test_a_refusal_has_words_that_cannot_harm(
    fake: FakeAgent, agent: GuestAgent, said: dict[str, str], kind: type[NacreError], code: str
) -> None:
    fake.answers["guest-ping"] = said
    with pytest.raises(kind) as refused:
        await agent.ask("guest-ping")
    assert refused.value.code == code
    assert refused.value.message.isprintable()
    assert await agent.ask("guest-get-host-name") == {"host-name": "web-1"}


@pytest.mark.parametrize("lie", [b"nonsense\n", b"[]\n", b"{}\n", b'{"error": 1}\n', b"[" * 100_000 + b"\n"])
async def test_a_guest_that_lies_is_an_error_and_no_more(fake: FakeAgent, agent: GuestAgent, lie: bytes) -> None:
    fake.raw = {"guest-ping": lie}
    with pytest.raises(UnavailableError) as garbled:
        await agent.ask("guest-ping")
    assert garbled.value.code == "guest_agent_garbled"
    assert await agent.ask("guest-get-host-name") == {"host-name": "web-1"}


async def test_a_guest_that_floods_is_hung_up_on(
    fake: FakeAgent, agent: GuestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qga, "DISCARD_BYTES", 1 << 20)
    fake.raw = {"guest-ping": b"x" * (2 << 20)}
    with pytest.raises(UnavailableError) as long:
        await agent.ask("guest-ping")
    assert long.value.code == "guest_agent_garbled"
    fake.stale = b"y" * (3 << 20)
    with pytest.raises(UnavailableError) as endless:
        await agent.ask("guest-ping")
    assert endless.value.code == "guest_agent_garbled"
    assert await agent.ask("guest-get-host-name") == {"host-name": "web-1"}


async def test_no_agent_is_said_so_and_is_found_when_it_comes(tmp_path: Path) -> None:
    agent = GuestAgent(Door(tmp_path / "ga", os.getpid()))
    with pytest.raises(UnavailableError):
        await agent.ask("guest-ping")
    async with serving(FakeAgent(), tmp_path / "ga"):
        assert await agent.ask("guest-ping") == {}
        agent.close()


async def test_an_order_without_an_answer_is_carried_out_or_refused(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.silent = {"guest-shutdown"}
    await agent.tell("guest-shutdown", {"mode": "powerdown"}, timeout=5)
    assert ("guest-shutdown", {"mode": "powerdown"}) in fake.asked
    fake.silent = set()
    fake.answers["guest-shutdown"] = {"class": "GenericError", "desc": "not now"}
    with pytest.raises(ConflictError):
        await agent.tell("guest-shutdown", timeout=5)
