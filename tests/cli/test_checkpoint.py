"""Checkpoints of machines, from the shell to the database and back."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from nacre.cli import exits, main, names
from nacre.control.store.db import Database
from nacre.model.capabilities import Capability
from support.api import Api, api_over, obedient_node, on_a_socket, tiny_image
from support.cloud import able
from support.command_line import Ran

pytestmark = pytest.mark.anyio

Nacre = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def api(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Api]:
    made = await api_over(sqlite_database, tmp_path / "data")
    await tiny_image(made)
    async with (
        on_a_socket(made) as url,
        obedient_node(made.parts.requests.db, able(Capability.DISK_SNAPSHOT, Capability.CHECKPOINT)),
    ):
        made.url = url
        yield made


@pytest.fixture
def nacre(api: Api, alone: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Nacre:
    """The command line in a thread of its own, logged in. The server's log stays out of what it prints."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    monkeypatch.setenv("NACRE_URL", api.url)
    monkeypatch.setenv("NACRE_TOKEN", api.token)

    async def run(*words: str) -> Ran:
        code = await asyncio.to_thread(main.run, words)
        captured = capfdbinary.readouterr()
        return Ran(code, captured.out.decode(), captured.err.decode())

    return run


class NoContext:
    """A completion without options before it."""

    def get(self, name: str) -> None:
        del name


async def done(nacre: Nacre, *words: str) -> Ran:
    ran = await nacre(*words)
    assert ran.code == 0, ran.err
    return ran


async def test_a_machine_is_kept_listed_put_back_and_copied(nacre: Nacre) -> None:
    await done(nacre, "vm", "create", "web", "--image", "tiny", "--disk", "1GiB", "--wait")
    said = await done(nacre, "vm", "checkpoint", "web", "early", "--memory", "--description", "before", "--wait")
    assert said.out == "web: running\n"
    listed = (await done(nacre, "vm", "checkpoints", "web")).out.splitlines()
    assert listed[0].split()[:5] == ["NAME", "PHASE", "HOLDS", "DISKS", "MEMORY"]
    assert listed[1].split()[:3] == ["early", "ready", "memory"]
    shown = json.loads((await done(nacre, "vm", "show-checkpoint", "web", "early", "-o", "json")).out)
    assert (shown["description"], shown["memory"]) == ("before", True)

    refused = await nacre("vm", "restore", "web", "early", "--yes")
    assert (refused.code, "--stop" in refused.err) == (exits.CONFLICT, True)
    await done(nacre, "vm", "restore", "web", "early", "--stop", "--no-memory", "--yes", "--wait")
    copied = await done(nacre, "vm", "create", "copy", "--from-checkpoint", "web/early", "--wait")
    assert copied.out == "copy: running\n"
    assert "checkpoints" in (await done(nacre, "vm", "show", "web")).out

    await done(nacre, "vm", "protect-checkpoint", "web", "early")
    assert (await nacre("vm", "delete-checkpoint", "web", "early", "--yes")).code == exits.CONFLICT
    await done(nacre, "vm", "protect-checkpoint", "web", "early", "--off")
    await done(nacre, "vm", "expire-checkpoint", "web", "early", "--after", "3650d")
    assert "yes" not in (await done(nacre, "vm", "checkpoints", "web")).out
    await done(nacre, "vm", "delete-checkpoint", "web", "early", "--yes", "--wait")
    assert (await done(nacre, "vm", "checkpoints", "web")).err == "no checkpoints\n"


async def test_names_of_checkpoints_are_completed(nacre: Nacre) -> None:
    await done(nacre, "vm", "create", "web", "--image", "tiny", "--disk", "1GiB", "--wait")
    await done(nacre, "vm", "checkpoint", "web", "early", "--description", "before", "--wait")
    whole = await asyncio.to_thread(names.checkpoints, NoContext())
    assert whole == [("web/early", "before")]
    assert await asyncio.to_thread(names.checkpoints_of, NoContext()) == [("early", "of web: before")]


async def test_a_machine_needs_something_to_be_made_from(nacre: Nacre) -> None:
    refused = await nacre("vm", "create", "web")
    assert (refused.code, "--from-checkpoint" in refused.err) == (exits.USAGE, True)
