"""Streams from viewer to node and back, on one replica and across two, over real links."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.agent.identity import Identity, IdentityFiles
from nacre.agent.link import Link
from nacre.control.store import stream_requests
from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.errors import UnavailableError
from nacre.lib.clock import ManualClock
from nacre.model.ids import VmId
from nacre.protocol import paths
from nacre.protocol.messages import OpenStream, StreamHeader, StreamKind
from support.database import opened
from support.linking import Echo, Host, Replica, dialled, greeted, hear, linked, refused, replica, say
from support.patience import within
from support.waiting import until

pytestmark = pytest.mark.anyio

VM = VmId("vm-1")


@pytest.fixture
async def gate(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Replica]:
    async with replica(sqlite_database, tmp_path) as running:
        yield running


@pytest.fixture
async def enrolled(gate: Replica, tmp_path: Path) -> tuple[Identity, IdentityFiles]:
    return await gate.enrolled(tmp_path / "identity")


@pytest.fixture
def host() -> Host:
    return Host(consoles={VM: Echo(b"welcome")})


@pytest.fixture
async def link(gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host) -> AsyncGenerator[Link]:
    async with linked(gate, *enrolled, host) as running:
        await until(lambda: running.is_up)
        yield running


async def test_bytes_go_both_ways(
    gate: Replica, link: Link, enrolled: tuple[Identity, IdentityFiles], host: Host
) -> None:
    node = enrolled[0].node
    async with gate.gateway.streams.open(VM, node, StreamKind.CONSOLE, 4096) as stream:
        heard = aiter(stream)
        assert await anext(heard) == b"welcome"
        for text in (b"ls\n", bytes(range(256)), b"x" * 1_000_000):
            await stream.send(text)
            got = b""
            while len(got) < len(text):
                got += await anext(heard)
            assert got == text
    assert host.tails == [4096]
    await until(lambda: host.consoles[VM].closed)


async def test_a_stream_ends_when_the_node_has_no_more_to_say(
    gate: Replica, link: Link, enrolled: tuple[Identity, IdentityFiles], host: Host
) -> None:
    host.consoles[VM].heard.put_nowait(b"bye")
    async with gate.gateway.streams.open(VM, enrolled[0].node, StreamKind.CONSOLE_LOG) as stream:
        assert [chunk async for chunk in stream] == [b"welcome"]


async def test_a_stream_that_breaks_is_not_taken_for_one_that_ends(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host
) -> None:
    async with linked(gate, *enrolled, host) as link:
        await until(lambda: link.is_up)
        async with gate.gateway.streams.open(VM, enrolled[0].node, StreamKind.CONSOLE) as stream:
            heard = aiter(stream)
            await anext(heard)
            host.consoles[VM].heard.put_nowait(None)  # type: ignore[arg-type] - makes the console fail
            with pytest.raises(UnavailableError) as broken:
                await anext(heard)
    assert broken.value.code == "stream_broken"


async def test_what_the_node_says_no_to_is_told_to_the_viewer(
    gate: Replica, link: Link, enrolled: tuple[Identity, IdentityFiles]
) -> None:
    with pytest.raises(UnavailableError) as no:
        async with gate.gateway.streams.open(VmId("vm-2"), enrolled[0].node, StreamKind.CONSOLE):
            pass
    assert (no.value.code, no.value.hint) == ("vm_not_here", "look at the machine's node")


async def test_a_node_that_is_not_there_is_given_up_and_nothing_is_left(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles]
) -> None:
    with pytest.raises(UnavailableError) as no:
        async with gate.gateway.streams.open(VM, enrolled[0].node, StreamKind.CONSOLE, timeout=0.2):
            pass
    assert no.value.code == "node_not_answering"
    assert not gate.gateway.streams._waiting
    async with gate.db.write() as tx:
        assert await stream_requests.take(tx, [enrolled[0].node]) == []


async def test_a_node_that_comes_back_in_time_brings_the_stream(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host
) -> None:
    async def first() -> bytes:
        async with gate.gateway.streams.open(VM, enrolled[0].node, StreamKind.CONSOLE) as stream:
            return await anext(aiter(stream))

    waiting = asyncio.create_task(first())
    await until(lambda: gate.gateway.streams._waiting)
    async with linked(gate, *enrolled, host):
        assert await waiting == b"welcome"


async def test_many_viewers_have_streams_of_their_own(
    gate: Replica, link: Link, enrolled: tuple[Identity, IdentityFiles], host: Host
) -> None:
    host.consoles |= {VmId(f"vm-{number}"): Echo(str(number).encode()) for number in range(20)}

    async def one(number: int) -> bytes:
        async with gate.gateway.streams.open(VmId(f"vm-{number}"), enrolled[0].node, StreamKind.CONSOLE) as stream:
            return await anext(aiter(stream))

    assert await asyncio.gather(*(one(number) for number in range(20))) == [str(n).encode() for n in range(20)]


async def test_a_slow_viewer_holds_up_its_own_stream_only(
    gate: Replica, link: Link, enrolled: tuple[Identity, IdentityFiles], host: Host
) -> None:
    flood = host.consoles[VmId("flood")] = Echo(b"start")
    for _ in range(64):
        flood.heard.put_nowait(b"x" * 1_000_000)
    node = enrolled[0].node
    async with (
        gate.gateway.streams.open(VmId("flood"), node, StreamKind.CONSOLE) as slow,
        gate.gateway.streams.open(VM, node, StreamKind.CONSOLE) as quick,
    ):
        assert await anext(aiter(quick)) == b"welcome"
        # Nobody reads the flood, so most of it stays at the node.
        left = flood.heard.qsize()
        await asyncio.sleep(0.2)
        assert flood.heard.qsize() > 20, left
        size = 0
        async for chunk in slow:
            size += len(chunk)
            if size >= 64_000_000:
                break
    await until(lambda: flood.closed)


async def test_another_node_cannot_bring_a_stream_that_is_not_its_own(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], tmp_path: Path
) -> None:
    thief, _ = await gate.enrolled(tmp_path / "thief")
    owner = enrolled[0]
    roots = gate.ca.roots_pem
    async with dialled(gate.address, paths.AGENT, roots, owner.pair) as control:
        await greeted(control, gate.db, owner.node)

        async def first() -> bytes:
            async with gate.gateway.streams.open(VM, owner.node, StreamKind.CONSOLE) as stream:
                return await anext(aiter(stream))

        viewer = asyncio.create_task(first())
        request = await hear(control)
        assert isinstance(request, OpenStream)
        path = paths.stream_path(request.stream)
        async with dialled(gate.address, path, roots, thief.pair) as stolen:
            assert (await refused(stolen)).code == "stream_not_found"
        async with dialled(gate.address, path, roots, owner.pair) as brought:
            await say(brought, StreamHeader(ok=True))
            await say(brought, b"mine")
            assert await viewer == b"mine"
        async with dialled(gate.address, path, roots, owner.pair) as late:
            assert (await refused(late)).code == "stream_not_found"


async def test_a_stream_survives_the_loss_of_the_control_connection(
    gate: Replica, link: Link, enrolled: tuple[Identity, IdentityFiles]
) -> None:
    async with gate.gateway.streams.open(VM, enrolled[0].node, StreamKind.CONSOLE) as stream:
        heard = aiter(stream)
        assert await anext(heard) == b"welcome"
        broken = gate.gateway._links[enrolled[0].node]
        broken._connection.transport.abort()
        await until(lambda: gate.gateway._links.get(enrolled[0].node) not in {None, broken})
        await stream.send(b"still here")
        assert await anext(heard) == b"still here"


async def test_viewers_see_the_end_when_their_replica_stops(
    sqlite_database: Database, tmp_path: Path, host: Host
) -> None:
    async def view(gate: Replica, node: str) -> None:
        async with gate.gateway.streams.open(VM, node, StreamKind.CONSOLE) as stream:  # type: ignore[arg-type]
            async for _ in stream:
                pass

    async with within(10), replica(sqlite_database, tmp_path) as gate:
        identity, files = await gate.enrolled(tmp_path / "identity")
        async with linked(gate, identity, files, host) as link:
            await until(lambda: link.is_up)
            viewer = asyncio.create_task(view(gate, identity.node))
            await until(lambda: host.tails)
            await until(lambda: host.consoles[VM].heard.empty())
            stopping = asyncio.create_task(_stop(gate))
            await stopping
            await asyncio.wait([viewer])
            if viewer.exception() is not None:
                assert isinstance(viewer.exception(), UnavailableError)


async def _stop(gate: Replica) -> None:
    gate.gateway._close()
    assert gate.gateway._server is not None
    gate.gateway._server.close()
    await gate.gateway._server.wait_closed()


async def test_viewer_and_link_may_be_on_different_replicas(
    database: Database, database_url: str, tmp_path: Path, clock: ManualClock, wakes: Wakes, host: Host
) -> None:
    """The agent dials the viewer's replica, even if (as on PostgreSQL here) the bell between replicas is lost."""
    async with (
        opened(database_url, clock, wakes) as second,
        replica(database, tmp_path) as here,
        replica(second, tmp_path) as there,
    ):
        identity, files = await here.enrolled(tmp_path / "identity")
        async with linked(here, identity, files, host) as link:
            await until(lambda: link.is_up)
            assert not there.gateway.linked
            async with there.gateway.streams.open(VM, identity.node, StreamKind.CONSOLE) as stream:
                heard = aiter(stream)
                assert await anext(heard) == b"welcome"
                await stream.send(b"across")
                assert await anext(heard) == b"across"
        async with database.write() as tx:
            assert await stream_requests.take(tx, [identity.node]) == []
