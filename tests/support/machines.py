"""Launches for driver tests: directories, a lock and ids for one machine, and what its console printed."""

import asyncio
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from nacre.agent.hypervisors import guarding
from nacre.agent.hypervisors.base import Guest, GuestEvent, GuestState
from nacre.agent.hypervisors.launch import Launch, UserNic
from nacre.lib import processes
from nacre.lib.clock import SystemClock
from nacre.model.ids import RunId, VmId, make_id
from nacre.model.units import MIB
from nacre.model.vms import MachineType, PublishedPort
from support.patience import within
from support.waiting import until

READY = re.compile("NACRE-TINY ready.*\n")


@dataclass
class Bench:
    """Where the machines of one test live. `close` ends every process that it was told of."""

    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="nacre-")))
    guests: list[Guest] = field(default_factory=list[Guest])
    locks: list[int] = field(default_factory=list[int])

    def launch(self, *, publish: tuple[PublishedPort, ...] = (), **changes: object) -> Launch:
        """Everything for one life of a new machine."""
        vm = VmId(make_id("vm", datetime.now(UTC), secrets.token_bytes(10)))
        directory = self.root / "vms" / vm
        run_directory = self.root / "run" / vm[-12:]
        directory.mkdir(parents=True)
        run_directory.mkdir(parents=True)
        basis = Launch(
            vm=vm,
            run=RunId(make_id("run", datetime.now(UTC), secrets.token_bytes(10))),
            name="guinea-pig",
            machine=MachineType.Q35,
            cpus=1,
            memory_bytes=128 * MIB,
            directory=directory,
            run_directory=run_directory,
            lock_fd=self.lock(directory),
            nics=(UserNic(id="nic0", mac="52:4e:00:00:00:01", publish=publish),),
        )
        return replace(basis, **changes)  # type: ignore[arg-type]

    def lock(self, directory: Path) -> int:
        """Take the lock of a machine."""
        lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.locks.append(lock)
        return lock

    def lease(self, seconds: float = 3600.0) -> Path:
        """A new lease that lasts so long from now."""
        path = self.root / f"{secrets.token_hex(4)}.lease"
        guarding.write_lease(path, SystemClock().boottime() + seconds)
        return path

    def keep(self, guest: Guest) -> Guest:
        """Remember a guest, to end it when the test is over."""
        self.guests.append(guest)
        return guest

    async def close(self) -> None:
        """Leave nothing behind."""
        for guest in self.guests:
            await processes.kill(guest.handle.pid, guest.handle.start_time)
            await guest.detach()
        for lock in self.locks:
            os.close(lock)
        shutil.rmtree(self.root, ignore_errors=True)


def printed(guest: Guest) -> str:
    """Everything that the console has printed so far."""
    return guest.console_log.read_text(errors="replace") if guest.console_log.exists() else ""


async def ready(guest: Guest, times: int = 1, timeout: float = 150) -> None:
    """Wait until the guest has booted `times` times."""
    await until(lambda: len(READY.findall(printed(guest))) >= times, timeout=timeout)


class Watch:
    """Collects what a guest tells, and lets it go when it has powered off, as the agent would."""

    def __init__(self, guest: Guest) -> None:
        self.events: list[GuestEvent] = []
        self.releases = True
        self._task = asyncio.create_task(self._collect(guest))

    async def _collect(self, guest: Guest) -> None:
        async for event in guest.events():
            self.events.append(event)
            if event.state is GuestState.SHUT_DOWN and self.releases:
                await guest.release()

    async def until(self, state: GuestState, timeout: float = 90) -> GuestEvent:
        """Wait for an event of this state; return the newest one."""
        await until(lambda: any(event.state is state for event in self.events), timeout=timeout)
        return next(event for event in reversed(self.events) if event.state is state)

    async def end(self) -> None:
        """Wait until the guest has said GONE and nothing follows."""
        async with within(20):
            await self._task
