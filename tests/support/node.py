"""A node in this process: the agent's executor over the fake hypervisor, and what it tells. No control plane.

`Node.die` lets go of everything at once as SIGKILL would, so that a new executor finds what an agent would find.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacre.agent.consoles import Consoles
from nacre.agent.crossings import Gate
from nacre.agent.executor import Executor
from nacre.agent.host.cgroups import Cgroups, Layout
from nacre.agent.host.proof import AccelerationProof
from nacre.agent.hypervisors import registry
from nacre.agent.hypervisors.base import Hypervisor
from nacre.agent.images.cache import ImageCache
from nacre.agent.records import Record, RecordStore
from nacre.agent.storage.directory import DirectoryStorage
from nacre.agent.vms.host import Host
from nacre.agent.volumes.pools import Pools
from nacre.lib import processes
from nacre.lib.clock import SystemClock
from nacre.model.ids import ImageId, VmId
from nacre.model.images import Role
from nacre.model.vms import Phase, VmIntent, VmObserved
from support.crossing import Nobody
from support.guards import is_guard
from support.intents import KERNEL, node_intent
from support.waiting import until


@dataclass
class Node:
    """One node."""

    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="nacre-")))
    told: list[VmObserved] = field(default_factory=list[VmObserved])
    copied: int = 0
    fetched: int = 0
    driver: Hypervisor | None = None
    gate: Gate = field(default_factory=Nobody)
    pool_roots: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vms", "images", "run"):
            (self.root / name).mkdir(exist_ok=True)
        self.driver = self.driver or registry.load("fake", self.root / "state")
        self.records = RecordStore(self.root)
        self.pools = Pools(self.root, clock=SystemClock(), roots=self.pool_roots)
        self.pools.prepare()
        self.consoles = Consoles()
        self.host = self._host()
        self.executor = self._executor()

    async def begin(self) -> "Node":
        """Start the executor."""
        await self.executor.begin()
        return self

    def want(self, *vms: VmIntent, teardown_allowed: bool = True) -> None:
        """Give it a desired state."""
        self.executor.want(node_intent(*vms, teardown_allowed=teardown_allowed))

    async def restart(self) -> None:
        """The agent leaves properly and another one comes."""
        await self.executor.close()
        self.consoles.close()
        self.consoles = Consoles()
        self.host = self._host()
        self.executor = self._executor()
        await self.executor.begin()

    def newest(self, vm: VmId) -> VmObserved | None:
        """What was told of a machine last."""
        return next((each for each in reversed(self.told) if each.id == vm), None)

    def phases(self, vm: VmId) -> list[Phase]:
        """How a machine went, in order, without repetitions."""
        found: list[Phase] = []
        for each in self.told:
            if each.id == vm and (not found or found[-1] is not each.phase):
                found.append(each.phase)
        return found

    async def shows(self, vm: VmId, phase: Phase, generation: int = 1, timeout: float = 60) -> VmObserved:
        """Wait until the newest fact is this phase at this generation."""

        def seen() -> VmObserved | None:
            newest = self.newest(vm)
            return newest if newest and (newest.phase, newest.generation) == (phase, generation) else None

        return await until(seen, timeout=timeout)  # type: ignore[return-value]

    def record(self, vm: VmId) -> Record:
        """What is on disk about a machine."""
        return RecordStore(self.root).load_all()[vm]

    def pid(self, vm: VmId) -> int:
        """The process of a machine, by its record."""
        run = self.record(vm).run
        assert run is not None
        return int(str(run.handle["pid"]))

    def pids(self) -> list[int]:
        """Every guest process of this node, by what the kernel says."""
        return guest_pids(self.root)

    async def close(self) -> None:
        """Leave nothing behind."""
        await self.executor.close()
        self.consoles.close()
        for pid in self.pids():
            await processes.kill(pid, processes.start_time(pid) or 0)
        shutil.rmtree(self.root, ignore_errors=True)

    def _executor(self) -> Executor:
        return Executor(
            self.host,
            self.consoles,
            lines=Nobody(),
            gate=self.gate,
            told=self.told.append,
            forgotten=lambda _vm: None,
            copied=self._note_copies,
        )

    def _note_copies(self) -> None:
        self.copied += 1

    def _host(self, **changes: Any) -> Host:
        assert self.driver is not None
        values: dict[str, Any] = {
            "directory": self.root,
            "run_directory": self.root / "run",
            "records": self.records,
            "images": ImageCache(
                self.root / "images", limit_bytes=1 << 30, fetch=self._fetch, needed=lambda: frozenset()
            ),
            "storage": DirectoryStorage(),
            "pools": self.pools,
            "hypervisors": {"fake": self.driver},
            "cgroups": Cgroups(Layout(0, reason="not in tests")),
            "proof": AccelerationProof(()),
            "clock": SystemClock(),
            "random": lambda: 0.0,
        }
        return Host(**(values | changes))

    async def _fetch(self, image: ImageId, role: Role, offset: int) -> AsyncIterator[bytes]:
        self.fetched += 1
        await asyncio.sleep(0)
        yield KERNEL[offset:]


def guest_pids(root: Path) -> list[int]:
    """Every fake guest whose configuration lies under `root`, zombies aside."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"fake_guest.py" in words and not is_guard(words) and os.fsencode(root) in words and state not in "ZX":
            found.append(int(entry.name))
    return found
