"""A bench for the driver of Firecracker: programs in the PATH, taps that are files, a record of all requests."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nacre.agent.hypervisors.firecracker.driver import FirecrackerHypervisor
from nacre.agent.hypervisors.launch import DiskFile, Launch, TapNic
from support.machines import Bench, Watch, ready
from support.vmm import faults, firecracker, firecracker_files, swagger, wire
from support.vmm.installed import install

BINARY = "NACRE_FIRECRACKER"
JAILER = "NACRE_JAILER"
"""Environment variables that name the real ones, by absolute paths."""


@dataclass
class FirecrackerLab(Bench):
    """A bench with the driver and its stand-ins."""

    driver: FirecrackerHypervisor = field(init=False)

    def set_up(self, monkeypatch: pytest.MonkeyPatch, version: str = firecracker.LATEST) -> None:
        """Put everything where the driver finds it."""
        programs = install(self.root / "bin", firecracker="firecracker", jailer="jailer")
        self.taps.mkdir()
        self.kernel.write_bytes(b"\x7fELF")
        self.trace.touch()
        self.trace.chmod(0o666)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv(wire.TRACE, str(self.trace))
        monkeypatch.setenv(faults.FAULTS, str(self.root / "faults"))
        monkeypatch.setenv(firecracker.VERSION, version)
        monkeypatch.setenv(firecracker_files.TAPS, str(self.taps))
        self.driver = FirecrackerHypervisor(state_directory=self.root / "state", kvm=self.root)

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
        guest = self.keep(await self.driver.start(launch))
        await ready(guest)
        return launch, guest, Watch(guest)

    def spoil(self, *found: faults.Fault) -> None:
        """Have this go wrong from now on."""
        (self.root / "faults").write_text(json.dumps([vars(each) for each in found]))

    def check_requests(self) -> None:
        """Hold all that was asked against the official document, if that is here."""
        if swagger.document() is not None:
            swagger.check_trace(self.trace)
