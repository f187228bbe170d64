"""What operators type to look after nodes, from the shell to the database and back."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from nacre.cli import arguments, exits, main
from nacre.control.store.db import Database
from nacre.errors import InvalidInputError
from nacre.model.placement import Taint, TaintEffect
from support.api import Api, api_over, on_a_socket, tiny_image
from support.cloud import Agent, Cloud
from support.command_line import Ran
from support.moving import silence, working

pytestmark = pytest.mark.anyio

Nacre = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def api(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Api]:
    made = await api_over(sqlite_database, tmp_path / "data")
    await tiny_image(made)
    async with on_a_socket(made) as url:
        made.url = url
        yield made


@pytest.fixture
async def agents(api: Api) -> AsyncGenerator[list[Agent]]:
    async with working(api.parts.requests.db) as found:
        yield found


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


async def home_of(nacre: Nacre, name: str = "web") -> str:
    return str(json.loads((await nacre("vm", "show", name, "-o", "json")).out)["node"]["name"])


async def test_a_node_is_drained_and_put_back_to_work(nacre: Nacre, agents: list[Agent]) -> None:
    for name in ("web", "db"):
        assert (await nacre("vm", "create", name, "--image", "tiny", "--wait")).code == 0
    node = await home_of(nacre)
    done = await nacre("node", "drain", node, "--parallel", "1", "--timeout", "5m", "--wait")
    assert (done.code, done.err) == (0, "")
    assert "machines moved" in done.out
    assert done.out.startswith(f"{node}: drain is done")
    assert await home_of(nacre) != node
    table = (await nacre("node", "list")).out.splitlines()
    assert table[0].split()[:4] == ["NAME", "STATE", "ZONE", "VMS"]
    assert max(len(line) for line in table) <= 80
    shown = (await nacre("node", "show", node)).out
    assert "drain is done" in shown
    assert "cordoned" in shown
    copies = (await nacre("node", "copies", node)).out
    assert "retiring" in copies
    assert "drain" in copies
    assert (await nacre("node", "discard", node, "nobody", "--yes")).code == exits.NOT_FOUND
    discarded = await nacre("node", "discard", node, "--yes")
    assert "is to be deleted" in discarded.out
    assert (await nacre("node", "maintenance", node, "--wait")).out.startswith(f"{node}: drain is done")
    assert (await nacre("node", "uncordon", node)).out == f"{node}: ready\n"
    assert (await nacre("node", "drain", node, "--abort")).code == exits.CONFLICT
    assert (await nacre("node", "abort-drain", node)).code == exits.CONFLICT


async def test_what_could_not_leave_is_told_and_the_exit_code_says_so(nacre: Nacre, agents: list[Agent]) -> None:
    await nacre("vm", "create", "web", "--image", "tiny", "--memory", "9GiB", "--wait")
    node = await home_of(nacre)
    other = next(name for name in ("node-1", "node-2") if name != node)
    await nacre("vm", "create", "big", "--image", "tiny", "--memory", "9GiB", "--wait")
    assert await home_of(nacre, "big") == other
    done = await nacre("node", "drain", node, "--wait")
    assert done.code == exits.CONFLICT
    assert "web: failed: " in done.err
    assert "memory" in done.err
    assert "hint: " in done.err
    assert done.out.startswith(f"{node}: drain is incomplete: 0 of 1 machines moved, 1 failed")


async def test_a_machine_is_moved_and_its_moves_are_listed(nacre: Nacre, agents: list[Agent]) -> None:
    await nacre("vm", "create", "web", "--image", "tiny", "--wait")
    node = await home_of(nacre)
    other = next(name for name in ("node-1", "node-2") if name != node)
    moved = await nacre("vm", "move", "web", "--to", other, "--wait")
    assert moved.out.startswith(f"web: move from {node} to {other} is done")
    (move,) = json.loads((await nacre("move", "list", "--filter", "vm=web", "-o", "json")).out)
    assert (await nacre("vm", "moves", "web")).out.splitlines()[1].split()[:5] == [
        move["id"],
        "web",
        "user",
        "done",
        "restart",
    ]
    assert move["stopped_because"] == "its hypervisor qemu cannot move machines that run"
    refused = await nacre("vm", "move", "web", "--live")
    assert (refused.code, "cannot be moved while it runs" in refused.err) == (exits.CONFLICT, True)
    assert "ways to move" in (await nacre("vm", "move", "web", "--live", "--cold")).err
    assert "asked for" in (await nacre("move", "show", move["id"])).out
    assert (await nacre("move", "abort", move["id"])).code == exits.CONFLICT
    assert (await nacre("vm", "move", "web", "--to", other)).code == exits.CONFLICT
    stays = await nacre("node", "cordon", node)
    assert stays.out == f"{node}: cordoned\n"
    failed = await nacre("vm", "move", "web", "--wait")
    assert failed.code == exits.CONFLICT
    assert "failed" in failed.err


async def test_taints_labels_and_place(nacre: Nacre, agents: list[Agent]) -> None:
    assert (await nacre("node", "taint", "node-1", "gpu=a100:no-schedule", "old:prefer-no-schedule")).out == (
        "node-1: gpu=a100:no-schedule, old:prefer-no-schedule\n"
    )
    assert (await nacre("node", "taint", "node-1", "gpu=h100:no-schedule")).out.startswith(
        "node-1: gpu=h100:no-schedule"
    )
    assert (await nacre("node", "untaint", "node-1", "old")).out == "node-1: gpu=h100:no-schedule\n"
    assert (await nacre("node", "untaint", "node-1", "gpu=h100:no-schedule")).out == "node-1: no taints\n"
    assert (await nacre("node", "untaint", "node-1", "gpu")).code == exits.NOT_FOUND
    assert (await nacre("node", "update", "node-1", "--region", "eu", "--zone", "eu-1", "--label", "a=b")).code == 0
    assert "eu/eu-1" in (await nacre("node", "show", "node-1")).out
    assert "node-1" in (await nacre("node", "list", "--filter", "zone=eu-1")).out


async def test_a_dead_node_is_evacuated_and_removed(nacre: Nacre, api: Api) -> None:
    db = api.parts.requests.db
    async with working(db) as agents:
        await nacre("vm", "create", "web", "--image", "tiny", "--wait")
        node = await home_of(nacre)
        agent = agents[int(node.removeprefix("node-")) - 1]
    await silence(Cloud(db=db, project="", image="", agents=[agent]), agent.node)  # type: ignore[arg-type]
    assert "offline" in (await nacre("node", "list")).out
    assert (await nacre("node", "drain", node)).code == exits.CONFLICT
    assert "only a person can know" in (await nacre("node", "evacuate", node)).out
    assert "offline (cordoned)" in (await nacre("node", "list")).out
    assert (await nacre("node", "evacuate", node, "--confirm-dead", "--yes")).out == f"{node}: 1 machines taken off\n"
    assert (await nacre("node", "delete", node, "--yes")).code == exits.CONFLICT
    assert (await nacre("node", "delete", node, "--force", "--confirm-dead", "-y")).out == f"{node}: forgotten\n"


@pytest.mark.parametrize("text", ["gpu", "gpu=a", "gpu:never", ":no-schedule", "=a:no-schedule"])
async def test_what_is_no_taint(text: str) -> None:
    with pytest.raises(InvalidInputError, match="not a taint"):
        arguments.taint(text)


async def test_a_taint_is_read_and_named() -> None:
    taint = arguments.taint("gpu=a100:no-schedule")
    assert taint == Taint(key="gpu", value="a100", effect=TaintEffect.NO_SCHEDULE)
    assert all(arguments.names_taint(text, taint) for text in ("gpu", "gpu:no-schedule", "gpu=a100:no-schedule"))
    assert not arguments.names_taint("gpu:prefer-no-schedule", taint)


@pytest.mark.parametrize("number", [0, 101])
async def test_how_many_at_once_has_limits(number: int) -> None:
    with pytest.raises(InvalidInputError):
        arguments.parallel(number)
    assert arguments.parallel(100) == 100
