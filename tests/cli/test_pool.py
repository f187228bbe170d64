"""Pools, from the shell to the database and back; keys go in from files and never come out."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from nacre.cli import exits, main
from nacre.control.store.db import Database
from support.api import Api, api_over, on_a_socket
from support.cloud import make_node
from support.command_line import Ran

pytestmark = pytest.mark.anyio

Nacre = Callable[..., Awaitable[Ran]]

KEY = "AQCoMgJrX239HRAAix+2xAXXA9T88NXleONDkQ=="


@pytest.fixture
async def api(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Api]:
    made = await api_over(sqlite_database, tmp_path / "data")
    async with on_a_socket(made) as url:
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


async def test_a_pool_in_a_cluster_is_made_shown_and_forgotten(nacre: Nacre, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text(f"[client.cloud]\n\tkey = {KEY}\n")
    words = ("--kind", "ceph", "--monitor", "10.0.0.1", "--monitor", "10.0.0.2", "--user", "cloud")
    made = await nacre("pool", "create", "rados", "rbd", *words, "--key-file", str(keyring))
    assert made.code == exits.OK, made.err
    listed = await nacre("pool", "list")
    assert ["rados", "ceph", "yes", "rbd"] in [line.split()[:4] for line in listed.out.splitlines()]
    shown = await nacre("pool", "show", "rados")
    assert "10.0.0.1, 10.0.0.2 as cloud" in shown.out
    facts = json.loads((await nacre("pool", "show", "rados", "--output", "json")).out)
    assert facts["ceph"] == {"monitors": ["10.0.0.1", "10.0.0.2"], "user": "cloud"}
    assert all(KEY not in one.out + one.err for one in (made, listed, shown))
    assert (await nacre("pool", "delete", "rados", "--yes")).code == exits.OK


@pytest.mark.parametrize(
    "words", [("--kind", "ceph"), ("--kind", "ceph", "--monitor", "10.0.0.1"), ("--kind", "ceph", "--key-file", "/k")]
)
async def test_what_a_cluster_needs_is_asked_for_before_anything_is_sent(nacre: Nacre, words: tuple[str, ...]) -> None:
    refused = await nacre("pool", "create", "rados", "rbd", *words)
    assert refused.code != exits.OK
    assert "--key-file" in refused.err


async def test_a_folder_is_a_pool_without_more_ado(nacre: Nacre) -> None:
    made = await nacre("pool", "create", "fast", "/srv/fast")
    assert made.code == exits.OK, made.err
    assert "cluster" not in (await nacre("pool", "show", "fast")).out


async def test_the_nodes_of_a_pool_are_changed(nacre: Nacre, sqlite_database: Database) -> None:
    async with sqlite_database.write() as tx:
        for name in ("n1", "n2"):
            await make_node(tx, name)
    assert (await nacre("pool", "create", "fast", "/srv/fast", "--node", "n1")).code == exits.OK
    added = await nacre("pool", "update", "fast", "--add-node", "n2")
    assert (added.code, added.out) == (exits.OK, "fast: n1, n2\n"), added.err
    assert (await nacre("pool", "update", "fast", "--remove-node", "n1")).out == "fast: n2\n"
    assert (await nacre("pool", "update", "fast", "--node", "n1")).out == "fast: n1\n"
    assert (await nacre("pool", "update", "fast", "--all-nodes")).out == "fast: all nodes\n"
    assert "all nodes" in (await nacre("pool", "show", "fast")).out
    for words in ((), ("--node", "n1", "--all-nodes"), ("--node", "n1", "--add-node", "n2")):
        refused = await nacre("pool", "update", "fast", *words)
        assert refused.code == exits.USAGE
        assert "--all-nodes" in refused.err
