"""One running QEMU, started or adopted: what it is asked, what it tells, and how its end is understood.

Made by `driver`. Holds the machine's only QMP connection and finds it again when it is lost. QEMU runs with
`-no-shutdown`: after the guest has powered off, the process waits in the run state `shutdown` until it is told to
quit, so a power-off is told from a crash even if nobody was listening when it happened.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from nacre.agent.hypervisors import guarding
from nacre.agent.hypervisors.base import Guard, GuestEvent, GuestState, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.lifecycle import Life
from nacre.agent.hypervisors.qemu import arriving, limiting, moving, states
from nacre.agent.hypervisors.qemu.command_line import (
    CONSOLE_LOG,
    CONSOLE_SOCKET,
    QMP_SOCKET,
    SOCKETS,
)
from nacre.agent.hypervisors.qemu.live import LiveGuest
from nacre.agent.hypervisors.qemu.qmp import Event, Qmp, silent
from nacre.lib import processes

_ANSWER_S = 5.0
_QUIT_S = 5.0
_DRAIN_S = 0.4
_FROZEN_S = 0.1
_RESET_LOOKS = 100
_LOOK_S = 0.01
_RECONNECT_S = (0.05, 0.1, 0.2, 0.3)

log = structlog.get_logger()


class QemuGuest(LiveGuest):
    """A machine under QEMU. Fulfils `base.Guest`."""

    def __init__(self, launch: Launch, handle: Handle, process: processes.Process, qmp: Qmp | None) -> None:
        """`qmp` is None when an adopted process did not answer; it is asked again and again."""
        super().__init__(launch, handle, self._connection)
        self._qmp = qmp
        self._connected = asyncio.Event()
        self._io_error = ""
        self._inferred = False
        self._open = True
        self._quitting: asyncio.Task[None] | None = None
        self._following = asyncio.create_task(self._follow(qmp))
        self._guard = guarding.guard_of(process)
        self._life = Life(process, drain=self._drain, clean_up=lambda: clean_up(launch), let_go=self._let_go)

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
        """Unix stream socket of the serial console."""
        return self._launch.run_directory / CONSOLE_SOCKET

    @property
    def console_log(self) -> Path:
        """File to which QEMU appends what the console prints."""
        return self._launch.directory / CONSOLE_LOG

    async def state(self) -> GuestState:
        """Ask QEMU. Raises DriverError if it lives and does not answer."""
        if guarding.is_frozen(self._life.process, self._guard):
            return GuestState.FROZEN
        try:
            return states.state_of(await self._run_state())
        except DriverError:
            if self._life.gone.is_set() or not self._life.process.alive():
                return GuestState.GONE
            raise

    def events(self) -> AsyncIterator[GuestEvent]:
        """Changes from now on; ends after GONE."""
        return self._life.events()

    async def shutdown(self) -> None:
        """Press the power button. A paused guest is woken, because asleep it could not obey."""
        self._life.asked = True
        await self._execute("system_powerdown")
        if await self.state() is GuestState.PAUSED:
            await self.resume()

    async def reset(self) -> None:
        """Press the reset button. Raises DriverError if the guest has moved elsewhere."""
        await moving.forbid_if_moved(self._talk)
        before = await self._run_state()
        await self._execute("system_reset")
        if states.state_of(before) is not GuestState.RUNNING:
            await self._begin_again(before)

    async def pause(self) -> None:
        """Stop the virtual CPUs."""
        await self._execute("stop")

    async def resume(self) -> None:
        """Let the virtual CPUs run, also after an I/O error. Raises DriverError if the guest has moved elsewhere."""
        await moving.forbid_if_moved(self._talk)
        await self._execute("cont")

    async def release(self) -> None:
        """The power-off is on record."""
        self._life.released.set()

    async def kill(self) -> None:
        """End the process and return when it is gone."""
        await self._life.kill()

    async def close(self) -> None:
        """End the process, which lets go of its disks first. Others wait for locks of one that is killed."""
        self._life.killed = True
        with contextlib.suppress(DriverError):
            await self._execute("quit")
        if not await self._life.wait(_QUIT_S):
            await self._life.kill()

    async def detach(self) -> None:
        """Let go; the guest stays."""
        await self._life.leave()
        tasks = [task for task in (self._following, self._quitting, self._moving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _execute(self, command: str) -> None:
        await (await self._connection()).execute(command, timeout=_ANSWER_S)

    async def _run_state(self) -> str:
        answer = await (await self._connection()).ask("query-status", timeout=_ANSWER_S)
        return str(answer.get("status"))

    async def _connection(self) -> Qmp:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._connected.wait()
        except TimeoutError as error:
            raise silent() from error
        if self._qmp is None:  # the process has ended
            raise silent()
        return self._qmp

    # What QEMU tells

    async def _follow(self, qmp: Qmp | None) -> None:
        """Keep the connection, and hear what comes over it, for as long as the process lives."""
        while qmp := qmp or await self._reconnect():
            self._qmp = qmp
            self._connected.set()
            try:
                await self._listen(qmp)
            except Exception:
                log.exception("guest.monitor_failed", vm=self._launch.vm, next="reconnect")
            finally:
                self._connected.clear()
                self._qmp = None
                await qmp.close()
            qmp = None
        self._connected.set()  # whoever waits for an answer learns that there will be none

    async def _listen(self, qmp: Qmp) -> None:
        """Learn what happened while nobody listened, then hear everything until the connection ends."""
        try:
            await self._tell_run_state(qmp)
            async for event in qmp.events():
                await self._heard(qmp, event)
        except DriverError:
            for event in qmp.unheard():  # what came before the connection broke off in the middle of a question
                if event.name == "SHUTDOWN":
                    self._shut_down(event)

    async def _reconnect(self) -> Qmp | None:
        """Find the monitor again; None when the process has ended, which is how most connections are lost."""
        attempt = 0
        while self._life.process.alive():
            if guarding.is_frozen(self._life.process, self._guard):
                await asyncio.sleep(_FROZEN_S)
                continue
            try:
                found = await Qmp.connect(self._launch.run_directory / QMP_SOCKET, _ANSWER_S)
            except (DriverError, OSError) as error:
                if attempt == 1:
                    log.warning("guest.monitor_lost", vm=self._launch.vm, error=str(error), next="try again")
                await asyncio.sleep(_RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)])
                attempt += 1
            else:
                if attempt > 1:
                    log.info("guest.monitor_found", vm=self._launch.vm)
                return found
        return None

    async def _heard(self, qmp: Qmp, event: Event) -> None:
        match event.name:
            case "SHUTDOWN":
                self._shut_down(event)
            case "STOP" | "RESUME" if not self._life.powered_off:
                await self._tell_run_state(qmp)
            case "RESET":
                self._life.tell(GuestEvent(state=GuestState.RUNNING, detail=_reset_detail(event)))
            case "POWERDOWN":
                self._life.tell(GuestEvent(state=GuestState.RUNNING, detail="the power button was pressed"))
            case "MIGRATION" if event.data.get("status") == "completed" and self._launch.arrival is not None:
                await self._tell_run_state(qmp)
            case "WATCHDOG" if event.data.get("action") == "poweroff":  # QEMU just ends
                self._life.detail = states.failure_detail("watchdog")
            case "BLOCK_IO_ERROR" if event.data.get("action") == "stop":
                self._io_error = states.io_error_detail(
                    node=str(event.data.get("node-name") or ""),
                    operation=str(event.data.get("operation")),
                    no_space=event.data.get("nospace") is True,
                )
            case _:
                pass

    async def _tell_run_state(self, qmp: Qmp) -> None:
        run_state = str((await qmp.ask("query-status", timeout=_ANSWER_S)).get("status"))
        state = states.state_of(run_state)
        if self._open and state is not GuestState.STARTING:  # it may have come from elsewhere
            self._open = False
            await arriving.arrived(self._talk)
        if state is GuestState.SHUT_DOWN:
            self._found_shut_down()
        elif state in {GuestState.FAILED, GuestState.HALTED}:
            detail = self._io_error if run_state == "io-error" else ""
            self._life.tell(GuestEvent(state=state, detail=detail or states.failure_detail(run_state)))
        else:
            self._life.tell(GuestEvent(state=state))

    def _shut_down(self, event: Event) -> None:
        if event.data.get("guest") is True:
            self._inferred = False
            self._powered_off()
        elif event.data.get("reason") == "host-signal":
            self._life.detail = "its process was told to end by a signal on the node"
            if self._inferred:  # wrongly: on its way out QEMU shows the same run state
                self._life.powered_off = False

    def _found_shut_down(self) -> None:
        """It was off when we asked. Without an event that says otherwise, the guest did it while nobody listened."""
        if not self._life.powered_off and not self._life.detail:
            self._inferred = True
            self._powered_off()

    def _powered_off(self) -> None:
        self._life.powered_off = True
        self._life.tell(GuestEvent(state=GuestState.SHUT_DOWN))
        if self._quitting is None:
            self._quitting = asyncio.create_task(self._quit())

    async def _quit(self) -> None:
        """The guest is off: end its process, which writes back what it holds first."""
        await self._life.may_end()
        with contextlib.suppress(DriverError):
            await self._execute("quit")
        if not await self._life.wait(_QUIT_S):
            await self._life.kill()

    async def _begin_again(self, before: str) -> None:
        """The button leaves a guest that stood still at its beginning, a moment later, and there it would stay."""
        for _ in range(_RESET_LOOKS):
            if await self._run_state() != before:
                break
            await asyncio.sleep(_LOOK_S)
        await self._execute("cont")

    async def _let_go(self) -> None:
        """Take back what the host keeps for the guest's NICs."""
        await limiting.free_nics(self._nics.values())

    async def _drain(self) -> None:
        """The process has ended: hear its last words, then let go of the connection."""
        await asyncio.wait({self._following}, timeout=_DRAIN_S)
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)


def clean_up(launch: Launch) -> None:
    """Remove the sockets that a killed QEMU leaves behind. Only after its process is gone."""
    for name in SOCKETS:
        (launch.run_directory / name).unlink(missing_ok=True)


def _reset_detail(event: Event) -> str:
    return "the guest restarted itself" if event.data.get("guest") is True else "the reset button was pressed"
