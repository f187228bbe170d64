"""The process that emulates a TPM: there before its machine, gone after it, never two, never left over."""

import shutil
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nacre.agent.host import locks
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.vms import tpm
from nacre.model.ids import VmId
from support.waiting import until

pytestmark = pytest.mark.anyio
needs_swtpm = pytest.mark.skipif(shutil.which(tpm.PROGRAM) is None, reason="no swtpm here (apt-get install swtpm)")

VM = VmId("vm-1")
SET_DATA_CHANNEL = 0x10  # tpm_ioctl.h, CMD_SET_DATAFD: what a hypervisor sends first


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Any]:
    place, run = tmp_path / "place", tmp_path / "run"
    place.mkdir()
    run.mkdir()
    added: list[int] = []
    made = SimpleNamespace(
        place=lambda _vm: place,
        run_place=lambda _vm: run,
        cgroups=SimpleNamespace(add=lambda _vm, pid, _memory: added.append(pid)),
        added=added,
    )
    yield made
    await tpm.end(VM, made)


def running(host: Any) -> list[int]:
    return [pid for pid, _ in locks.holders(host.place(VM) / tpm.LOCK)]


@needs_swtpm
async def test_it_listens_and_is_put_beside_the_machine(host: Any) -> None:
    path = await tpm.start(VM, host)
    assert path.is_socket()
    assert running(host) == host.added
    assert len(host.added) == 1
    assert list((host.place(VM) / tpm.STATE).parent.glob("tpm*"))


@needs_swtpm
async def test_one_that_an_agent_left_is_ended_before_another_begins(host: Any) -> None:
    await tpm.start(VM, host)
    (first,) = running(host)
    (host.run_place(VM) / tpm.SOCKET).unlink(missing_ok=True)
    await tpm.start(VM, host)
    (second,) = running(host)
    assert first != second
    await tpm.end(VM, host)
    assert running(host) == []
    await tpm.end(VM, host)


@needs_swtpm
async def test_it_ends_by_itself_when_the_hypervisor_lets_go(host: Any) -> None:
    path = await tpm.start(VM, host)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(connection, [struct.pack(">I", SET_DATA_CHANNEL)], [theirs.fileno()])
            assert connection.recv(4) == bytes(4)
    await until(lambda: running(host) == [])


async def test_without_the_program_the_node_says_what_to_install(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpm, "PROGRAM", "swtpm-that-is-not-there")
    with pytest.raises(DriverError) as refused:
        await tpm.start(VM, host)
    assert refused.value.code == "tpm_missing"
    assert locks.is_free(host.place(VM) / tpm.LOCK)
