"""The target's side of streams: listens for other agents, and hands what comes to the hypervisor. Wired by `main`.

Nobody is listened to but the node that the control plane has named, for the stream that it has named. What belongs to
a stream ends when it is not expected any more.
"""

import asyncio
import contextlib
import ipaddress
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from nacre.agent.hypervisors.abilities import disks_socket
from nacre.agent.identity import Identity
from nacre.agent.migration import frames, trust
from nacre.agent.migration.relay import Ends, relay
from nacre.errors import NacreError, UnauthenticatedError, UnavailableError
from nacre.lib.configuration import split_address
from nacre.model.ids import NodeId, StreamId
from nacre.model.migrations import Offer
from nacre.protocol.migration import Channel, Open, Opened

GREETING_S = 10.0

log = structlog.get_logger()


@dataclass(eq=False)
class Expected:
    """A stream that may come."""

    source: NodeId
    offered: Callable[[Offer], Awaitable[Path]]
    """Makes ready for what is offered and returns the hypervisor's socket. Raises NacreError."""
    lost: Callable[[], None]
    """Hears that the source has hung up."""
    socket: Path | None = None
    held: bool = False
    tasks: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])


class Listener:
    """Listens from the first expected stream on."""

    def __init__(
        self, listen: str, identity: Callable[[], Identity | None], hosts: Callable[[], tuple[str, ...]]
    ) -> None:
        """`listen` is `host:port`, 0 for any port; `hosts` are the addresses of this host, best first."""
        self._listen = listen
        self._identity = identity
        self._hosts = hosts
        self._expected: dict[StreamId, Expected] = {}
        self._server: asyncio.Server | None = None
        self._context: ssl.SSLContext | None = None
        self._loaded: bytes = b""
        self._opening = asyncio.Lock()
        self._greeting: set[asyncio.Task[None]] = set()

    async def expect(
        self,
        stream: StreamId,
        source: NodeId,
        *,
        offered: Callable[[Offer], Awaitable[Path]],
        lost: Callable[[], None],
    ) -> tuple[str, ...]:
        """Listen for a stream and return the addresses to be dialled. Raises UnavailableError."""
        async with self._opening:  # several machines may be about to come, and there is one port
            port = await self._port()
        self._expected[stream] = Expected(source, offered, lost)
        host, _ = split_address(self._listen, field="migration_listen")
        hosts = self._hosts() if ipaddress.ip_address(host).is_unspecified else (host,)
        return tuple(f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts)

    async def forget(self, stream: StreamId) -> None:
        """Listen for a stream no more, and end what flows of it."""
        expected = self._expected.pop(stream, None)
        if expected is not None:
            await _ended(expected.tasks)

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
        for stream in list(self._expected):
            await self.forget(stream)
        await _ended(self._greeting)

    async def _port(self) -> int:
        identity = self._identity()
        if identity is None:
            raise UnavailableError("not_enrolled", "this node is not enrolled", hint="it listens once it is")
        if not identity.serves:
            raise UnavailableError(
                "certificate_not_for_calls",
                "the node's certificate is of before machines moved while they run, and other nodes do not accept it",
                hint="it is replaced by itself within minutes if the control plane is new enough; then move it again",
            )
        pair = await asyncio.to_thread(identity.pair.read_bytes)
        if self._context is None:
            self._context = await asyncio.to_thread(trust.called, identity)
        elif pair != self._loaded:
            await asyncio.to_thread(trust.load, self._context, identity)
        self._loaded = pair
        if self._server is None:
            host, port = split_address(self._listen, field="migration_listen")
            try:
                self._server = await asyncio.start_server(
                    self._called, host, port, ssl=self._context, limit=frames.WRITE_LIMIT
                )
            except OSError as error:
                raise UnavailableError(
                    "migration_listen_failed",
                    f"cannot listen on {self._listen}: {os.strerror(error.errno) if error.errno else error}",
                    hint="set migration_listen of the agent to an address and a port that are free",
                ) from error
        return int(self._server.sockets[0].getsockname()[1])

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._greeting.add(task)
        frames.watch_over(writer)
        try:
            await self._serve((reader, writer), task)
        except asyncio.CancelledError:
            writer.transport.abort()
        except (NacreError, OSError) as error:
            log.warning("migration.refused", reason=str(error))
            writer.transport.abort()
        finally:
            self._greeting.discard(task)

    async def _serve(self, ends: Ends, task: "asyncio.Task[None]") -> None:
        source = trust.peer(ends[1])
        opening = await frames.receive(ends[0], Open, GREETING_S)
        expected = self._expected.get(opening.stream)
        if expected is None or expected.source != source:
            answer = Opened(ok=False, code="stream_unknown", message="the node does not expect this machine")
            await frames.send(ends[1], answer)
            await frames.close(ends[1])
            raise UnauthenticatedError(
                "stream_unknown", f"node {source} asked for a stream that is not its own", hint="a late one is harmless"
            )
        self._greeting.discard(task)
        expected.tasks.add(task)
        try:
            if opening.channel is Channel.HOLD:
                await self._hold(ends, opening, expected)
            else:
                await self._carry(ends, opening.channel, expected)
        finally:
            expected.tasks.discard(task)

    async def _hold(self, ends: Ends, opening: Open, expected: Expected) -> None:
        """Make ready, and wait until the source hangs up."""
        if expected.held or opening.offer is None:
            await frames.send(ends[1], Opened(ok=False, code="stream_taken", message="the stream is in use already"))
            await frames.close(ends[1])
            return
        expected.held = True
        try:
            try:
                expected.socket = await expected.offered(opening.offer)
            except NacreError as error:
                await frames.send(ends[1], Opened(ok=False, code=error.code, message=error.message))
                return
            await frames.send(ends[1], Opened(ok=True))
            with contextlib.suppress(OSError):
                while await ends[0].read(1024):
                    pass
        finally:
            expected.lost()
            await frames.close(ends[1])

    async def _carry(self, ends: Ends, channel: Channel, expected: Expected) -> None:
        if expected.socket is None:
            await frames.send(ends[1], Opened(ok=False, code="stream_not_ready", message="nothing is ready here"))
            await frames.close(ends[1])
            return
        path = expected.socket if channel is Channel.MEMORY else disks_socket(expected.socket)
        near = await asyncio.open_unix_connection(path, limit=frames.WRITE_LIMIT)
        try:
            await frames.send(ends[1], Opened(ok=True))
        except BaseException:
            near[1].transport.abort()
            raise
        await relay(near, ends)


async def _ended(tasks: "set[asyncio.Task[None]]") -> None:
    now = set(tasks) - {asyncio.current_task()}
    for task in now:
        task.cancel()
    if now:
        await asyncio.wait(now)
