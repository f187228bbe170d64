"""A machine on its way to another host: the sender's line, which we hold, and what is known of the journey.

Used by `guest`. Cloud Hypervisor can be told where to send to, and neither to stop nor to take its time. So it sends to
us, and we pass it on: what goes through is counted, slowed down and cut off. Were we to end in the middle, the line
would break, and the machine would go on here, as after any failure.
"""

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path

import structlog

from nacre.agent.hypervisors.abilities import MigrationProgress, MigrationState, MigrationTerms
from nacre.agent.hypervisors.cloud_hypervisor import paths, sizes
from nacre.agent.hypervisors.cloud_hypervisor.api import Api
from nacre.agent.hypervisors.cloud_hypervisor.devices import Fields
from nacre.agent.hypervisors.cloud_hypervisor.refusals import unsupported
from nacre.lib.unix_server import UnixServer

RECEIVE_S = 7 * 86400.0
"""The answer to `vm.receive-migration` comes when the machine has arrived, however long that takes."""

_SEND_S = 30.0
_LONGEST_S = 86400
"""After so long Cloud Hypervisor gives up by itself. Whoever wants it earlier cancels."""
_LAST_WORDS_S = 10.0
_HANG_UP_S = 1.0
_CHUNK = 256 << 10

log = structlog.get_logger()


class Line:
    """What Cloud Hypervisor sends through `migration.sock`, passed on to the socket where the receiver listens."""

    def __init__(self, target: Path, bandwidth: int | None) -> None:
        self.transferred = 0
        self.total = 0
        """What the machine has of memory."""
        self.cancelled = False
        self._server: UnixServer | None = None
        self._target = target
        self._bandwidth = bandwidth
        self._free_at = 0.0
        self._forward: set[asyncio.Task[None]] = set()

    def open(self, run_directory: Path) -> None:
        """Listen for the sender. Raises OSError."""
        path = run_directory / paths.MIGRATION_SOCKET
        path.unlink(missing_ok=True)
        self._server = UnixServer(path, self._pass_on)
        _let_in(path)

    def cancel(self) -> None:
        """Pass on nothing more to the receiver. What it has to say about that which it has still comes back."""
        self.cancelled = True
        for task in self._forward:
            task.cancel()

    async def close(self) -> None:
        """Cut everything off."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        except OSError as error:
            log.warning("guest.receiver_unreachable", error=error.strerror, next="the machine stays here")
            await _hang_up(writer)
            return
        forward = asyncio.create_task(self._pump(reader, far_writer))
        back = asyncio.create_task(_answers(far_reader, writer))
        self._forward.add(forward)
        try:
            if self.cancelled:
                forward.cancel()
            await asyncio.wait({forward, back}, return_when=asyncio.FIRST_COMPLETED)
            if not back.done():
                # The receiver may have all that it needs, and be about to say so: only then may the machine stop here.
                with contextlib.suppress(OSError):
                    far_writer.write_eof()
                await asyncio.wait({back}, timeout=_LAST_WORDS_S)
        finally:
            self._forward.discard(forward)
            for task in (forward, back):
                task.cancel()
            await asyncio.gather(forward, back, return_exceptions=True)
            await asyncio.gather(_hang_up(far_writer), _hang_up(writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._wait_for_room(len(data))
            writer.write(data)
            await writer.drain()
            self.transferred += len(data)

    async def _wait_for_room(self, count: int) -> None:
        """Return when so many bytes may go, as the bandwidth allows."""
        if self._bandwidth is None:
            return
        now = asyncio.get_running_loop().time()
        begin = max(now, self._free_at)
        self._free_at = begin + count / self._bandwidth
        if begin > now:
            await asyncio.sleep(begin - now)


def _let_in(path: Path) -> None:
    """Let the user of the process in, whose folder this is."""
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


async def send(api: Api, run_directory: Path, target: Path, terms: MigrationTerms) -> Line:
    """Begin to send through `target`. Raises DriverError."""
    if terms.postcopy:
        raise unsupported(
            "migration_unsupported", "runs ahead of its memory on networks of its own only", "use precopy"
        )
    if terms.disks:
        raise unsupported(
            "migration_unsupported",
            "moves no disks, and both nodes must see them",
            "put the disks on storage that both nodes share, or move the machine while it is stopped",
        )
    line = Line(target, terms.bandwidth_bytes)
    line.total = (await sizes.sizes(api)).memory_bytes
    body: Fields = {
        "destination_url": f"unix:{paths.MIGRATION_SOCKET}",
        "downtime_ms": terms.downtime_ms,
        "timeout_s": _LONGEST_S,
    }
    try:
        line.open(run_directory)
        await api.put("vm.send-migration", body, timeout=_SEND_S)
    except BaseException:
        await line.close()
        raise
    return line


def progress(told: MigrationProgress, line: Line | None) -> MigrationProgress:
    """Add what went through our line to what was told. What remains is a guess: pages that change are sent again."""
    if line is None:
        return told
    found = replace(told, transferred_bytes=line.transferred)
    if told.state is MigrationState.FAILED and line.cancelled:
        return replace(found, state=MigrationState.CANCELLED, detail="")
    if told.state is MigrationState.COPYING:
        return replace(found, remaining_bytes=max(0, line.total - line.transferred))
    return found


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection when what was written has gone through, or after a while."""
    writer.close()
    try:
        async with asyncio.timeout(_HANG_UP_S):
            await writer.wait_closed()
    except OSError:  # a TimeoutError is one too
        writer.transport.abort()
