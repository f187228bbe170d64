"""One life of a guest's process: who ended it and why, told as events. Shared by the drivers.

Knows processes and nothing of any hypervisor. A driver notes what it learns (`asked`, `powered_off`); when the
process ends, the notes say which `ExitReason` it was.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from nacre.agent.hypervisors.base import GuestEvent, GuestState, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.lib import processes
from nacre.model.vms import ExitReason

RELEASE_S = 5.0
"""How long a guest that powered off is kept for an agent that wants to write that down first."""
_KILL_S = 10.0
_DRAIN_S = 0.5  # what may still be unread in the hypervisor's socket when its process ends

log = structlog.get_logger()


def exit_reason(*, asked: bool, killed: bool, powered_off: bool, status: int | None) -> tuple[ExitReason, str]:
    """Say why a process ended, and in words what is known besides.

    A guest that powered off did so even if it was killed a moment later; a kill of ours is no crash.
    """
    if powered_off:
        return (ExitReason.STOPPED if asked else ExitReason.GUEST_SHUTDOWN), ""
    if killed:
        return ExitReason.KILLED, ""
    if status is None:
        return ExitReason.CRASHED, "its process ended"
    if status < 0:
        return ExitReason.CRASHED, f"its process was ended by {signal.Signals(-status).name}"
    return ExitReason.CRASHED, f"its process exited with status {status}"


def take_hold(handle: Handle) -> processes.Process | None:
    """Find the very process that a record names; None if it is gone, or the host has booted since."""
    if handle.boot_id != processes.boot_id():
        return None
    return processes.Process.open(handle.pid, handle.start_time)


class Life:
    """Watches one process from start or adoption to exit, and queues what happens for one consumer."""

    def __init__(
        self,
        process: processes.Process,
        *,
        drain: Callable[[], Awaitable[None]],
        clean_up: Callable[[], None],
        let_go: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`drain` reads what the hypervisor said last, `clean_up` removes its sockets, `let_go` what the host kept.

        All before GONE is told.
        """
        self.process = process
        self.asked = False
        """We pressed the power button."""
        self.killed = False
        """We ended the process."""
        self.powered_off = False
        """The guest has powered off."""
        self.detail = ""
        """What the hypervisor said about its end."""
        self.gone = asyncio.Event()
        self.released = asyncio.Event()
        """Whoever must remember that the guest powered off does."""
        self._drain = drain
        self._clean_up = clean_up
        self._let_go = let_go
        self._queue: asyncio.Queue[GuestEvent] = asyncio.Queue()
        self._last: GuestEvent | None = None
        self._watcher = asyncio.create_task(self._watch())

    def tell(self, event: GuestEvent) -> None:
        """Queue an event unless it repeats the last one word for word."""
        if event != self._last and not self.gone.is_set():
            self._last = event
            self._queue.put_nowait(event)

    async def events(self) -> AsyncIterator[GuestEvent]:
        """Yield events as they come, GONE last."""
        while True:
            event = await self._queue.get()
            yield event
            if event.state is GuestState.GONE:
                return

    async def kill(self) -> None:
        """End the process and return when it is gone and its sockets are cleared away. Raises DriverError."""
        self.killed = True
        self.process.send(signal.SIGKILL)
        if not await self.wait(_KILL_S):
            raise DriverError(
                "process_stuck",
                "the hypervisor's process does not end, not even by SIGKILL",
                hint="it waits for the host's kernel, usually for storage; look at the node's kernel log",
            )

    async def wait(self, timeout: float) -> bool:
        """Return True when the process is gone and GONE has been told, False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.gone.wait()
        except TimeoutError:
            return False
        return True

    async def may_end(self) -> None:
        """Return when the process of a guest that powered off may end: released, gone by itself, or kept for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_S):
                await self.released.wait()

    async def leave(self) -> None:
        """Stop watching; the process stays."""
        if self._watcher is not asyncio.current_task():
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        self.process.close()

    async def _watch(self) -> None:
        await self.process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await self._drain()
        try:
            self._clean_up()
            if self._let_go is not None:
                await self._let_go()
        except (OSError, DriverError) as error:  # what stays is cleared away before the next life
            log.warning("guest.clean_up_failed", pid=self.process.pid, error=str(error))
        reason, detail = exit_reason(
            asked=self.asked, killed=self.killed, powered_off=self.powered_off, status=self.process.exit_status
        )
        self.tell(GuestEvent(state=GuestState.GONE, exit_reason=reason, detail=self.detail or detail))
        self.gone.set()
        self.released.set()
        self.process.close()
