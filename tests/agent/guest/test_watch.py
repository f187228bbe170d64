"""Watching a guest: it is found when it answers, missed when it does not, and never left frozen."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.agent.guest import watch
from nacre.agent.guest.qga import GuestAgent
from nacre.agent.guest.watch import GuestWatch
from nacre.agent.hypervisors.doors import Door
from nacre.lib.clock import SystemClock
from nacre.model.guests import GuestInfo
from nacre.model.ids import VmId
from support.guest_agent import FakeAgent, serving
from support.waiting import until

pytestmark = pytest.mark.anyio


class Watched:
    """A guest that is watched, and what was told of it."""

    def __init__(self, socket: Path) -> None:
        self.awake = True
        self.told: list[GuestInfo | None] = []
        self.watch = GuestWatch(
            VmId("vm-1"),
            GuestAgent(Door(socket, os.getpid())),
            {},
            SystemClock(),
            awake=lambda: self.awake,
            told=lambda: self.told.append(self.watch.info),
        )


@pytest.fixture
async def watched(tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Watched]:
    monkeypatch.setattr(watch, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(watch, "PAUSE_S", 0.01)
    made = Watched(tmp_path / "ga")
    task = asyncio.create_task(made.watch.run())
    yield made
    task.cancel()
    await asyncio.wait([task])


async def test_an_agent_that_comes_late_is_found_and_told_of_once(watched: Watched, tmp_path: Path) -> None:
    assert not watched.watch.answering
    fake = FakeAgent()
    async with serving(fake, tmp_path / "ga"):
        await until(lambda: watched.watch.answering)
        await until(lambda: fake.commands.count("guest-info") > 3)
        assert [info.hostname for info in watched.told if info] == ["web-1"]


async def test_one_that_goes_is_missed_and_found_again(watched: Watched, tmp_path: Path) -> None:
    async with serving(FakeAgent(), tmp_path / "ga"):
        await until(lambda: watched.watch.answering)
        watched.watch.agent.close()
    await until(lambda: not watched.watch.answering)
    assert watched.watch.info is not None
    assert watched.watch.info.hostname == "web-1"
    async with serving(FakeAgent(), tmp_path / "ga"):
        await until(lambda: watched.watch.answering)


async def test_a_guest_that_cannot_answer_is_not_asked(watched: Watched, tmp_path: Path) -> None:
    fake = FakeAgent()
    async with serving(fake, tmp_path / "ga"):
        await until(lambda: watched.watch.answering)
        watched.awake = False
        await asyncio.sleep(0.03)  # a look that was under way
        before = len(fake.asked)
        await asyncio.sleep(0.1)
        assert len(fake.asked) == before


async def test_one_that_an_earlier_agent_of_ours_left_frozen_is_thawed(watched: Watched, tmp_path: Path) -> None:
    fake = FakeAgent(frozen=True)
    async with serving(fake, tmp_path / "ga"):
        await until(lambda: not fake.frozen)
        await until(lambda: watched.watch.answering)


async def test_one_that_is_held_on_purpose_is_left_alone(watched: Watched, tmp_path: Path) -> None:
    fake = FakeAgent(frozen=True)
    await watched.watch.agent.still.acquire()
    async with serving(fake, tmp_path / "ga"):
        await until(lambda: fake.commands.count("guest-fsfreeze-status") > 3)
        assert fake.frozen
        assert "guest-fsfreeze-thaw" not in fake.commands
