"""Volumes, from the shell to the database and back."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from nacre.agent.storage import offer
from nacre.cli import exits, main
from nacre.cli.pool import facts
from nacre.control.store.db import Database
from nacre.model.ids import NodeId, PoolId
from nacre.model.volumes import PoolKind
from nacre.schema.vms import NodeRef
from nacre.schema.volumes import PoolOnNode, PoolOut
from support.api import Api, api_over, on_a_socket
from support.command_line import Ran

pytestmark = pytest.mark.anyio

Nacre = Callable[..., Awaitable[Ran]]
AT = datetime(2030, 1, 1, tzinfo=UTC)


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


async def test_a_volume_is_made_in_a_format_and_shown_with_it(nacre: Nacre) -> None:
    for words in (("plain",), ("flat", "--format", "raw")):
        made = await nacre("volume", "create", *words, "--size", "1GiB")
        assert made.code == exits.OK, made.err
    listed = await nacre("volume", "list")
    rows = {line.split()[0]: line.split() for line in listed.out.splitlines()}
    assert "FORMAT" in rows["NAME"]
    assert ("qcow2" in rows["plain"], "raw" in rows["flat"]) == (True, True)
    assert json.loads((await nacre("volume", "show", "flat", "--output", "json")).out)["format"] == "raw"
    assert "qcow2" in (await nacre("volume", "show", "plain")).out


async def test_a_format_that_there_is_not_is_refused_with_those_that_there_are(nacre: Nacre) -> None:
    refused = await nacre("volume", "create", "odd", "--size", "1GiB", "--format", "vmdk")
    assert refused.code != exits.OK
    assert "qcow2" in refused.err
    assert "raw" in refused.err


def test_a_pool_says_what_each_format_can_do_on_each_node() -> None:
    on = [
        PoolOnNode(
            node=NodeRef(id=NodeId(name), name=name),
            available=True,
            reason="",
            hint="",
            capacity_bytes=1 << 30,
            used_bytes=0,
            capabilities=offer.directory(shared=False, reflinks=reflinks),
        )
        for name, reflinks in (("n1", True), ("n2", False))
    ]
    pool = PoolOut(
        id=PoolId("pool-1"),
        name="fast",
        kind=PoolKind.DIRECTORY,
        path="/srv/fast",
        shared=False,
        ceph=None,
        nodes=tuple(on),
        volumes=0,
        promised_bytes=0,
        created_at=AT,
        updated_at=AT,
        etag="1",
    )
    said = dict(facts(pool))["nodes"].splitlines()
    assert len(said) == 6
    assert said[2].startswith("n1, raw: clones by reflink, snapshots by reflink, live snapshots (")
    assert said[5].startswith("n2, raw: clones by copy, snapshots by copy, no live snapshots (")
    assert "XFS" in said[5]
