"""Consoles: one connection to each machine's serial port, any number of viewers, and what was printed before.

Fed by the executor, which says when a guest is there and when it is gone; asked by streams. A viewer that does not keep
up is dropped, never waited for. A hub outlives its guest, so that viewers see a machine come back.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import structlog

from nacre.agent.console_logs import LOG_LIMIT, joined, since, size, tail, trim, trim_others
from nacre.agent.hypervisors.doors import Door
from nacre.errors import ConflictError, NotFoundError, UnavailableError
from nacre.lib.threads import in_thread
from nacre.model.ids import VmId

SCROLLBACK = 256 << 10
VIEWER_LIMIT = 1 << 20
"""How far behind a viewer may be, in bytes."""
_READ = 64 << 10
_WRITE_S = 5.0
_TYPED_LIMIT = 64 << 10
_RECONNECT_S = 0.2
_BOUND_S = 2.0
"""How often logs are looked at whose growth nobody tells us of."""
_ACCEPTED_S = 0.25
_QUIET_S = 0.05

log = structlog.get_logger()


class Viewer:
    """One who looks at a console and types. Fulfils `streams.Duplex`."""

    def __init__(self, hub: "Hub", first: bytes) -> None:
        self._hub = hub
        self._waiting: deque[bytes] = deque([first] if first else [])
        self._behind = 0
        self._news = asyncio.Event()
        self._news.set()
        self._ended = False
        self._dropped = False

    def feed(self, data: bytes) -> bool:
        """Hand on what was printed. False when the viewer is too far behind and is dropped."""
        if self._behind + len(data) > VIEWER_LIMIT:
            self._dropped = True
            self.end()
            return False
        self._waiting.append(data)
        self._behind += len(data)
        self._news.set()
        return True

    def end(self) -> None:
        """There is nothing more to see."""
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the scrollback, then what is printed. Raises UnavailableError when it was too slow."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting and not self._dropped:
                data = self._waiting.popleft()
                self._behind = max(0, self._behind - len(data))
                yield data
            if self._dropped:
                raise UnavailableError(
                    "viewer_too_slow",
                    "the viewer did not keep up with the console",
                    hint="open it again; the end of what it missed is in the scrollback",
                )
            if self._ended:
                return

    async def send(self, data: bytes) -> None:
        """Type."""
        await self._hub.type(data)


class Stored:
    """A console log as a stream of its own, which ends. Fulfils `streams.Duplex`."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield all of it."""
        if self._content:
            yield self._content

    async def send(self, data: bytes) -> None:
        """Nobody listens."""


class Hub:
    """The console of one machine."""

    def __init__(self, vm: VmId) -> None:
        self._vm = vm
        self._scrollback = bytearray()
        self._viewers: set[Viewer] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._since_trim = 0
        self._log: Path | None = None
        self._ended_at: int | None = None
        """How long the log was when the last life that we saw had ended."""
        self._shown_to = 0
        """Up to where the log was shown when we connected."""
        self._complained = False

    @property
    def growing(self) -> Path | None:
        """The console log of a guest that is there."""
        return self._log if self._reading is not None else None

    def attach(self, door: Door, console_log: Path) -> None:
        """A guest is there: read its console until `lost`."""
        self.lost()
        self._log = console_log
        self._reading = asyncio.create_task(self._read(door, console_log), name=f"console {self._vm}")

    def lost(self) -> None:
        """The guest is gone. Viewers stay: it may come back."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
            self._ended_at = size(self._log) if self._log is not None else None

    def end(self) -> None:
        """The machine stays off."""
        self.lost()
        for viewer in self._viewers:
            viewer.end()

    @contextlib.asynccontextmanager
    async def viewer(self, tail_bytes: int) -> AsyncGenerator[Viewer]:
        """Look at the console, beginning with the end of what was printed."""
        first = bytes(self._scrollback[-tail_bytes:]) if tail_bytes > 0 else b""
        viewer = Viewer(self, first)
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def type(self, data: bytes) -> None:
        """Send what a viewer typed to the guest. Lost between two lives, and while the guest does not read."""
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() > _TYPED_LIMIT:
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_WRITE_S):
                writer.write(data)
                await writer.drain()

    async def _read(self, door: Door, console_log: Path) -> None:
        """Keep the connection for as long as the guest is there."""
        self._shown_to = self._ended_at or 0
        clock, bounded_at = asyncio.get_running_loop(), -_BOUND_S
        while True:
            try:
                before = await in_thread(size, console_log)
                reader, writer = await door.open()
            except OSError as error:
                self._complain(error)
                if clock.time() - bounded_at >= _BOUND_S:  # there may never be a socket: some only write a file
                    self._shown_to = max(0, self._shown_to - await self._bound(console_log))
                    bounded_at = clock.time()
                await asyncio.sleep(_RECONNECT_S)
                continue
            self._writer = writer
            try:
                await self._follow(reader, console_log, before)
            except OSError as error:
                log.info("console.lost", vm=self._vm, reason=error.strerror, next="connected to again")
            finally:
                self._writer = None
                writer.close()
            self._shown_to = await in_thread(size, console_log)
            await asyncio.sleep(_RECONNECT_S)

    def _complain(self, error: OSError) -> None:
        if isinstance(error, PermissionError) and not self._complained:
            log.error("console.of_another", vm=self._vm, reason=error.strerror, next="looked at again and again")
        self._complained = isinstance(error, PermissionError)

    async def _follow(self, reader: asyncio.StreamReader, console_log: Path, before: int) -> None:
        moved = await self._catch_up(console_log)
        await self._join(reader, console_log, before - moved)
        while data := await reader.read(_READ):
            self._show(data)
            self._since_trim += len(data)
            if self._since_trim > LOG_LIMIT // 4:
                await self._bound(console_log)

    async def _catch_up(self, console_log: Path) -> int:
        """Show what is in the log already. Returns by how much the log has moved."""
        content, end = await in_thread(since, console_log, self._shown_to, SCROLLBACK)
        self._show(content)
        moved = await self._bound(console_log)
        self._shown_to = end - moved
        return moved

    async def _join(self, reader: asyncio.StreamReader, console_log: Path, before: int) -> None:
        """Close the gap between the log, as it was shown, and the socket.

        From which byte on the hypervisor sends to us is known only when something comes; none from before `before`, the
        end of the log when we connected. All that has come until the log is read is in the log too, or about to come.
        """
        heard = await _heard(reader, _ACCEPTED_S)
        begin = min(before, self._shown_to)
        stored, end = await in_thread(since, console_log, begin, 4 * SCROLLBACK)
        while len(heard) < len(stored) and (data := await _heard(reader, _QUIET_S)):
            heard += data
        shown = max(0, self._shown_to - (end - len(stored)))
        self._show(joined(stored, heard)[shown:])

    async def _bound(self, console_log: Path) -> int:
        """Keep the log in bounds. Returns by how much it has moved."""
        self._since_trim = 0
        try:
            return await in_thread(trim, console_log)
        except OSError as error:
            log.warning("console.log_not_trimmed", vm=self._vm, reason=error.strerror, next="tried again later")
            return 0

    def _show(self, data: bytes) -> None:
        if not data:
            return
        self._scrollback += data
        del self._scrollback[:-SCROLLBACK]
        slow = [viewer for viewer in self._viewers if not viewer.feed(data)]
        for viewer in slow:
            self._viewers.discard(viewer)
            log.info("console.viewer_dropped", vm=self._vm)


async def _heard(reader: asyncio.StreamReader, timeout: float) -> bytes:
    """Return what comes next; nothing if nothing comes for a while or the connection has ended."""
    try:
        async with asyncio.timeout(timeout):
            return await reader.read(_READ)
    except TimeoutError:
        return b""


class Consoles:
    """The consoles of all machines."""

    def __init__(self) -> None:
        self._hubs: dict[VmId, Hub] = {}
        self._bounding: asyncio.Task[None] | None = None

    def attach(self, vm: VmId, door: Door, console_log: Path) -> None:
        """A guest has started or was adopted."""
        self._hubs.setdefault(vm, Hub(vm)).attach(door, console_log)
        if self._bounding is None:
            self._bounding = asyncio.create_task(self._bound(), name="console logs")

    def lost(self, vm: VmId) -> None:
        """A guest is gone, and may come back."""
        if vm in self._hubs:
            self._hubs[vm].lost()

    def end(self, vm: VmId) -> None:
        """A machine stays off."""
        hub = self._hubs.pop(vm, None)
        if hub is not None:
            hub.end()

    def close(self) -> None:
        """Let go of everything; the agent is leaving."""
        if self._bounding is not None:
            self._bounding.cancel()
            self._bounding = None
        for vm in list(self._hubs):
            self.end(vm)

    @contextlib.asynccontextmanager
    async def viewer(self, vm: VmId, tail_bytes: int) -> AsyncGenerator[Viewer]:
        """Look at a console. Raises ConflictError if the machine is off."""
        hub = self._hubs.get(vm)
        if hub is None:
            raise ConflictError(
                "vm_not_running",
                "the machine is off, so its console is dead",
                hint="start it, or look at what it printed with `nacre vm log`",
            )
        async with hub.viewer(tail_bytes) as viewer:
            yield viewer

    @contextlib.asynccontextmanager
    async def stored(self, console_log: Path, tail_bytes: int) -> AsyncGenerator[Stored]:
        """Read the end of a console log. Raises NotFoundError if nothing was ever printed."""
        try:
            content = await in_thread(tail, console_log, tail_bytes)
        except FileNotFoundError as error:
            raise NotFoundError(
                "no_console_log", "the machine has not printed anything yet", hint="start it first"
            ) from error
        yield Stored(content)

    async def _bound(self) -> None:
        """Keep all that is written about guests in bounds, besides what their hubs read: a guest fills these, too."""
        while True:
            logs = [log for hub in self._hubs.values() if (log := hub.growing) is not None]
            await in_thread(_trim_others, logs)
            await asyncio.sleep(_BOUND_S)


def _trim_others(console_logs: Sequence[Path]) -> None:
    for path in console_logs:
        try:
            trim_others(path)
        except OSError as error:
            log.warning("console.log_not_trimmed", vm=path.parent.name, reason=error.strerror, next="tried again later")
