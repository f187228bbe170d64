"""Consoles: many viewers, scrollback without gaps or repetitions, nobody waits for the slow."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nacre.agent import consoles as module
from nacre.agent.console_logs import LOG_LIMIT
from nacre.agent.consoles import Consoles
from nacre.agent.hypervisors.doors import Door
from nacre.errors import ConflictError, NotFoundError, UnavailableError
from nacre.model.ids import VmId
from support.patience import within
from support.waiting import until

pytestmark = pytest.mark.anyio

VM = VmId("vm-1")


class Serial:
    """The serial port of a machine as QEMU has it: what is printed goes to the log, and to who is connected."""

    def __init__(self, root: Path) -> None:
        self.socket = root / "console.sock"
        self.log = root / "console.log"
        self.typed = b""
        self._client: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None

    async def open(self) -> "Serial":
        self._server = await asyncio.start_unix_server(self._serve, self.socket)
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        if self._client is not None:
            self._client.close()
        self._client = None
        self.socket.unlink(missing_ok=True)

    @property
    def connected(self) -> bool:
        return self._client is not None

    def print(self, data: bytes) -> None:
        with self.log.open("ab") as log:
            log.write(data)
        if self._client is not None:
            self._client.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = writer
        with contextlib.suppress(OSError):
            while data := await reader.read(1000):
                self.typed += data


class Looker:
    """Somebody who looks at a console."""

    def __init__(self, consoles: Consoles, tail: int = 65536) -> None:
        self.seen = b""
        self.error: Exception | None = None
        self.done = asyncio.Event()
        self.typing: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._look(consoles, tail))

    async def _look(self, consoles: Consoles, tail: int) -> None:
        try:
            async with consoles.viewer(VM, tail) as viewer:
                self.viewer = viewer
                async for data in viewer:
                    self.seen += data
        except UnavailableError as error:
            self.error = error
        finally:
            self.done.set()

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def serial() -> AsyncIterator[Serial]:
    root = Path(tempfile.mkdtemp(prefix="nacre-"))
    made = await Serial(root).open()
    yield made
    await made.close()
    shutil.rmtree(root)


@pytest.fixture
async def consoles(serial: Serial) -> AsyncIterator[Consoles]:
    made = Consoles()
    yield made
    made.close()
    await asyncio.sleep(0)


async def attached(consoles: Consoles, serial: Serial) -> None:
    consoles.attach(VM, Door(serial.socket, os.getpid()), serial.log)
    await until(lambda: serial.connected)


async def test_a_viewer_sees_what_was_printed_before_and_then_what_is_printed(consoles, serial):
    serial.print(b"before ")
    await attached(consoles, serial)
    serial.print(b"between ")
    await asyncio.sleep(0.05)
    looker = Looker(consoles)
    await until(lambda: looker.seen == b"before between ")
    serial.print(b"after")
    await until(lambda: looker.seen == b"before between after")
    await looker.leave()


async def test_nothing_is_missing_or_repeated_around_the_moment_of_connecting(consoles, serial):
    consoles.attach(VM, Door(serial.socket, os.getpid()), serial.log)
    looker = Looker(consoles)
    for number in range(300):
        serial.print(b"%d\n" % number)
        await asyncio.sleep(0)
    await until(lambda: looker.seen.endswith(b"299\n") or b"299\n" in serial.log.read_bytes())
    late = Looker(consoles)
    await until(lambda: late.seen == serial.log.read_bytes())
    await late.leave()
    await looker.leave()


async def test_every_viewer_sees_everything_and_all_may_type(consoles, serial):
    await attached(consoles, serial)
    lookers = [Looker(consoles) for _ in range(3)]
    await asyncio.sleep(0.01)
    serial.print(b"hello")
    for looker in lookers:
        await until(lambda each=looker: each.seen == b"hello")
        await looker.viewer.send(b"x")
    await until(lambda: serial.typed == b"xxx")
    for looker in lookers:
        await looker.leave()


async def test_a_viewer_that_does_not_keep_up_is_dropped_and_the_others_are_not(consoles, serial, monkeypatch):
    monkeypatch.setattr(module, "VIEWER_LIMIT", 100_000)
    await attached(consoles, serial)
    quick = Looker(consoles)
    async with consoles.viewer(VM, 0) as slow:
        for _ in range(30):
            serial.print(b"y" * 10_000)
            await asyncio.sleep(0.001)
        await until(lambda: len(quick.seen) == 300_000)
        with pytest.raises(UnavailableError) as caught:
            async for _ in slow:
                pass
    assert caught.value.code == "viewer_too_slow"
    assert quick.error is None
    await quick.leave()


async def test_scrollback_is_bounded_and_a_viewer_gets_as_much_as_it_asked_for(consoles, serial, monkeypatch):
    monkeypatch.setattr(module, "SCROLLBACK", 1000)
    await attached(consoles, serial)
    serial.print(b"a" * 5000 + b"end")
    await until(lambda: len(consoles._hubs[VM]._scrollback) == 1000)
    looker = Looker(consoles, tail=13)
    await until(lambda: looker.seen == b"a" * 10 + b"end")
    await looker.leave()


async def test_viewers_see_a_machine_come_back_with_all_that_it_printed_meanwhile(consoles, serial):
    serial.print(b"first life. ")
    await attached(consoles, serial)
    looker = Looker(consoles)
    await until(lambda: looker.seen == b"first life. ")
    consoles.lost(VM)
    await serial.close()
    serial.print(b"second life. ")
    await serial.open()
    await attached(consoles, serial)
    await until(lambda: looker.seen == b"first life. second life. ")
    serial.print(b"more")
    await until(lambda: looker.seen.endswith(b"more"))
    consoles.end(VM)
    async with within(5):
        await looker.done.wait()
    assert looker.error is None


async def test_a_lost_connection_is_made_again_without_repeating_anything(consoles, serial):
    await attached(consoles, serial)
    looker = Looker(consoles)
    serial.print(b"once ")
    await until(lambda: looker.seen == b"once ")
    await serial.close()
    await asyncio.sleep(0.1)
    serial.print(b"unheard ")
    await serial.open()
    await until(lambda: serial.connected)
    serial.print(b"again")
    await until(lambda: looker.seen == b"once unheard again")
    await looker.leave()


async def test_a_machine_that_is_off_has_no_console_but_a_log(consoles, serial):
    with pytest.raises(ConflictError) as caught:
        async with consoles.viewer(VM, 0):
            pass
    assert caught.value.code == "vm_not_running"
    with pytest.raises(NotFoundError):
        async with consoles.stored(serial.log, 100):
            pass
    serial.print(b"0123456789")
    async with consoles.stored(serial.log, 4) as stored:
        await stored.send(b"ignored")
        assert [data async for data in stored] == [b"6789"]


async def test_the_log_does_not_outgrow_its_limit_while_the_machine_runs(consoles, serial, monkeypatch):
    monkeypatch.setattr(module, "LOG_LIMIT", 40_000)
    monkeypatch.setattr(module, "trim", lambda path: cut(path))
    calls: list[Path] = []

    def cut(path: Path) -> int:
        calls.append(path)
        return 0

    await attached(consoles, serial)
    for _ in range(10):
        serial.print(b"z" * 5000)
        await asyncio.sleep(0.01)
    await until(lambda: len(calls) >= 4)


async def test_logs_are_bounded_without_a_socket_and_beside_one(serial, consoles, monkeypatch):
    monkeypatch.setattr(module, "_BOUND_S", 0.05)
    others = [serial.log.with_name(name) for name in ("virtio-console.log", "hypervisor.log")]
    logs = [serial.log, *others]
    await serial.close()  # as with a console that is a file or a pseudo-terminal
    consoles.attach(VM, Door(serial.socket, os.getpid()), serial.log)
    for _ in range(2):
        for path in logs:
            with path.open("ab") as file:
                file.write(b"line\n" * (1 << 20))
        await until(lambda: all(path.stat().st_size <= LOG_LIMIT for path in logs))
    await serial.open()
    await until(lambda: serial.connected)
    for path in others:
        with path.open("ab") as file:
            file.write(b"line\n" * (1 << 20))
    await until(lambda: all(path.stat().st_size <= LOG_LIMIT for path in others))
