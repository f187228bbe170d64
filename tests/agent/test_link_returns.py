"""A link that broke comes back, however slowly the other side takes its leave."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from nacre.control.store.db import Database
from nacre.lib.clock import ManualClock
from support.linking import Host, linked, replica
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the programs run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def clock() -> ManualClock:
    """Certificates are judged by the host's clock too."""
    return ManualClock(datetime.now(UTC))


async def test_a_farewell_that_takes_too_long_is_not_the_end_of_the_link(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close: Any = ClientConnection.close

    async def slowly(self: ClientConnection, *args: Any) -> None:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(60)
        except TimeoutError:
            self.transport.abort()
        await close(self, *args)

    async with replica(sqlite_database, tmp_path) as gate:
        identity, files = await gate.enrolled(tmp_path / "identity")
        monkeypatch.setattr(ClientConnection, "close", slowly)
        async with linked(gate, identity, files, Host()) as link:
            for _ in range(2):
                await until(lambda: link.is_up)
                gate.gateway._links[identity.node].cut()
                await until(lambda: not link.is_up)
            await until(lambda: link.is_up)
