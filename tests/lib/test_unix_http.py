"""A client of servers on unix sockets: what arrives there, what comes back, and what is known when nothing does."""

import array
import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nacre.lib import unix_http
from nacre.lib.unix_http import Answer, AnswerLostError, UnixHttp, decode
from support.waiting import until

pytestmark = pytest.mark.anyio

NO_CONTENT = b"HTTP/1.1 204 \r\nServer: Test API\r\nConnection: keep-alive\r\n\r\n"


def with_body(body: bytes, status: int = 200, *more: bytes) -> bytes:
    head = [f"HTTP/1.1 {status} ".encode(), b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@dataclass
class Server:
    """Says what it was told to say, one answer per request, and remembers the requests."""

    answers: list[bytes | None]
    """None: hang up instead."""
    requests: list[bytes] = field(default_factory=list[bytes])
    connections: int = 0
    before: Callable[[], Awaitable[None]] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                self.requests.append(head + body)
                if self.before:
                    await self.before()
                answer = self.answers.pop(0)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(path: Path, *answers: bytes | None) -> AsyncGenerator[Server]:
    server = Server(list(answers))
    async with await asyncio.start_unix_server(server.serve, path):
        yield server


@pytest.fixture
async def client(tmp_path) -> AsyncGenerator[UnixHttp]:
    made = UnixHttp(tmp_path / "s", max_body=1 << 20)
    yield made
    await made.close()


async def test_requests_share_a_connection_and_bodies_are_json(client, tmp_path):
    async with serving(tmp_path / "s", NO_CONTENT, with_body(b'{"id": "a"}', 200, b"Deprecation: true")) as server:
        assert await client.request("PUT", "/vm", {"a": [1, "\u00e9"]}, timeout=5) == Answer(
            204, None, {"server": "Test API", "connection": "keep-alive"}
        )
        answer = await client.request("GET", "/vm", timeout=5)
    assert (answer.status, answer.body, answer.ok) == (200, {"id": "a"}, True)
    assert answer.headers["deprecation"] == "true"
    assert server.connections == 1
    first, second = server.requests
    head, _, body = first.partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /vm HTTP/1.1\r\n")
    assert json.loads(body) == {"a": [1, "\u00e9"]}
    assert b"ransfer-" not in first
    assert second.startswith(b"GET /vm HTTP/1.1\r\n")
    assert b"ontent-" not in second


async def test_refusals_are_answers(client, tmp_path):
    async with serving(tmp_path / "s", with_body(b'["Error from API","VM is not running"]', 500)):
        answer = await client.request("PUT", "/vm.pause", timeout=5)
    assert (answer.status, answer.ok) == (500, False)
    assert answer.body == ["Error from API", "VM is not running"]


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        (b"", None),
        (b" \n", None),
        (b'{ "error": "one\nand two" }', {"error": "one\nand two"}),
        (b"it broke", "it broke"),
        (b"\xff", "\ufffd"),
        (b"[1, 2", "[1, 2"),
        (b"null", None),
    ],
)
def test_bodies_are_read_leniently(content, meaning):
    assert decode(content) == meaning


async def test_an_answer_may_come_in_pieces(client, tmp_path):
    answer = with_body(b'{"long": "' + b"x" * 200_000 + b'"}')

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for place in range(0, len(answer), 7919):
            writer.write(answer[place : place + 7919])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async with await asyncio.start_unix_server(slowly, tmp_path / "s"):
        answered = await client.request("GET", "/", timeout=20)
    assert len(answered.body["long"]) == 200_000


async def test_a_request_larger_than_the_sockets_buffer_arrives(client, tmp_path):
    async with serving(tmp_path / "s", NO_CONTENT) as server:
        await client.request("PUT", "/", {"long": "x" * 3_000_000}, timeout=20)
    assert len(server.requests[0]) > 3_000_000


async def test_requests_wait_for_each_other(client, tmp_path):
    async with serving(tmp_path / "s", *[with_body(b"%d" % number) for number in range(20)]) as server:
        answers = await asyncio.gather(*(client.request("GET", f"/{i}", timeout=5) for i in range(20)))
    assert [answer.body for answer in answers] == list(range(20))
    assert server.connections == 1


async def test_descriptors_ride_with_the_request(client, tmp_path):
    (tmp_path / "file").write_text("content")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    listening.listen()

    def take() -> tuple[bytes, list[str]]:
        connection, _ = listening.accept()
        data, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(8))
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw)
        contents = [os.read(fd, 100).decode() for fd in fds]
        for fd in fds:
            os.close(fd)
        connection.sendall(NO_CONTENT)
        connection.close()
        return data, contents

    taking = asyncio.create_task(asyncio.to_thread(take))
    with (tmp_path / "file").open() as one, (tmp_path / "file").open() as two:
        fds = [one.fileno(), two.fileno()]
        assert (await client.request("PUT", "/add", {"id": "n"}, timeout=5, descriptors=fds)).ok
    data, contents = await taking
    listening.close()
    assert data.startswith(b"PUT /add")
    assert contents == ["content", "content"]


async def test_nobody_listens(client, tmp_path):
    with pytest.raises(FileNotFoundError):
        await client.request("GET", "/", timeout=5)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "s"))
    with pytest.raises(ConnectionRefusedError):
        await client.request("GET", "/", timeout=5)


async def test_a_server_whose_queue_is_full_is_waited_for_but_not_for_long(client, tmp_path):
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as other:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        other.connect(str(tmp_path / "s"))
        with pytest.raises(TimeoutError):
            await client.request("GET", "/", timeout=0.1)


async def test_a_late_answer_is_not_that_of_the_next_request(client, tmp_path):
    late = asyncio.Event()
    async with serving(tmp_path / "s", with_body(b"1"), with_body(b"2")) as server:
        server.before = late.wait
        with pytest.raises(TimeoutError):
            await client.request("GET", "/one", timeout=0.1)
        late.set()
        assert (await client.request("GET", "/two", timeout=5)).body == 2
    assert server.connections == 2


async def test_a_time_out_covers_waiting_for_others_and_leaves_them_alone(client, tmp_path):
    late = asyncio.Event()
    async with serving(tmp_path / "s", with_body(b"1"), with_body(b"2")) as server:
        server.before = late.wait
        slow = asyncio.create_task(client.request("GET", "/one", timeout=5))
        await until(lambda: server.requests)
        with pytest.raises(TimeoutError):
            await client.request("GET", "/two", timeout=0.05)
        late.set()
        assert (await slow).body == 1
        assert len(server.requests) == 1


async def test_a_connection_that_the_server_closed_is_made_again(client, tmp_path):
    closing = with_body(b"1", 200, b"Connection: close")
    async with serving(tmp_path / "s", closing, with_body(b"2")) as server:
        assert (await client.request("GET", "/", timeout=5)).body == 1
        assert (await client.request("GET", "/", timeout=5)).body == 2
    await until(lambda: not unix_http._is_quiet(client._socket))
    async with serving(tmp_path / "s", with_body(b"4")):
        assert (await client.request("GET", "/", timeout=5)).body == 4
    assert len(server.requests) == 2


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 20", b"220 smtp ready\r\n", b"\0" * 100 + b"\r\n\r\n"])
async def test_a_request_that_was_sent_is_never_sent_again(client, tmp_path, answer):
    async with serving(tmp_path / "s", NO_CONTENT, answer, None) as server:
        await client.request("PUT", "/first", timeout=5)
        server.answers = [answer] if answer else [None]
        with pytest.raises(AnswerLostError):
            await client.request("PUT", "/second", timeout=5)
    assert len(server.requests) == 2


async def test_an_answer_without_end_is_none(client, tmp_path):
    async with serving(tmp_path / "s", with_body(b"x" * (2 << 20)), NO_CONTENT):
        with pytest.raises(AnswerLostError, match="longer"):
            await client.request("GET", "/", timeout=5)
        assert (await client.request("GET", "/", timeout=5)).status == 204


async def test_what_a_server_says_before_it_hangs_up_is_heard(client, tmp_path):
    """As when it has too many connections already."""

    async def full(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(with_body(b'{ "error": "Too many open connections" }', 503, b"Connection: close"))
        writer.close()

    async with await asyncio.start_unix_server(full, tmp_path / "s"):
        await client.connect(5)
        for _ in range(2):
            answer = await client.request("GET", "/", timeout=5)
            assert answer == Answer(503, {"error": "Too many open connections"}, answer.headers)


async def test_a_server_that_hangs_up_at_once_was_asked_nothing(client, tmp_path):
    async def gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(gone, tmp_path / "s"):
        with pytest.raises(ConnectionError):
            await client.request("GET", "/", timeout=5)


async def test_the_kernel_says_who_listens(client, tmp_path):
    async with serving(tmp_path / "s", NO_CONTENT) as server:
        peer = await client.connect(5)
        assert peer is not None
        assert peer.pid == os.getpid()
        assert (await client.request("GET", "/", timeout=5)).ok
    assert server.connections == 1


async def test_cancelling_gives_the_connection_up(client, tmp_path):
    never = asyncio.Event()
    async with serving(tmp_path / "s", with_body(b"1"), with_body(b"2")) as server:
        server.before = never.wait
        asking = asyncio.create_task(client.request("GET", "/", timeout=5))
        await until(lambda: server.requests)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        server.before = None
        assert (await client.request("GET", "/", timeout=5)).ok
        never.set()
