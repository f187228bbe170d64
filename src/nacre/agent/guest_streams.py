"""Streams that lead into a guest or show what it does: commands, its screen, what it uses. Opened by `reporting`.

Each fulfils `streams.Duplex`. A viewer's first frame on a stream of commands or of metrics says what is wanted.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from nacre.agent.guest import commands
from nacre.agent.guest.qga import GuestAgent, silent
from nacre.agent.hypervisors.abilities import HasDisplay
from nacre.agent.hypervisors.doors import Door
from nacre.agent.meters.meter import Meter
from nacre.agent.vms.machine import Machine
from nacre.errors import ConflictError, InvalidInputError, NacreError, UnavailableError, UnsupportedError
from nacre.model.commands import (
    MAX_STDIN_BYTES,
    Channel,
    ExecRequest,
    ExecResult,
    decode_request,
    frame,
    unframe,
)
from nacre.model.ids import VmId
from nacre.model.metrics import MetricsQuery, MetricsVerb

FIRST_FRAME_S = 30.0
STDIN_S = 600.0
_READ = 64 << 10
_CHUNK = 128 << 10
_WAITING = 64


class Frames:
    """What a viewer sends, a frame at a time. A viewer who sends more than is taken waits."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)

    async def send(self, data: bytes) -> None:
        """Take a frame."""
        await self._queue.put(data)

    async def next(self, timeout: float) -> bytes:
        """Return the next frame. Raises UnavailableError if none comes in time."""
        try:
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        except TimeoutError as error:
            raise UnavailableError(
                "viewer_silent", "whoever opened the stream did not say what is wanted", hint="open it again"
            ) from error


class Command(Frames):
    """One command in a guest."""

    def __init__(self, agent: GuestAgent) -> None:
        super().__init__()
        self._agent = agent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Run what is asked for, and yield its outputs and how it ended."""
        try:
            request = await self._request()
            stdin = await self._stdin() if request.stdin else b""
            done = await commands.run(self._agent, request, stdin)
        except NacreError as error:
            result = ExecResult(code=error.code, message=error.message, hint=error.hint)
            yield frame(Channel.CONTROL, msgspec.json.encode(result))
            return
        for channel, data in ((Channel.STDOUT, done.stdout), (Channel.STDERR, done.stderr)):
            for start in range(0, len(data), _CHUNK):
                yield frame(channel, data[start : start + _CHUNK])
        yield frame(Channel.CONTROL, msgspec.json.encode(done.result))

    async def _request(self) -> ExecRequest:
        channel, data = unframe(await self.next(FIRST_FRAME_S))
        if channel is not Channel.CONTROL:
            raise InvalidInputError("invalid_command", "the first frame is no request", hint="send the request first")
        return decode_request(data)

    async def _stdin(self) -> bytes:
        found = bytearray()
        while True:
            channel, data = unframe(await self.next(STDIN_S))
            if channel is not Channel.STDIN:
                raise InvalidInputError("invalid_frame", "a frame is no standard input", hint="send nothing else")
            if not data:
                return bytes(found)
            found += data
            if len(found) > MAX_STDIN_BYTES:
                raise InvalidInputError(
                    "stdin_too_large",
                    f"standard input may have {MAX_STDIN_BYTES >> 20} MiB",
                    hint="copy what is larger into the guest over its network",
                )


class Screen:
    """A guest's screen: the bytes of RFB, RFC 6143."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield what the screen's server says, until it hangs up."""
        with contextlib.suppress(OSError):
            while data := await self._reader.read(_READ):
                yield data

    async def send(self, data: bytes) -> None:
        """Send keys and the like."""
        with contextlib.suppress(OSError):  # that it hung up is seen by who reads
            self._writer.write(data)
            await self._writer.drain()


class Measured(Frames):
    """What a machine uses."""

    def __init__(self, meter: Meter, vm: VmId) -> None:
        super().__init__()
        self._meter = meter
        self._vm = vm

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the series that is asked for, or point after point."""
        try:
            query = msgspec.json.decode(await self.next(FIRST_FRAME_S), type=MetricsQuery)
        except msgspec.MsgspecError as error:
            raise InvalidInputError(
                "invalid_query", "what is wanted cannot be read", hint="update the control plane or the agent"
            ) from error
        if query.verb is MetricsVerb.RANGE:
            yield msgspec.json.encode(await self._meter.range(self._vm, query))
            return
        async with self._meter.follow(self._vm) as measured:
            while True:
                yield msgspec.json.encode(await measured.get())


@contextlib.asynccontextmanager
async def command(machine: Machine | None) -> AsyncGenerator[Command]:
    """Open a way for one command. Raises ConflictError for a machine that is off, UnavailableError without an agent."""
    inside = _running(machine).inside
    if inside is None:
        raise UnsupportedError(
            "guest_channel_missing",
            "this machine has no channel to an agent in its guest",
            hint="use a hypervisor with one, such as qemu, and a machine made with devices.guest_agent",
        )
    if not inside.answering:
        raise silent()
    yield Command(inside.agent)


@contextlib.asynccontextmanager
async def screen(machine: Machine | None) -> AsyncGenerator[Screen]:
    """Connect to the machine's screen. Raises ConflictError, UnsupportedError or UnavailableError."""
    guest = _running(machine).guest
    if not isinstance(guest, HasDisplay) or guest.display_socket is None:
        raise UnsupportedError(
            "display_missing",
            "this machine has no screen",
            hint="give it one with devices.graphics vnc, and start it again; its serial console is `nacre vm console`",
        )
    try:
        reader, writer = await Door(guest.display_socket, guest.handle.pid).open()
    except OSError as error:
        raise UnavailableError(
            "display_unreachable", "the machine's screen does not answer", hint="try again in a moment"
        ) from error
    try:
        yield Screen(reader, writer)
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def measured(meter: Meter, vm: VmId) -> AsyncGenerator[Measured]:
    """Open a way to what was and is measured of a machine, running or not."""
    yield Measured(meter, vm)


def _running(machine: Machine | None) -> Machine:
    if machine is None or machine.guest is None:
        raise ConflictError("vm_not_running", "the machine is off", hint="start it with `nacre vm start`")
    return machine
