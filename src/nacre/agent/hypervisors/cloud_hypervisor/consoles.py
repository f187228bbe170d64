"""The agent's side of the keeper of a console: started beside a machine, found again, and there for as long as it runs.

Cloud Hypervisor serves its serial port on a socket or writes it to a file (which it empties first), not both. The log
must grow without an agent, so a small process (`console_keeper.py`) has the socket, writes the log and lets us in.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

import structlog

from nacre.agent.hypervisors import console_keeper
from nacre.agent.hypervisors.cloud_hypervisor import paths
from nacre.agent.hypervisors.doors import is_keeper
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch
from nacre.lib import processes
from nacre.lib.processes import Process

PROGRAM = Path(console_keeper.__file__)
_BEGUN_S = 10.0
_LOOK_S = 0.002
_AGAIN_S = 1.0

log = structlog.get_logger()


class Console:
    """Watches over the keeper of one machine, and starts another one when it has ended before the machine."""

    def __init__(self, launch: Launch, hypervisor: Process, keeper: Process | None) -> None:
        self._launch = launch
        self._hypervisor = hypervisor
        self._keeper = keeper
        self._watching = asyncio.create_task(self._watch())

    @classmethod
    async def begin(cls, launch: Launch, hypervisor: Process) -> "Console":
        """Start a keeper, and return when clients may come. Raises DriverError."""
        return cls(launch, hypervisor, await _start(launch, hypervisor))

    @classmethod
    async def find(cls, launch: Launch, hypervisor: Process) -> "Console":
        """Find the keeper of a machine that outlived the agent, or have one started."""
        peer = await processes.listener(launch.run_directory / paths.CONSOLE_SOCKET)
        found = peer is not None and is_keeper(peer, hypervisor.pid)
        keeper = Process.open(peer.pid, peer.start_time) if peer is not None and found else None
        return cls(launch, hypervisor, keeper)

    async def end(self, timeout: float) -> None:
        """The machine has ended: return when its last words are written down, or after `timeout` seconds."""
        await self._stop_watching()
        if self._keeper is not None:
            if not await self._keeper.wait(timeout):
                await self._keeper.kill()
            self._keeper.close()

    async def leave(self) -> None:
        """Let go; the keeper stays."""
        await self._stop_watching()
        if self._keeper is not None:
            self._keeper.close()

    async def _watch(self) -> None:
        while True:
            if self._keeper is None or await self._keeper.wait():
                if not self._hypervisor.alive():
                    return
                log.warning("guest.console_lost", vm=self._launch.vm, next="another keeper is started")
                await self._renew()

    async def _renew(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        try:
            self._keeper = await _start(self._launch, self._hypervisor)
        except (DriverError, OSError) as error:
            log.warning("guest.console_failed", vm=self._launch.vm, error=str(error), next="try again")
            await asyncio.sleep(_AGAIN_S)

    async def _stop_watching(self) -> None:
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching


async def _start(launch: Launch, hypervisor: Process) -> Process:
    console = launch.run_directory / paths.CONSOLE_SOCKET
    console.unlink(missing_ok=True)
    words = [sys.executable, "-I", "-S", str(PROGRAM), str(hypervisor.pid), str(hypervisor.start_time)]
    words += [str(launch.run_directory / paths.SERIAL_SOCKET), str(console), str(launch.directory / paths.CONSOLE_LOG)]
    keeper = processes.spawn(words, output=launch.directory / paths.HYPERVISOR_LOG)
    deadline = asyncio.get_running_loop().time() + _BEGUN_S
    try:
        while not console.exists():
            if await keeper.wait(_LOOK_S) or asyncio.get_running_loop().time() > deadline:
                raise DriverError(
                    "console_failed",
                    "the keeper of the machine's console does not begin",
                    hint="the node keeps its last words in hypervisor.log in the machine's directory",
                )
    except BaseException:
        await asyncio.shield(keeper.kill())
        keeper.close()
        raise
    return keeper
