"""Who may be at the other end of a socket in a machine's folder."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nacre.agent.hypervisors import console_keeper
from nacre.agent.hypervisors.doors import Door, is_keeper
from nacre.lib import processes
from support.waiting import until

MACHINE, OTHER = 60001, 60002

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can be several users, on Linux"),
]

_SERVE = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen(); print("ready", flush=True)
while True: server.accept()[0].sendall(b"hello")
"""


@contextlib.contextmanager
def served_by(user: int, path: Path) -> Iterator[int]:
    """A process of a user that listens there."""
    path.parent.chmod(0o777)
    for above in path.parent.parents:
        if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
    words = ["/usr/bin/python3", "-I", "-S", "-c", _SERVE, str(path)]
    server = subprocess.Popen(words, user=user, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    yield server.pid
    server.kill()
    server.wait()
    server.stdout.close()


@pytest.fixture
def hypervisor() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "1000"], user=MACHINE)
    yield process.pid
    process.kill()
    process.wait()


async def said(door: Door) -> bytes:
    reader, writer = await door.open()
    try:
        return await reader.read(5)
    finally:
        writer.close()


async def test_the_machines_own_user_is_let_in(hypervisor, tmp_path):
    with served_by(MACHINE, tmp_path / "screen"):
        assert await said(Door(tmp_path / "screen", hypervisor)) == b"hello"


@pytest.mark.parametrize("user", [OTHER, 0])
async def test_whoever_a_link_leads_to_is_not_spoken_to(hypervisor, tmp_path, user):
    folder = tmp_path / "of another"
    folder.mkdir()
    with served_by(user, folder / "screen"):
        (tmp_path / "screen").symlink_to(folder / "screen")
        with pytest.raises(PermissionError):
            await said(Door(tmp_path / "screen", hypervisor))


async def test_what_the_agent_itself_serves_is_let_in(hypervisor, tmp_path):
    async def serve(_reader, writer):
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "console")
    assert await said(Door(tmp_path / "console", hypervisor)) == b"hello"
    server.close()


async def test_where_hypervisors_run_as_the_agent_does_nothing_is_asked(tmp_path):
    with served_by(OTHER, tmp_path / "screen"):
        assert await said(Door(tmp_path / "screen", os.getpid())) == b"hello"


@pytest.fixture
async def keeper(hypervisor, tmp_path) -> AsyncIterator[Path]:
    start = processes.start_time(hypervisor)
    words = [sys.executable, "-I", "-S", console_keeper.__file__, str(hypervisor), str(start)]
    process = subprocess.Popen([*words, *(str(tmp_path / name) for name in ("serial", "console", "log"))])
    await until((tmp_path / "console").exists, every=0.001)
    yield tmp_path / "console"
    process.kill()
    process.wait()


async def test_the_keeper_of_the_machines_console_is_let_in_and_that_of_another_is_not(hypervisor, keeper):
    _, writer = await Door(keeper, hypervisor).open()
    writer.close()
    other = subprocess.Popen(["sleep", "1000"], user=OTHER)
    try:
        with pytest.raises(PermissionError):
            await Door(keeper, other.pid).open()
    finally:
        other.kill()
        other.wait()


async def test_a_keeper_is_known_by_what_it_was_started_with_and_by_whom(hypervisor, keeper):
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(keeper))
        peer = processes.peer(probe)
    assert peer is not None
    assert is_keeper(peer, hypervisor)
    assert not is_keeper(peer, os.getpid())
    mine = processes.start_time(os.getpid())
    assert mine is not None
    assert not is_keeper(processes.Peer(pid=os.getpid(), start_time=mine), hypervisor)
