"""What one agent's hypervisor sends comes out of another's: both sides of a stream over real TLS, and who is let in."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nacre.agent.hypervisors.abilities import disks_socket
from nacre.agent.identity import Identity, IdentityFiles, SigningKey
from nacre.agent.migration.dial import Dial
from nacre.agent.migration.listener import Listener
from nacre.control.auth.ca import CertificateAuthority
from nacre.control.auth.sealing import Sealer
from nacre.control.store.db import Database
from nacre.errors import UnavailableError
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId, StreamId, make_id
from nacre.model.migrations import DiskOffer, Offer, Outgoing
from support.patience import within
from support.waiting import until

pytestmark = pytest.mark.anyio

STREAM = StreamId("str-" + "0" * 26)
OFFER = Offer(shape="a shape", cpus=1, memory_bytes=2, disks=(DiskOffer(id="root", size_bytes=3),))
A_LOT = os.urandom(8 << 20)


@dataclass
class Side:
    """A place for sockets, and what has come out of them."""

    place: Path
    came: dict[str, bytes] = field(default_factory=dict[str, bytes])
    offers: list[Offer] = field(default_factory=list[Offer])
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    coming: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a guest's memory begins to come."""
    servers: list[asyncio.Server] = field(default_factory=list[asyncio.Server])

    @property
    def socket(self) -> Path:
        return self.place / "move.sock"

    async def offered(self, offer: Offer) -> Path:
        """A hypervisor that keeps what comes, and answers on the socket of disks."""
        self.offers.append(offer)

        async def memory(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.coming.set()
            self.came["memory"] = await reader.read(-1)
            writer.close()

        async def disks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"answer to " + await reader.readexactly(5))
            await writer.drain()
            self.came["disks"] = await reader.read(-1)
            writer.close()

        self.servers.append(await asyncio.start_unix_server(memory, self.socket))
        self.servers.append(await asyncio.start_unix_server(disks, disks_socket(self.socket)))
        return self.socket


@dataclass
class Two:
    """A source and a target, and a node that has no business here."""

    source: Identity
    target: Identity
    stranger: Identity
    listener: Listener
    there: Side
    here: Side

    async def order(self, source: NodeId | None = None) -> Outgoing:
        """Have the target expect the source."""
        addresses = await self.listener.expect(
            STREAM, source or self.source.node, offered=self.there.offered, lost=self.there.lost.set
        )
        return Outgoing(stream=STREAM, target=self.target.node, addresses=addresses)

    def dial(self) -> Dial:
        return Dial(lambda: self.source)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still at the present: TLS looks at the real one."""
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(bytes(32))


@pytest.fixture
async def two(database: Database, sealer: Sealer, tmp_path: Path) -> AsyncIterator[Two]:
    authority = await CertificateAuthority.open(database, sealer, "test.nacre")

    async def identity(name: str) -> Identity:
        key, files = SigningKey.generate(), IdentityFiles(tmp_path / name)
        async with database.write() as tx:
            node = NodeId(make_id("node", tx.now(), os.urandom(10)))
            issued = await authority.issue_node(tx, key.request_pem(), node, 86400)
        return files.save_enrolled(key, issued.certificate_pem, issued.roots_pem, ())

    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    source, target, stranger = [await identity(name) for name in ("source", "target", "stranger")]
    listener = Listener("127.0.0.1:0", lambda: target, lambda: ())
    made = Two(source, target, stranger, listener, Side(tmp_path / "there"), Side(tmp_path / "here"))
    yield made
    await listener.close()
    for server in made.there.servers:
        server.close()


async def test_memory_and_disks_go_through_whole_and_nothing_is_left(two: Two) -> None:
    order = await two.order()
    async with two.dial().open(order, OFFER, two.here.socket) as line:
        assert two.there.offers == [OFFER]
        reader, disks = await asyncio.open_unix_connection(disks_socket(two.here.socket))
        disks.write(b"block")
        assert await reader.readexactly(15) == b"answer to block"
        _, memory = await asyncio.open_unix_connection(two.here.socket)
        memory.write(A_LOT)
        await memory.drain()
        memory.close()
        await until(lambda: "memory" in two.there.came)
        disks.write(A_LOT)
        disks.close()
        await line.drained(20)
        await until(lambda: "disks" in two.there.came)
        assert not two.there.lost.is_set()
    assert two.there.came == {"memory": A_LOT, "disks": A_LOT}
    await until(two.there.lost.is_set)
    assert list(two.here.place.iterdir()) == []


async def test_when_the_target_does_not_expect_it_any_more_everything_ends(two: Two) -> None:
    order = await two.order()
    async with two.dial().open(order, OFFER, two.here.socket) as line:
        reader, memory = await asyncio.open_unix_connection(two.here.socket)
        memory.write(b"some")
        await two.listener.forget(STREAM)
        await until(line.lost.is_set)
        assert await reader.read() == b""
        memory.close()


async def test_who_waits_for_an_answer_hears_that_the_line_is_closed(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.Event()

    async def never(*_: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Listener, "_carry", never)
    order = await two.order()
    async with two.dial().open(order, OFFER, two.here.socket):
        connection = await asyncio.open_unix_connection(disks_socket(two.here.socket))
        await waiting.wait()
    await ended(*connection)


@pytest.mark.parametrize("turns", range(6))
async def test_who_has_just_connected_hears_that_the_line_is_closed(two: Two, turns: int) -> None:
    order = await two.order()
    async with two.dial().open(order, OFFER, two.here.socket):
        connection = await asyncio.open_unix_connection(disks_socket(two.here.socket))
        for _ in range(turns):
            await asyncio.sleep(0)
    await ended(*connection)


async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait until the other end closes a connection, whichever way."""
    async with within(5):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


async def test_when_the_source_goes_everything_ends_there(two: Two) -> None:
    order = await two.order()
    async with two.dial().open(order, OFFER, two.here.socket):
        _, memory = await asyncio.open_unix_connection(two.here.socket)
        memory.write(b"half of it")
        await memory.drain()
        await until(two.there.coming.is_set)
    await until(two.there.lost.is_set)
    await until(lambda: two.there.came.get("memory") in {b"half of it", b""})
    memory.close()


@pytest.mark.parametrize("wrong", ["another node", "another stream", "another target", "nobody there"])
async def test_only_the_named_node_is_let_in_for_the_named_stream(two: Two, wrong: str) -> None:
    order = await two.order(two.stranger.node if wrong == "another node" else None)
    match wrong:
        case "another stream":
            order = Outgoing(stream=StreamId("str-other"), target=order.target, addresses=order.addresses)
        case "another target":
            order = Outgoing(stream=STREAM, target=two.stranger.node, addresses=order.addresses)
        case "nobody there":
            order = Outgoing(stream=STREAM, target=order.target, addresses=("127.0.0.1:1",))
        case _:
            pass
    with pytest.raises(UnavailableError) as caught:
        async with two.dial().open(order, OFFER, two.here.socket):
            pass
    unreachable = wrong in {"another target", "nobody there"}
    assert caught.value.code == ("migration_target_unreachable" if unreachable else "stream_unknown")
    assert two.there.offers == []


async def test_machines_that_are_expected_at_the_same_time_come_to_one_port(two: Two) -> None:
    def expect(number: int) -> Coroutine[None, None, tuple[str, ...]]:
        stream = StreamId(f"str-{number}")
        return two.listener.expect(stream, two.source.node, offered=two.there.offered, lost=two.there.lost.set)

    found = await asyncio.gather(*(expect(number) for number in range(5)))
    assert len(set(found)) == 1


async def test_a_stream_is_taken_once(two: Two) -> None:
    order = await two.order()
    async with two.dial().open(order, OFFER, two.here.socket):
        with pytest.raises(UnavailableError) as caught:
            async with two.dial().open(order, OFFER, two.here.place / "second.sock"):
                pass
        assert caught.value.code == "stream_taken"
        assert len(two.there.offers) == 1
