"""The link while machines run on a lease: a cut is noticed soon, and the way back is short."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nacre.agent import link as links
from nacre.agent import session as sessions
from nacre.agent.lease import Lease
from nacre.agent.link import Link
from nacre.control.store.db import Database
from nacre.lib.clock import ManualClock, SystemClock
from nacre.model.vms import HaPolicy
from nacre.protocol.messages import DesiredState, NodeIntent
from support.intents import vm_intent
from support.linking import Host, Replica, instance, replica
from support.platform import free_port
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the programs run on; its transports are not the standard library's."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


SAFE = vm_intent(ha=HaPolicy.RESTART, fence=1)


class Cable:
    """A way to the gateway that can be cut: what is under way is lost without a word, and nobody can be dialled."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._to = port
        self._open = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self._open.set()

    async def cut(self) -> None:
        assert self._server is not None
        self._open.clear()
        self._server.close()
        await asyncio.sleep(0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            ways = [asyncio.create_task(self._pump(reader, back)), asyncio.create_task(self._pump(there, writer))]
            self._carrying |= set(ways)
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            back.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()

    async def close(self) -> None:
        self._open.set()
        for way in self._carrying:
            way.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        if self._server is not None:
            self._server.close()


class Agent(Host):
    """The rest of an agent, which has a machine that needs a lease whatever it is told."""

    lease: Lease

    async def on_desired(self, state: DesiredState) -> None:
        await super().on_desired(state)
        if state.intent is not None:
            self.lease.told(NodeIntent(vms=(SAFE,), tenure=state.intent.tenure))


@asynccontextmanager
async def behind(cable: Cable, gate: Replica, folder: Path) -> AsyncGenerator[tuple[Link, Lease]]:
    """An agent at the other end of a cable."""
    identity, files = await gate.enrolled(folder / "identity")
    there = replace(identity, gateways=(f"127.0.0.1:{cable.port}",))
    host = Agent()
    host.lease = Lease(folder, SystemClock())
    link = Link(there, files, host, gate.db.clock, lambda: 0.5, instance(gate.db), lease=host.lease)
    running = asyncio.create_task(link.run())
    try:
        yield link, host.lease
    finally:
        running.cancel()
        await asyncio.wait([running])
        await cable.close()


async def test_a_cut_is_noticed_by_the_next_question_and_a_link_is_tried_for_often_while_a_lease_runs_out(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "RENEW_TIMEOUT_S", 1.0)
    async with replica(sqlite_database, tmp_path) as gate:
        cable = Cable(int(gate.address.rpartition(":")[2]))
        await cable.mend()
        async with behind(cable, gate, tmp_path) as (link, lease):
            await until(lambda: lease.left_s > 30)
            waits = recorded(link, monkeypatch)
            await cable.cut()
            await until(lambda: not link.is_up)
            await until(lambda: len(waits) >= 5)  # long enough to have grown to their cap
            assert max(waits) <= links.URGENT_WAIT_S
            await cable.mend()
            before = lease.left_s
            await until(lambda: lease.left_s > before + 1)


def recorded(link: Link, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of a link between its tries, from now on."""
    waits: list[float] = []
    following = link._backoff.next

    def wait(cap: float | None = None) -> float:
        waits.append(following(cap))
        return waits[-1]

    monkeypatch.setattr(link._backoff, "next", wait)
    return waits
