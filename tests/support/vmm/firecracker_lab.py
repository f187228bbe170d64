"""A bench for the driver of Firecracker: programs in the PATH, taps that are files, a record of all requests."""

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker.driver import FirecrackerHypervisor
from nacre.agent.hypervisors.launch import DiskFile, Launch, TapNic
from support.machines import Bench, Watch, printed, ready
from support.vmm import faults, firecracker, firecracker_files, swagger, wire
from support.vmm.installed import install
from support.waiting import until


@dataclass
class FirecrackerLab(Bench):
    """A bench with the driver and its stand-ins."""

    driver: FirecrackerHypervisor = field(init=False)

    def set_up(self, monkeypatch: pytest.MonkeyPatch, version: str = firecracker.LATEST) -> None:
        """Put everything where the driver finds it."""
        programs = install(self.root / "bin", firecracker="firecracker", jailer="jailer")
        self.taps.mkdir()
        self.taps.chmod(0o755)  # for users in jails
        self.kernel.write_bytes(b"\x7fELF")
        self.trace.touch()
        (self.root / "kvm").touch()
        self.trace.chmod(0o666)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv(wire.TRACE, str(self.trace))
        monkeypatch.setenv(faults.FAULTS, str(self.root / "faults"))
        monkeypatch.setenv(firecracker.VERSION, version)
        monkeypatch.setenv(firecracker_files.TAPS, str(self.taps))
        self.driver = FirecrackerHypervisor(state_directory=self.root / "state", kvm=self.root / "kvm")

    @property
    def taps(self) -> Path:
        """A folder of taps."""
        return self.root / "taps"

    @property
    def kernel(self) -> Path:
        """A kernel, as far as a stand-in looks."""
        return self.root / "vmlinux"

    @property
    def trace(self) -> Path:
        """What the stand-ins were asked."""
        return self.root / "trace"

    def disk(self, name: str = "root", size: int = 1 << 20, **changes: object) -> DiskFile:
        """A raw disk of this host."""
        path = self.root / f"{name}.raw"
        path.touch()
        os.truncate(path, size)
        return DiskFile(**({"id": name, "path": path, "format": "raw"} | changes))  # type: ignore[arg-type]

    def nic(self, name: str = "nic-0", device: str = "tap0", last: int = 1) -> TapNic:
        """A NIC on a tap of this host."""
        (self.taps / device).touch()
        (self.taps / device).chmod(0o666)  # for users in jails
        return TapNic(id=name, mac=f"52:4e:00:00:00:{last:02x}", device=device)

    def launch(self, **changes: object) -> Launch:
        """A machine that boots."""
        return super().launch(**({"kernel": self.kernel, "nics": (), "disks": (self.disk(),)} | changes))  # type: ignore[arg-type]

    async def started(self, **changes: object):
        """A guest that has booted, and what it tells."""
        launch = self.launch(**changes)
        try:
            guest = self.keep(await self.driver.start(launch))
        except DriverError as error:
            words = launch.directory / "hypervisor.log"
            error.add_note(words.read_text() if words.exists() else "it has said nothing")
            raise
        await ready(guest)
        return launch, guest, Watch(guest)

    def spoil(self, *found: faults.Fault) -> None:
        """Have this go wrong from now on."""
        (self.root / "faults").write_text(json.dumps([vars(each) for each in found]))

    def check_requests(self) -> None:
        """Hold all that was asked against the official document, if that is here."""
        if swagger.document() is not None:
            swagger.check_trace(self.trace)


async def laboratory(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[FirecrackerLab]:
    """A bench for one test, whose requests are checked when it is over."""
    made = FirecrackerLab()
    made.set_up(monkeypatch)
    yield made
    made.check_requests()
    await made.close()


async def refused(awaitable, code: str) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await awaitable
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


async def config(guest) -> dict:
    return dict(await guest._api.ask("/vm/config", timeout=5))


async def type_on(guest, text: str) -> None:
    _, writer = await asyncio.open_unix_connection(guest.console_socket)
    writer.write(text.encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def is_free(launch) -> bool:
    with (launch.directory / "lock").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def leftovers(launch) -> list[str]:
    return sorted(path.name for path in launch.run_directory.iterdir())


async def noted(lab, **changes):
    """A paused guest that remembers something."""
    launch, guest, _ = await lab.started(**changes)
    await type_on(guest, "note the answer\n")
    await until(lambda: "note the answer" in printed(guest))
    await guest.pause()
    return launch, guest


def folder(lab) -> Path:
    made = lab.root / "checkpoint"
    made.mkdir()
    return made


async def remembers(guest) -> None:
    assert await guest.state() is GuestState.PAUSED
    await guest.resume()
    await type_on(guest, "notes\n")
    await until(lambda: "\nthe answer" in printed(guest))
