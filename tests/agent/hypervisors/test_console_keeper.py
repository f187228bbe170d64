"""The keeper of a console: what it writes down, whom it lets in, and when it ends."""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nacre.agent.hypervisors import console_keeper
from nacre.lib import processes
from support.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="only for hypervisors of Linux"),
]


@dataclass
class Stage:
    """A process in place of the hypervisor, its serial socket served by the test, and a keeper."""

    root: Path
    hypervisor: subprocess.Popen[bytes]
    server: socket.socket
    keeper: subprocess.Popen[bytes]

    def guest(self) -> socket.socket:
        """The hypervisor's end of the line."""
        self.server.settimeout(10)
        line, _ = self.server.accept()
        line.settimeout(10)
        return line

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(str(self.root / "console"))
        return client

    @property
    def log(self) -> bytes:
        return (self.root / "log").read_bytes()


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


@pytest.fixture
async def stage(request, tmp_path) -> AsyncIterator[Stage]:
    hypervisor = subprocess.Popen(["sleep", "1000"], user=getattr(request, "param", None))
    start = processes.start_time(hypervisor.pid)
    words = [sys.executable, "-I", "-S", console_keeper.__file__, str(hypervisor.pid), str(start)]
    keeper = subprocess.Popen([*words, *(str(tmp_path / name) for name in ("serial", "console", "log"))])
    made = Stage(tmp_path, hypervisor, listening(tmp_path / "serial"), keeper)
    await until((tmp_path / "console").exists, every=0.001)
    yield made
    for process in (hypervisor, keeper):
        process.kill()
        process.wait()
    made.server.close()


def received(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = line.recv(65536)
        assert part
        data += part
    return data


async def test_what_is_printed_is_written_down_and_shown_to_a_client_who_may_type(stage):
    with stage.guest() as guest:
        guest.sendall(b"booting\r\n")
        await until(lambda: stage.log == b"booting\r\n")
        with stage.client() as client:
            client.sendall(b"ls\n")
            assert received(guest, 3) == b"ls\n"
            guest.sendall(b"file\r\n")
            assert received(client, 6) == b"file\r\n"
    assert stage.log == b"booting\r\nfile\r\n"
    assert (stage.root / "log").stat().st_mode & 0o777 == 0o600


async def test_clients_come_one_after_the_other(stage):
    with stage.guest() as guest, stage.client() as first, stage.client() as second:
        first.sendall(b"1")
        assert received(guest, 1) == b"1"
        second.sendall(b"2")
        guest.sendall(b"for the first")
        assert received(first, 13) == b"for the first"
        first.close()
        assert received(guest, 1) == b"2"
        guest.sendall(b"for the second")
        assert received(second, 14) == b"for the second"


async def test_the_line_is_found_again_after_a_reset(stage):
    with stage.client() as client:
        for boot in (b"one", b"two", b"six"):
            with stage.guest() as guest:
                client.sendall(b"?")
                assert received(guest, 1) == b"?"
                guest.sendall(boot)
                assert received(client, 3) == boot
            stage.server.close()
            (stage.root / "serial").unlink()
            stage.server = listening(stage.root / "serial")
    assert stage.log == b"onetwosix"


async def test_a_log_that_is_cut_goes_on_from_there(stage):
    with stage.guest() as guest:
        guest.sendall(b"old")
        await until(lambda: stage.log == b"old")
        os.truncate(stage.root / "log", 0)
        guest.sendall(b"new")
        await until(lambda: stage.log == b"new")


async def test_a_client_that_does_not_read_holds_nobody_up(stage):
    page = b"x" * 65536
    with stage.guest() as guest, stage.client():
        for _ in range(64):
            guest.sendall(page)
        await until(lambda: len(stage.log) == 64 * len(page))


async def test_a_guest_that_does_not_read_is_given_all_that_was_typed(stage):
    typed = bytes(range(256)) * 8192
    with stage.guest() as guest, stage.client() as client:
        client.setblocking(False)
        sent = 0
        taken = b""
        while len(taken) < len(typed):
            try:
                sent += client.send(typed[sent : sent + 65536])
            except BlockingIOError:
                taken += guest.recv(65536)
            else:
                if sent == len(typed):
                    taken += guest.recv(65536)
    assert taken == typed


async def test_it_ends_with_the_hypervisor_and_writes_down_its_last_words(stage):
    with stage.guest() as guest:
        guest.sendall(b"last words")
    stage.hypervisor.kill()
    stage.hypervisor.wait()
    assert stage.keeper.wait(10) == 0
    assert stage.log == b"last words"


async def test_it_keeps_nothing_for_a_process_that_is_another_one_by_now(tmp_path):
    words = [str(tmp_path / name) for name in ("serial", "console", "log")]
    for process in ([str(os.getpid()), "1"], ["999999999", "1"]):
        subprocess.run([sys.executable, console_keeper.__file__, *process, *words], check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
@pytest.mark.parametrize("stage", [60124], indirect=True)
async def test_a_console_that_another_user_serves_is_not_its_hypervisors(stage):
    with stage.guest() as stranger:
        assert stranger.recv(1) == b""
    assert stage.log == b""


async def test_it_is_small(stage):
    with stage.guest():
        status = Path(f"/proc/{stage.keeper.pid}/status").read_text()
        held = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")}
        assert held["RssAnon"] < 6 << 10
