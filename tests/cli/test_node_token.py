"""Letting new nodes in, from the shell."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from nacre.cli import exits, main
from nacre.control.services import enrolments
from nacre.control.store.db import Database
from nacre.protocol import join
from support.api import Api, api_over, on_a_socket
from support.command_line import Ran

pytestmark = pytest.mark.anyio

Nacre = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def api(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Api]:
    made = await api_over(sqlite_database, tmp_path / "data")
    async with on_a_socket(made) as url:
        made.url = url
        yield made


@pytest.fixture
def nacre(api: Api, alone: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Nacre:
    """The command line in a thread of its own, logged in."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    monkeypatch.setenv("NACRE_URL", api.url)
    monkeypatch.setenv("NACRE_TOKEN", api.token)

    async def run(*words: str) -> Ran:
        code = await asyncio.to_thread(main.run, words)
        captured = capfdbinary.readouterr()
        return Ran(code, captured.out.decode(), captured.err.decode())

    return run


async def test_a_token_says_what_to_run_where_and_what_to_paste(nacre: Nacre, api: Api) -> None:
    made = await nacre("node", "token", "create", "--uses", "3", "--zone", "rack1", "--ttl", "2h")
    assert made.code == 0, made.err
    assert f"curl -fsSL {api.url}/install.sh | sudo sh" in made.out
    assert "3 nodes" in made.out
    (line,) = [line for line in made.out.splitlines() if line.startswith("paste there")]
    secret = join.decode(line.split()[-1]).secret
    for number in range(2):
        async with api.parts.requests.db.write() as tx:
            await enrolments.redeem(tx, secret, f"host-{number}", f"key-{number}")
    table = (await nacre("node", "token", "list")).out.splitlines()
    assert table[0].split() == ["ID", "NODE", "BY", "EXPIRES", "USED", "LAST"]
    assert " 2/3 " in table[1]
    assert secret not in "".join(table)


async def test_a_token_for_one_named_node_is_revoked(nacre: Nacre) -> None:
    made = json.loads((await nacre("node", "token", "create", "--node", "rack1-a", "-o", "json")).out)
    made = made[0] if isinstance(made, list) else made
    assert (made["token"]["node_name"], made["token"]["uses"]) == ("rack1-a", 1)
    assert (await nacre("node", "token", "revoke", made["token"]["id"])).code == 0
    assert json.loads((await nacre("node", "token", "list", "-o", "json")).out) == []


@pytest.mark.parametrize(
    "words", [("--uses", "0"), ("--uses", "10001"), ("--uses", "2", "--node", "a"), ("--ttl", "1s")]
)
async def test_what_cannot_be_is_refused(nacre: Nacre, words: tuple[str, ...]) -> None:
    done = await nacre("node", "token", "create", *words)
    assert done.code == exits.USAGE
    assert "hint" in done.err
