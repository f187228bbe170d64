"""One running Cloud Hypervisor, started or adopted: what it is asked, what it tells, and how its end is understood.

Made by `driver`. It runs with `--no-shutdown`: after the guest has powered off, the process stays without a machine
until it is told to leave, and its event file says that this was a power-off, even if nobody was listening.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from nacre.agent.hypervisors import guarding
from nacre.agent.hypervisors.abilities import (
    GuestCounters,
    MigrationProgress,
    MigrationState,
    MigrationTerms,
    Sizes,
)
from nacre.agent.hypervisors.base import Guard, GuestEvent, GuestState, Handle
from nacre.agent.hypervisors.cloud_hypervisor import checkpoints, events, moving, paths, sizes
from nacre.agent.hypervisors.cloud_hypervisor.api import SILENT, WRONG_STATE, Api, silent
from nacre.agent.hypervisors.cloud_hypervisor.consoles import Console
from nacre.agent.hypervisors.cloud_hypervisor.events import Event, Story
from nacre.agent.hypervisors.cloud_hypervisor.moving import Line
from nacre.agent.hypervisors.cloud_hypervisor.plugs import Plugs
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Disk, Launch, Nic
from nacre.agent.hypervisors.lifecycle import Life
from nacre.lib.processes import Process

_ANSWER_S = 5.0
_ACT_S = 30.0
_SAVE_S = 3600.0
_QUIT_S = 5.0
_CANCEL_S = 15.0
_CONSOLE_S = 0.3
_LAG_S = 0.5
"""Events are written a little later than the state says what has happened."""
_LOOK_S = 0.02

log = structlog.get_logger()


class CloudHypervisorGuest:
    """A machine under Cloud Hypervisor. Fulfils `base.Guest` and the abilities that `driver` names."""

    def __init__(
        self,
        launch: Launch,
        handle: Handle,
        process: Process,
        console: Console | None,
        *,
        past: int = 0,
        arriving: asyncio.Task[None] | None = None,
    ) -> None:
        """`past`: so many events have happened before it came to us, and are no news.

        `arriving` ends when the machine has come from another host, or with a DriverError.
        """
        self._launch = launch
        self._handle = handle
        self._console = console
        self._past = past
        self._api = Api(launch.run_directory / paths.API_SOCKET)
        self._plugs = Plugs(self._api, launch.run_directory)
        self._story = Story()
        self._heard = 0
        self._pressed_reset = False
        self._held = None if arriving is None else GuestState.STARTING
        """What it does while Cloud Hypervisor is busy with a long call, and answers nothing else."""
        self._quitting: asyncio.Task[None] | None = None
        self._line: Line | None = None
        self._guard = guarding.guard_of(process)
        self._life = Life(process, drain=self._drain, clean_up=lambda: clean_up(launch))
        self._following = asyncio.create_task(self._follow())
        self._arriving = None if arriving is None else asyncio.create_task(self._arrive(arriving))

    @property
    def handle(self) -> Handle:
        """How to find it again."""
        return self._handle

    @property
    def guard(self) -> Guard | None:
        """What freezes it when its lease ends."""
        return self._guard

    @property
    def console_socket(self) -> Path:
        """Unix stream socket of the serial console, which its keeper serves."""
        return self._launch.run_directory / paths.CONSOLE_SOCKET

    @property
    def console_log(self) -> Path:
        """File to which the keeper of the console appends what it prints."""
        return self._launch.directory / paths.CONSOLE_LOG

    async def state(self) -> GuestState:
        """Ask Cloud Hypervisor. Raises DriverError if it lives and does not answer."""
        if self._life.gone.is_set() or not self._life.process.alive():
            return GuestState.GONE
        if guarding.is_frozen(self._life.process, self._guard):
            return GuestState.FROZEN
        if self._held is not None:
            return self._held
        try:
            state = await self._understood()
        except DriverError:
            if not self._life.process.alive():
                return GuestState.GONE
            raise
        if state is GuestState.SHUT_DOWN:
            self._powered_off()
        return state

    def events(self) -> AsyncIterator[GuestEvent]:
        """Changes from now on; ends after GONE."""
        return self._life.events()

    async def shutdown(self) -> None:
        """Press the power button. A paused guest is woken, because asleep it could not obey."""
        self._life.asked = True
        try:
            await self._api.put("vm.power-button", timeout=_ACT_S)
        except DriverError as error:
            if error.code != WRONG_STATE or await self.state() not in {GuestState.SHUT_DOWN, GuestState.GONE}:
                raise
            return
        if await self.state() is GuestState.PAUSED:
            await self.resume()

    async def reset(self) -> None:
        """Press the reset button."""
        self._pressed_reset = True
        try:
            await self._api.put("vm.reboot", timeout=_ACT_S)
        except DriverError as error:
            self._pressed_reset = error.code == SILENT
            raise

    async def pause(self) -> None:
        """Stop the virtual CPUs."""
        await self._reach(GuestState.PAUSED, "vm.pause")

    async def resume(self) -> None:
        """Let the virtual CPUs run. They never stood still after a panic, so they do so first."""
        if self._story.panicked:
            await self._reach(GuestState.PAUSED, "vm.pause")
        await self._reach(GuestState.RUNNING, "vm.resume")

    async def release(self) -> None:
        """The power-off is on record."""
        self._life.released.set()

    async def kill(self) -> None:
        """End the process and return when it is gone."""
        await self._life.kill()

    async def detach(self) -> None:
        """Let go; the guest stays."""
        await self._life.leave()
        tasks = [task for task in (self._following, self._quitting, self._arriving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._line is not None:
            await self._line.close()
        if self._console is not None:
            await self._console.leave()
        await self._api.close()

    # Abilities

    async def attach_disk(self, disk: Disk) -> None:
        """Give the guest a disk."""
        await self._plugs.attach_disk(disk)

    async def detach_disk(self, disk: str, timeout: float) -> None:
        """Take a disk back, in `timeout` seconds."""
        await self._plugs.detach(disk, timeout)

    async def attach_nic(self, nic: Nic) -> None:
        """Give the guest a NIC."""
        await self._plugs.attach_nic(nic)

    async def detach_nic(self, nic: str, timeout: float) -> None:
        """Take a NIC back, in `timeout` seconds."""
        await self._plugs.detach(nic, timeout)

    async def sizes(self) -> Sizes:
        """Ask Cloud Hypervisor."""
        return await sizes.sizes(self._api)

    async def resize_cpus(self, cpus: int) -> None:
        """Have the guest run with so many CPUs."""
        await sizes.resize_cpus(self._api, cpus)

    async def resize_memory(self, memory_bytes: int) -> None:
        """Have the guest run with so much memory."""
        await sizes.resize_memory(self._api, memory_bytes)

    async def reclaim(self, reclaim_bytes: int) -> None:
        """Have the balloon take so much from the guest."""
        await sizes.reclaim(self._api, reclaim_bytes)

    async def resize_disk(self, disk: str, size_bytes: int) -> None:
        """Grow a disk, and tell the guest."""
        await sizes.resize_disk(self._api, disk, size_bytes)

    async def counters(self) -> GuestCounters:
        """Ask Cloud Hypervisor."""
        return await sizes.counters(self._api)

    async def save(self, directory: Path) -> None:
        """Write everything but the disks of a paused guest to an empty folder. The guest stays paused."""
        state = await self.state()
        if state is not GuestState.PAUSED:
            raise DriverError(
                WRONG_STATE, f"only a paused machine is saved, and it is {state}", hint="pause the machine first"
            )
        self._held = GuestState.PAUSED
        try:
            with checkpoints.writable(directory, self.handle.pid):
                await self._api.put("vm.snapshot", {"destination_url": f"file://{directory}"}, timeout=_SAVE_S)
        finally:
            self._held = None

    async def migrate(self, socket: Path, terms: MigrationTerms) -> None:
        """Begin to send the guest through a unix stream socket. While it is on its way, this changes nothing."""
        if self._story.migration.state in {MigrationState.COPYING, MigrationState.MOVED}:
            return
        if self._line is not None:
            await self._line.close()
        self._story.migration = MigrationProgress(state=MigrationState.COPYING)
        try:
            self._line = await moving.send(self._api, self._launch.run_directory, socket, terms)
        except BaseException:
            self._story.migration = MigrationProgress(state=MigrationState.NONE)
            raise

    async def migration(self) -> MigrationProgress:
        """Say what Cloud Hypervisor has told, and what has gone through."""
        return moving.progress(self._story.migration, self._line)

    async def cancel_migration(self) -> None:
        """Stop sending, and return when it is known where the guest runs."""
        if self._line is None or self._story.migration.state is not MigrationState.COPYING:
            return
        self._line.cancel()
        deadline = asyncio.get_running_loop().time() + _CANCEL_S
        while self._story.migration.state is MigrationState.COPYING and not self._life.gone.is_set():
            if asyncio.get_running_loop().time() > deadline:
                raise silent()
            await asyncio.sleep(_LOOK_S)

    # Inside

    async def _arrive(self, arriving: asyncio.Task[None]) -> None:
        """Wait for a machine that comes from another host. A process whose machine did not come is of no use."""
        try:
            await arriving
        except DriverError as error:
            if not self._life.process.alive():
                return
            if error.code != SILENT or not await self._is_here():
                self._life.detail = f"the machine did not arrive: {error.message}"
                await self._life.kill()
                return
        finally:
            arriving.cancel()
        self._held = None
        with contextlib.suppress(DriverError):  # it is asked again
            self._life.tell(GuestEvent(state=await self.state(), detail="the machine has arrived"))

    async def _is_here(self) -> bool:
        """Whether a machine has arrived of which nobody told us so."""
        with contextlib.suppress(DriverError):
            return await self._understood() in {GuestState.RUNNING, GuestState.PAUSED}
        return self._story.booted

    async def _reach(self, wanted: GuestState, call: str) -> None:
        """Look, act unless it is so, look again if that was refused."""
        if await self.state() is wanted:
            return
        try:
            await self._api.put(call, timeout=_ACT_S)
        except DriverError:
            if await self.state() is not wanted:
                raise

    async def _understood(self) -> GuestState:
        """Ask what the machine does. Without a machine, the reason is in an event that may still be on its way."""
        deadline = asyncio.get_running_loop().time() + _LAG_S
        while True:
            info = await self._api.ask("vm.info", timeout=_ANSWER_S)
            state = self._story.state(str(info.get("state")))
            if state not in {GuestState.HALTED, GuestState.STARTING} or self._story.panicked:
                return state
            if asyncio.get_running_loop().time() > deadline:
                return state
            await asyncio.sleep(_LOOK_S)

    async def _follow(self) -> None:
        """Hear everything that Cloud Hypervisor tells for as long as we are here."""
        try:
            async for event in events.follow(self._launch.run_directory / paths.EVENTS):
                self._hear(event)
        except OSError as error:
            log.warning("guest.events_lost", vm=self._launch.vm, error=error.strerror, next="its state is asked")

    def _hear(self, event: Event) -> None:
        self._heard += 1
        self._story.hear(event)
        if self._heard > self._past:
            self._tell(event)
        elif self._heard == self._past and self._story.off:
            self._powered_off()

    def _tell(self, event: Event) -> None:
        match event.source, event.name:
            case "vm", "paused" | "resumed" if self._story.migration.state is MigrationState.COPYING:
                pass  # for the last pages, which nobody has asked for
            case "vm", "migration-finished":
                self._life.killed = True
                self._life.detail = "the machine runs on another node"
            case "vm", "paused":
                self._life.tell(GuestEvent(state=GuestState.PAUSED))
            case "vm", "resumed":
                self._life.tell(GuestEvent(state=GuestState.RUNNING))
            case "vm", "rebooted":
                detail = "the reset button was pressed" if self._pressed_reset else "the guest restarted itself"
                self._pressed_reset = False
                self._life.tell(GuestEvent(state=GuestState.RUNNING, detail=detail))
            case "vm", "shutdown":
                self._powered_off()
            case "guest", "panic":
                self._life.tell(GuestEvent(state=GuestState.HALTED, detail="the guest's kernel panicked"))
            case _:
                pass

    def _powered_off(self) -> None:
        self._life.powered_off = True
        self._life.tell(GuestEvent(state=GuestState.SHUT_DOWN))
        if self._quitting is None:
            self._quitting = asyncio.create_task(self._quit())

    async def _quit(self) -> None:
        """The guest is off: end its process."""
        await self._life.may_end()
        with contextlib.suppress(DriverError):
            await self._api.put("vmm.shutdown", timeout=_QUIT_S)
        if not await self._life.wait(_QUIT_S):
            await self._life.kill()

    async def _drain(self) -> None:
        """The process has ended: hear its last words."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        for event in events.read(self._launch.run_directory / paths.EVENTS)[self._heard :]:
            self._hear(event)
        if self._console is not None:
            await self._console.end(_CONSOLE_S)
        if self._line is not None:
            await self._line.close()
        await self._api.close()


def clean_up(launch: Launch) -> None:
    """Remove what a life leaves in its run directory. Only after its process is gone."""
    for path in launch.run_directory.iterdir():
        if paths.is_ours(path.name):
            path.unlink(missing_ok=True)
    shutil.rmtree(launch.run_directory / paths.RESTORING, ignore_errors=True)
