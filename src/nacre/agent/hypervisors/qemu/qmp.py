"""One connection to a QEMU's monitor: commands with a time-out, events, and who is at the other end.

Thin over `qemu.qmp`. QEMU serves one client at a time and forgets events that nobody hears, so a machine has one
connection at any moment (held by `guest`), and its state is asked again after every reconnect.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from qemu.qmp import EventListener, ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate
from qemu.qmp.protocol import StateError

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.qemu import states
from nacre.lib import processes

# Replies are single lines: the schema alone has 207 kB, a list of many block nodes far more.
MAX_LINE = 16 << 20


class RefusedError(DriverError):
    """QEMU has understood a command and said no."""

    def __init__(self, command: str, text: str, error_class: str) -> None:
        super().__init__(
            "hypervisor_refused",
            f"QEMU refused {command}: {states.without_places(text)}",
            hint="look at the machine's state; it may not allow this now",
        )
        self.text = text
        self.error_class = error_class
        """Of the QAPI schema: `GenericError`, `DeviceNotFound`, …"""


@dataclass(frozen=True)
class Event:
    """Something that QEMU tells by itself."""

    name: str
    data: Mapping[str, object]


class Qmp:
    """A negotiated connection. Made by `connect`."""

    def __init__(
        self,
        client: QMPClient,
        listener: EventListener,
        peer: processes.Peer | None,
        connection: socket.socket | None = None,
    ) -> None:
        self.peer = peer
        """The process that listens there, as the kernel says."""
        self._client = client
        self._socket = connection
        self._handing_over = asyncio.Lock()
        self._listener = listener
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: Path, timeout: float) -> Self:
        """Connect and negotiate. Raises OSError if nobody listens, DriverError if who listens does not answer."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(connection, str(path))
                peer = processes.peer(connection)
                client = QMPClient(path.parent.name, readbuflen=MAX_LINE)
                # What it would log is raised as well, and told by whoever decides what it means.
                client.logger = logging.getLogger(f"{__name__}.wire")
                client.logger.setLevel(logging.CRITICAL + 1)
                listener = EventListener()
                client.register_listener(listener)
                await client.connect(connection)
        except (TimeoutError, BlockingIOError) as error:  # the latter: its queue is full
            connection.close()
            raise silent() from error
        except (QMPError, EOFError) as error:
            connection.close()
            if isinstance(cause := getattr(error, "exc", None), OSError):
                raise cause from error
            raise silent() from error
        except BaseException:
            connection.close()
            raise
        return cls(client, listener, peer, connection)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float) -> object:
        """Run a command and return its answer. Raises DriverError: refused, silent, or the connection ended."""
        try:
            async with asyncio.timeout(timeout):
                return await self._client.execute(command, dict(arguments) if arguments else None)
        except ExecuteError as error:
            raise RefusedError(command, str(error), error.error_class) from error
        except (TimeoutError, ExecInterruptedError, StateError, OSError, EOFError) as error:
            raise silent() from error

    async def ask(self, command: str, *, timeout: float) -> Mapping[str, object]:
        """Run a command that answers with an object."""
        answer = await self.execute(command, timeout=timeout)
        if not isinstance(answer, dict):
            raise DriverError("hypervisor_refused", f"QEMU answers {command} with {answer!r}", hint="upgrade QEMU")
        return cast("Mapping[str, object]", answer)

    async def hand_over(self, fd: int, name: str, *, timeout: float) -> None:
        """Give QEMU a copy of a descriptor under a name, in place of one with this name. Raises DriverError."""
        async with self._handing_over:  # QEMU takes the last one that has arrived
            try:
                assert self._socket is not None
                # Beside the stream: a blank between two commands, which carries the descriptor.
                socket.send_fds(self._socket, [b" "], [fd])
            except OSError as error:
                raise silent() from error
            await self.execute("getfd", {"fdname": name}, timeout=timeout)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events as they come; ends when the connection does, after everything that arrived before."""
        ended = asyncio.create_task(self._ended())
        try:
            while True:
                heard = asyncio.create_task(self._listener.get())
                await asyncio.wait({heard, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not heard.done():
                    heard.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await heard
                    for event in self.unheard():
                        yield event
                    return
                yield _event(heard.result())
        finally:
            ended.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ended

    def unheard(self) -> list[Event]:
        """Take the events that have arrived and were not yielded yet."""
        return [_event(message) for message in self._listener.clear()]

    async def close(self) -> None:
        """Hang up. May be repeated, also at the same time, and is finished even if the caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._disconnect())
        await asyncio.shield(self._closing)

    async def _disconnect(self) -> None:
        if self._client.runstate is not Runstate.IDLE:
            with contextlib.suppress(QMPError, OSError, EOFError):  # how it ended does not matter any more
                await self._client.disconnect()

    async def _ended(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()


def _event(message: Mapping[str, object]) -> Event:
    return Event(str(message["event"]), cast("Mapping[str, object]", message.get("data", {})))


def silent() -> DriverError:
    """Return the error for a QEMU that does not answer."""
    return DriverError(
        "hypervisor_silent",
        "the machine's QEMU does not answer",
        hint="it is asked again; if it stays silent, stop the machine by force",
    )
