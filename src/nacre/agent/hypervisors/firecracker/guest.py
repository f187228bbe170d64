"""One running Firecracker, started or adopted: what it is asked, and how its end is understood. Made by `driver`.

Firecracker tells nothing by itself, so events are made here: of what the agent does to the guest, and of the process's
end. There is no state "off" either. A guest that shuts down must reboot, for which its kernel is told to (`reboot=k`),
and then the process ends with exit code 0. Whether it ended so is known from that code or, if nobody could see it, from
the last line of its own log; so a guest that powered off while the agent was away is told from one that died. A guest
that halts without rebooting stays as it is until it is killed.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from nacre.agent.hypervisors import guarding
from nacre.agent.hypervisors.base import Guard, GuestEvent, GuestState, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import checkpoints, refusals
from nacre.agent.hypervisors.firecracker.api import Api
from nacre.agent.hypervisors.firecracker.console import Console
from nacre.agent.hypervisors.firecracker.devices import Devices, on_host
from nacre.agent.hypervisors.firecracker.places import Places
from nacre.agent.hypervisors.firecracker.releases import Release
from nacre.agent.hypervisors.firecracker.scruples import refusal
from nacre.agent.hypervisors.lifecycle import Life
from nacre.lib import processes
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass

_ANSWER_S = 5.0
_SAVE_S = 900.0
"""For all of the memory to be written."""
_STATES = {"Not started": GuestState.STARTING, "Running": GuestState.RUNNING, "Paused": GuestState.PAUSED}
_TIDY_S = 600.0
_WELL = b"Firecracker exiting successfully"


log = structlog.get_logger()


class FirecrackerGuest(Devices):
    """A machine under Firecracker. Fulfils `base.Guest` and `CanCheckpoint`, and what `Devices` does."""

    def __init__(self, places: Places, handle: Handle, process: processes.Process, api: Api, release: Release) -> None:
        super().__init__(api, places, release)
        self._handle = handle
        self._guard = guarding.guard_of(process)
        self._saving = False
        self._console = Console(places)
        self._tidying: asyncio.Task[None] | None = None
        self._life = Life(process, drain=self._drain, clean_up=self._clean_up)

    async def open(self) -> None:
        """Begin to serve its console and to keep its files in bounds. Raises OSError."""
        self._console.open()
        self._tidying = asyncio.create_task(self._tidy(), name=f"tidy {self._handle.pid}")

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
        """Unix stream socket of the serial console. Served by the agent, so it is there as long as that is."""
        return self._places.console_socket

    @property
    def console_log(self) -> Path:
        """File to which Firecracker appends what the console prints: its standard output."""
        return self._places.console_log

    async def state(self) -> GuestState:
        """Ask Firecracker. Raises DriverError if it lives and does not answer."""
        if self._life.gone.is_set() or not self._life.process.alive():
            return GuestState.GONE
        if guarding.is_frozen(self._life.process, self._guard):
            return GuestState.FROZEN
        if self._saving:  # it answers nothing meanwhile
            return GuestState.PAUSED
        try:
            found = await self._api.describe(timeout=_ANSWER_S)
        except DriverError:
            if not self._life.process.alive():
                return GuestState.GONE
            raise
        return _STATES.get(str(found.get("state")), GuestState.HALTED)

    def events(self) -> AsyncIterator[GuestEvent]:
        """Changes from now on; ends after GONE."""
        return self._life.events()

    async def shutdown(self) -> None:
        """Press the three keys that a guest may take for "reboot", which ends it. A paused guest is woken first."""
        self._life.asked = True
        if await self.state() is GuestState.PAUSED:
            await self.resume()
        await self._api.act("SendCtrlAltDel", timeout=_ANSWER_S)

    @property
    def cannot_reset(self) -> bool:
        """Its process cannot begin again."""
        return True

    async def reset(self) -> None:
        """Refused: the process cannot begin again, and a new one is another life, which a driver cannot give."""
        raise refusal("resetting a machine", "stop the machine by force and start it again")

    async def pause(self) -> None:
        """Stop the virtual CPUs."""
        await self._change("Paused", GuestState.PAUSED)

    async def resume(self) -> None:
        """Let the virtual CPUs run again."""
        await self._change("Resumed", GuestState.RUNNING)

    async def release(self) -> None:
        """Nothing to do: a guest that is off is gone, and how it went is in its log until that is on record."""
        self._life.released.set()

    async def kill(self) -> None:
        """End the process and return when it is gone."""
        await self._life.kill()
        await self._api.close()

    async def detach(self) -> None:
        """Let go; the guest stays."""
        await self._life.leave()
        self._let_go()
        await self._api.close()

    async def save(self, directory: Path) -> None:
        """Write everything but the disks of the paused guest to an empty folder."""
        if await self.state() is not GuestState.PAUSED:
            raise DriverError(
                "not_paused",
                "only a paused machine is saved",
                hint="pause it first",
                failure_class=FailureClass.PERMANENT,
            )
        drives = await self._all("drives")
        saved = checkpoints.manifest(self._release, drives, await self._all("nics"))
        self._saving = True
        try:
            body = await on_host(checkpoints.saving, self._places, directory)
            await self._api.put("/snapshot/create", body, timeout=_SAVE_S)
            await on_host(checkpoints.keep, self._places, directory, saved)
        finally:
            self._saving = False

    async def _change(self, word: str, state: GuestState) -> None:
        try:
            await self._api.patch("/vm", {"state": word}, timeout=_ANSWER_S)
        except DriverError:
            if await self.state() is not state:
                raise
        self._life.tell(GuestEvent(state=state))

    async def _drain(self) -> None:
        """The process has ended: find out how."""
        await self._api.close()
        status = self._life.process.exit_status
        if status == 0 or (status is None and await asyncio.to_thread(ended_well, self._places)):
            self._life.powered_off = True
            self._life.tell(GuestEvent(state=GuestState.SHUT_DOWN))
        else:
            self._life.detail = refusals.end(status)

    def _clean_up(self) -> None:
        self._let_go()
        self._places.clean()

    def _let_go(self) -> None:
        self._console.close()
        if self._tidying is not None:
            self._tidying.cancel()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            try:
                async with self._counting:
                    await in_thread(self._places.tidy)
            except OSError as error:
                log.warning("guest.files_not_tidied", pid=self._handle.pid, reason=error.strerror, next="tried again")


def ended_well(places: Places) -> bool:
    """Whether a process that is dead has ended because its guest did. Blocks."""
    return _WELL in places.last_words()
