"""File systems that are frozen are thawed, whatever happens in between."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.agent.guest import freezing
from nacre.agent.guest.freezing import frozen, thaw
from nacre.agent.guest.qga import GuestAgent
from nacre.agent.hypervisors.doors import Door
from nacre.errors import NacreError, TimeoutExpiredError
from nacre.model.ids import VmId
from support.guest_agent import FakeAgent, serving

pytestmark = pytest.mark.anyio

VM = VmId("vm-1")


@pytest.fixture
def fake() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def agent(fake: FakeAgent, tmp_path: Path, anyio_backend: str) -> AsyncGenerator[GuestAgent]:
    async with serving(fake, tmp_path / "ga") as socket:
        client = GuestAgent(Door(socket, os.getpid()))
        yield client
        client.close()


async def test_it_is_frozen_in_the_block_and_thawed_behind_it(fake: FakeAgent, agent: GuestAgent) -> None:
    async with frozen(agent, VM):
        assert fake.frozen
        assert agent.still.locked()
    assert not fake.frozen
    assert not agent.still.locked()


async def test_who_comes_second_waits_and_does_not_thaw_what_another_holds(fake: FakeAgent, agent: GuestAgent) -> None:
    async def second() -> None:
        async with frozen(agent, VM):
            assert fake.frozen

    async with frozen(agent, VM):
        waiting = asyncio.create_task(second())
        for _ in range(2):  # had it asked, that would have come between
            await agent.ask("guest-ping")
        assert fake.frozen
        assert fake.commands.count("guest-fsfreeze-freeze") == 1
    await waiting
    assert not fake.frozen


async def test_it_is_thawed_when_the_block_fails(fake: FakeAgent, agent: GuestAgent) -> None:
    with pytest.raises(RuntimeError):
        async with frozen(agent, VM):
            raise RuntimeError
    assert not fake.frozen


async def test_it_is_thawed_when_the_work_is_cancelled(fake: FakeAgent, agent: GuestAgent) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with frozen(agent, VM):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not fake.frozen


async def test_it_is_thawed_when_the_work_takes_too_long(fake: FakeAgent, agent: GuestAgent) -> None:
    with pytest.raises(TimeoutExpiredError):
        async with frozen(agent, VM, longest_s=0.05):
            await asyncio.Event().wait()
    assert not fake.frozen


async def test_a_freeze_whose_answer_is_lost_is_thawed_too(
    fake: FakeAgent, agent: GuestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "FREEZE_S", 0.1)
    fake.frozen, fake.silent = True, {"guest-fsfreeze-freeze"}
    with pytest.raises(NacreError):
        async with frozen(agent, VM):
            pytest.fail("it was never said to be frozen")
    assert not fake.frozen


async def test_it_is_tried_again_until_the_guest_says_that_it_is_thawed(
    fake: FakeAgent, agent: GuestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "_PAUSE_S", 0.01)
    fake.frozen = True
    fake.raw = {"guest-fsfreeze-thaw": b'{"error": {"class": "GenericError", "desc": "busy"}}\n'}
    thawing = asyncio.create_task(thaw(agent, VM))
    while fake.commands.count("guest-fsfreeze-thaw") < 3:
        await asyncio.sleep(0.005)
    fake.raw = {}
    assert await thawing
    assert not fake.frozen


async def test_a_guest_that_cannot_freeze_is_not_frozen(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.offered = ("guest-sync-delimited",)
    assert await thaw(agent, VM)
