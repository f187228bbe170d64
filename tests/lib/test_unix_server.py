"""Who connects is served, and hears of the end, whenever it comes."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nacre.lib.unix_server import UnixServer
from support.patience import within
from support.waiting import until

pytestmark = pytest.mark.anyio

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """What a server does with those who connect: it waits until it may answer."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.count = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        await self.may.wait()
        writer.write(await reader.readline())


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "served.sock"


@pytest.fixture
async def server(served: Served, path: Path) -> AsyncIterator[UnixServer]:
    made = UnixServer(path, served, mode=0o600)
    yield made
    made.close()
    await made.wait_closed()


async def heard(ends: Ends) -> bytes:
    """What comes until the other side closes."""
    reader, writer = ends
    said = b""
    async with within(5):
        with contextlib.suppress(ConnectionError):
            said = await reader.read()
    writer.close()
    return said


async def test_all_who_connect_are_served_and_closed(server: UnixServer, served: Served, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    all_ends = [await asyncio.open_unix_connection(path) for _ in range(3)]
    for number, (_, writer) in enumerate(all_ends):
        writer.write(b"%d\n" % number)
    served.may.set()
    assert [await heard(ends) for ends in all_ends] == [b"0\n", b"1\n", b"2\n"]
    await server.served(5)


@pytest.mark.parametrize("turns", range(6))
async def test_who_connects_just_before_the_end_hears_of_it(server: UnixServer, path: Path, turns: int) -> None:
    ends = await asyncio.open_unix_connection(path)
    for _ in range(turns):
        await asyncio.sleep(0)
    server.close()
    assert await heard(ends) == b""
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(path)


async def test_who_is_waiting_hears_of_the_end(server: UnixServer, served: Served, path: Path) -> None:
    ends = await asyncio.open_unix_connection(path)
    await until(lambda: served.count == 1)
    await server.served(0.01)
    server.close()
    await server.wait_closed()
    assert await heard(ends) == b""


async def test_who_is_served_badly_hears_of_the_end_and_the_next_one_is_served(path: Path) -> None:
    caught: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: caught.append(context["exception"]))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes([1 // int(await reader.readline())]))

    server = UnixServer(path, serve)
    for said, answer in ((b"0\n", b""), (b"1\n", b"\x01")):
        ends = await asyncio.open_unix_connection(path)
        ends[1].write(said)
        assert await heard(ends) == answer
    await until(lambda: [error.__class__ for error in caught] == [ZeroDivisionError])
    server.close()
    await server.wait_closed()


async def test_a_path_that_is_taken_is_said(server: UnixServer, path: Path) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        UnixServer(path, Served())
    assert caught.value.errno == errno.EADDRINUSE
    assert path.exists()


async def test_without_free_descriptors_it_waits_and_tries_again(
    server: UnixServer, served: Served, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [OSError(errno.EMFILE, "too many"), OSError(errno.EMFILE, "too many")]
    accept = socket.socket.accept

    def crowded(listening: socket.socket) -> object:
        if refusals:
            raise refusals.pop()
        return accept(listening)

    monkeypatch.setattr("nacre.lib.unix_server._AGAIN_S", 0.01)
    monkeypatch.setattr(socket.socket, "accept", crowded)
    ends = await asyncio.open_unix_connection(path)
    ends[1].write(b"in the end\n")
    served.may.set()
    assert await heard(ends) == b"in the end\n"
    assert refusals == []
