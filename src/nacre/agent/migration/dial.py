"""The source's side of a stream: dials the target's agent and carries what the hypervisor sends. Used by `vms/migrate`.

Everything that belongs to a stream ends with it: the sockets, the connections and what flows between them.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog

from nacre.agent.hypervisors.abilities import disks_socket
from nacre.agent.identity import Identity
from nacre.agent.migration import frames, trust
from nacre.agent.migration.relay import Ends, relay
from nacre.errors import NacreError, UnavailableError
from nacre.lib.configuration import split_address
from nacre.lib.unix_server import UnixServer
from nacre.model.migrations import Offer, Outgoing
from nacre.protocol.migration import Channel, Open, Opened

REACH_S = 4.0
OPEN_S = 20.0
READY_S = 150.0
"""How long the target may take to prepare disks and to start its hypervisor."""

log = structlog.get_logger()


class Line:
    """An open way to the target. `lost` is set when the target is gone."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.servers: list[UnixServer] = []

    async def drained(self, timeout: float) -> None:
        """Return when everything that the hypervisor has sent has gone on, or after `timeout` seconds."""
        await asyncio.gather(*(server.served(timeout) for server in self.servers))

    async def close(self) -> None:
        """End what still flows, for good."""
        for server in self.servers:
            server.close()
        for server in self.servers:
            await server.wait_closed()


class Dial:
    """Opens lines with the node's newest identity."""

    def __init__(self, identity: Callable[[], Identity | None]) -> None:
        self._identity = identity

    @asynccontextmanager
    async def open(self, order: Outgoing, offer: Offer, socket: Path) -> AsyncGenerator[Line]:
        """Have the target wait for the machine, and listen on `socket` and the one beside it for the hypervisor.

        Raises NacreError if the target cannot be reached or does not take the machine.
        """
        hold = await self._channel(order, Channel.HOLD, offer)
        line = Line()
        watch = asyncio.create_task(_watch(hold, line))
        try:
            for channel, path in ((Channel.MEMORY, socket), (Channel.DISKS, disks_socket(socket))):
                path.unlink(missing_ok=True)
                carry = partial(self._carry, order, channel)
                line.servers.append(UnixServer(path, carry, limit=frames.WRITE_LIMIT))
            yield line
        finally:
            await line.close()
            watch.cancel()
            await asyncio.wait({watch})
            await frames.close(hold[1])

    async def _carry(
        self, order: Outgoing, channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            far = await self._channel(order, channel)
        except NacreError as error:
            log.warning("migration.channel_failed", stream=order.stream, channel=channel, message=error.message)
        else:
            await relay((reader, writer), far)

    async def _channel(self, order: Outgoing, channel: Channel, offer: Offer | None = None) -> Ends:
        reader, writer = await self._dial(order)
        try:
            await frames.send(writer, Open(stream=order.stream, channel=channel, offer=offer))
            answer = await frames.receive(reader, Opened, OPEN_S if offer is None else READY_S)
            if not answer.ok:
                raise UnavailableError(
                    answer.code, answer.message, hint="look at the node that the machine is to go to; it is tried again"
                )
        except OSError as error:
            await frames.close(writer)
            raise frames.lost() from error
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    async def _dial(self, order: Outgoing) -> Ends:
        identity = self._identity()
        if identity is None or not order.addresses:
            raise _unreachable("it has said no address" if identity else "this node is not enrolled")
        context = await asyncio.to_thread(trust.calling, identity)
        why = ""
        for address in order.addresses:
            host, port = split_address(address, field="address")
            try:
                async with asyncio.timeout(REACH_S):
                    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=frames.WRITE_LIMIT)
            except (OSError, TimeoutError) as error:
                why = f"{address}: {getattr(error, 'strerror', None) or error.__class__.__name__}"
                continue
            with contextlib.suppress(NacreError):
                if trust.peer(writer) == order.target:
                    frames.watch_over(writer)
                    return reader, writer
            why = f"{address}: somebody else answers there"
            writer.transport.abort()
        raise _unreachable(why)


async def _watch(hold: Ends, line: Line) -> None:
    """Wait until the target hangs up. It has nothing to say."""
    with contextlib.suppress(OSError):
        while await hold[0].read(1024):
            pass
    line.lost.set()


def _unreachable(why: str) -> UnavailableError:
    return UnavailableError(
        "migration_target_unreachable",
        f"the node that the machine is to go to cannot be reached from here ({why})",
        hint="nodes must reach each other on the port of migration_listen; look at addresses and firewalls",
    )
