"""The gateway: one TLS listener where agents enrol, connect, bring streams and fetch images.

Built by `app`. Each path is a kind of connection; all but enrolment need a certificate that names a node. Whatever
is refused is refused in words, with a `Refused` message before the connection closes.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ssl import SSLObject
from weakref import WeakValueDictionary

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request

from nacre.control.auth.ca import CertificateAuthority, Peer
from nacre.control.auth.tls import ServerTls
from nacre.control.gateway import artifacts, wire
from nacre.control.gateway.leases import Renewals
from nacre.control.gateway.ledger import Ledger
from nacre.control.gateway.link import Link, Terms, check_hello
from nacre.control.gateway.streams import Streams
from nacre.control.reconcilers.hearing import TICK_S, Hearing
from nacre.control.store.db import Database
from nacre.control.wake import STREAMS, node_topic
from nacre.errors import ConflictError, NacreError, NotFoundError, UnauthenticatedError, UnavailableError
from nacre.model.ids import NodeId
from nacre.protocol import codec, paths
from nacre.protocol.messages import Enrol, Heartbeat, Hello, OpenStream

_STRANGER_BYTES = 64 << 10
_MAX_ENROLLING = 64
_PING_S = 15.0
_PONG_S = 30.0
_BACKLOG = 1024
_DEAD_LINK_S = 60.0
"""A link on which nothing was heard for so long is cut: its node, if it lives, makes a new one."""
_SWEEP_S = 5.0
_STOP_S = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Where to listen, under which names agents know this replica, and the terms for agents."""

    host: str
    port: int
    advertise: str
    """`host:port` at which agents reach this replica and no other."""
    hosts: tuple[str, ...]
    """Names and addresses for the certificate."""
    terms: Terms
    heartbeat_window_s: float = 0.5
    """Heartbeats that arrive within this time are stored in one transaction."""


class Gateway:
    """The listener of one replica and the links that it holds."""

    def __init__(self, settings: GatewaySettings, db: Database, ca: CertificateAuthority, ledger: Ledger) -> None:
        self._settings = settings
        self._db = db
        self._ca = ca
        self._ledger = ledger
        self._renewals = Renewals(ledger, settings.terms.lease_s)
        self._tls = ServerTls(ca, settings.hosts, db.clock.now())
        self._links: dict[NodeId, Link] = {}
        self._arrivals = itertools.count()
        self._newest: dict[NodeId, int] = {}
        self._admitting: WeakValueDictionary[NodeId, asyncio.Lock] = WeakValueDictionary()
        self._closing = False
        self._beats: dict[NodeId, Heartbeat] = {}
        self._beaten = asyncio.Event()
        self._busy: set[asyncio.Task[object]] = set()
        self._enrolling = 0
        self._server: Server | None = None
        self.hearing = Hearing(db.clock, settings.terms.heartbeat_s)
        """When nodes were last heard here."""
        self.hearing.attach(self._has_unread)
        self.streams = Streams(db, self._tell, settings.advertise)

    @property
    def linked(self) -> frozenset[NodeId]:
        """The nodes whose link leads to this replica."""
        return frozenset(self._links)

    @property
    def listening(self) -> bool:
        """Whether agents can connect here."""
        return self._server is not None and self._server.is_serving()

    @property
    def port(self) -> int:
        """The port that is listened on. For tests, which ask for any."""
        if self._server is None:
            raise RuntimeError("the gateway is not running")
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Listen until the block ends; then every connection is closed and agents connect elsewhere."""
        async with AsyncExitStack() as stack:
            quiet = logging.getLogger("nacre.gateway.websockets")
            quiet.setLevel(logging.CRITICAL)  # a port scan is not worth a traceback
            self._server = await stack.enter_async_context(
                serve(
                    self._connection,
                    self._settings.host,
                    self._settings.port,
                    ssl=self._tls.context,
                    compression=None,
                    logger=quiet,
                    server_header=None,
                    open_timeout=10,
                    close_timeout=2,
                    ping_interval=_PING_S,
                    ping_timeout=_PONG_S,
                    max_size=_STRANGER_BYTES,
                    process_request=self._trust_with_more,
                    backlog=_BACKLOG,
                    write_limit=codec.CHUNK_BYTES,
                )
            )
            for work in (
                self._listen_in,
                self._store_heartbeats,
                self._renewals.run,
                self._look_after,
                self._forward_streams,
            ):
                task = asyncio.create_task(work(), name=work.__name__)
                stack.push_async_callback(_finish, task)
            stack.callback(self._close)
            log.info("gateway.listening", port=self.port)
            yield

    def _close(self) -> None:
        """Let go of everybody; who is busy with something that hangs is cut off after a moment."""
        self._closing = True
        self.streams.close()
        asyncio.get_running_loop().call_later(_STOP_S, self._cut_off)

    def _cut_off(self) -> None:
        for task in self._busy:
            task.cancel()

    # One connection

    async def _connection(self, connection: ServerConnection) -> None:
        """Serve one connection of any kind; never raises."""
        path = connection.request.path if connection.request else ""
        task = asyncio.current_task()
        if task is not None:
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        try:
            await self._dispatch(connection, path)
        except wire.PeerGoneError:
            return
        except NacreError as error:
            log.info("gateway.refused", path=path, code=error.code, peer=_address(connection))
            await _refuse(connection, error)
        except Exception:
            log.exception("gateway.connection_failed", path=path, next="the connection is closed")
            await connection.close(1011)

    def _trust_with_more(self, connection: ServerConnection, request: Request) -> None:
        """Let a node send long messages. Decided before it can send any, so that the first is not judged by chance."""
        if request.path == paths.AGENT:
            connection.ping_interval = None  # heartbeats say more, and come more often
        try:
            self._check_validity(self._ca.peer(_certificate(connection)))
        except UnauthenticatedError:
            return
        connection.protocol.max_message_size = codec.MAX_MESSAGE_BYTES

    async def _dispatch(self, connection: ServerConnection, path: str) -> None:
        if path == paths.ROOTS:
            await wire.send_bytes(connection, self._ca.roots_pem.encode())
            return
        if path == paths.ENROL:
            await self._enrol(connection)
            return
        peer = self._ca.peer(_certificate(connection))
        self._check_validity(peer)
        await self._check_welcome(peer)
        stream = paths.stream_of(path)
        if stream is not None:
            await self.streams.serve(connection, peer, stream)
        elif path == paths.AGENT:
            await self._agent(connection, peer)
        elif path == paths.ARTIFACT:
            await artifacts.serve(connection, peer, self._ledger)
        else:
            raise NotFoundError("unknown_path", "there is nothing here", hint="both sides must be of like versions")

    async def _enrol(self, connection: ServerConnection) -> None:
        if self._enrolling >= _MAX_ENROLLING:
            raise UnavailableError("too_many_enrolments", "too many nodes are enrolling", hint="try again in a moment")
        self._enrolling += 1
        try:
            request = await wire.first(connection, Enrol)
            enrolled = await self._ledger.enrol(request)
            await wire.send(connection, enrolled)
            log.info("node.enrolled", node=enrolled.node, name=request.name)
        finally:
            self._enrolling -= 1

    async def _agent(self, connection: ServerConnection, peer: Peer) -> None:
        arrival = next(self._arrivals)
        hello = await wire.first(connection, Hello)
        agreed = check_hello(hello, peer)
        link = Link(connection, peer, hello, self._ledger, self._renewals, self._db.clock, self._on_heartbeat)
        with self._db.wakes.listen(node_topic(link.node)) as bell:
            # One at a time, so that the instance in the database is the one whose link is kept.
            async with self._admitting.setdefault(link.node, asyncio.Lock()):
                self._check_place(link, arrival)
                await self._ledger.connected(hello)
                before = self._take_place(link, arrival)
            try:
                if before is not None:
                    await before.drop(_replaced())
                await link.run(self._settings.terms, agreed, bell)
            finally:
                await self._leave(link)

    def _check_place(self, link: Link, arrival: int) -> None:
        """Raise ConflictError unless this is the newest connection of the newest instance."""
        if arrival < self._newest.get(link.node, -1):
            raise _replaced()
        current = self._links.get(link.node)
        if current is not None and current.instance > link.instance:
            raise ConflictError(
                "instance_superseded",
                "a newer instance of this node's agent is connected",
                hint="run one agent per node; stop this one",
            )

    def _take_place(self, link: Link, arrival: int) -> Link | None:
        """Make `link` the node's link and return the one before."""
        before = self._links.get(link.node)
        self._newest[link.node] = arrival
        self._links[link.node] = link
        self.hearing.hear(link.node, first=True)
        log.info("link.up", node=link.node, instance=link.instance)
        self._db.wakes.ring(STREAMS)  # somebody may wait for a stream of this node already
        return before

    async def _leave(self, link: Link) -> None:
        if self._links.get(link.node) is not link:
            return
        del self._links[link.node]
        del self._newest[link.node]
        self._beats.pop(link.node, None)
        log.info("link.down", node=link.node, instance=link.instance)
        if self._closing:
            return  # that we leave says nothing about the node
        await self._ledger.disconnected(link.node, link.instance)

    # Who may be here

    def _check_validity(self, peer: Peer) -> None:
        if peer.expires_at <= self._db.clock.now():
            raise UnauthenticatedError(
                "certificate_expired",
                "the certificate of the node has expired",
                hint="make a new join string with `nacre node token create` and enrol the node again",
            )

    async def _check_welcome(self, peer: Peer) -> None:
        refused = await self._ledger.refused({peer.node: peer})
        if peer.node in refused:
            raise refused[peer.node]

    async def _drop_unwelcome(self) -> None:
        links = dict(self._links)
        refused = await self._ledger.refused({node: link.peer for node, link in links.items()}) if links else {}
        for node, link in links.items():
            try:
                self._check_validity(link.peer)
            except UnauthenticatedError as error:
                refused.setdefault(node, error)
        await asyncio.gather(*(links[node].drop(error) for node, error in refused.items()))

    def _cut_dead(self) -> None:
        limit = max(_DEAD_LINK_S, 4 * self._settings.terms.heartbeat_s)
        for node, link in list(self._links.items()):
            if (self.hearing.silence(node) or 0.0) > limit and not link.has_unread:
                link.cut()

    # Work beside the connections

    async def _tell(self, node: NodeId, message: OpenStream) -> bool:
        link = self._links.get(node)
        if link is None:
            return False
        try:
            await link.send(message)
        except wire.PeerGoneError:
            return False
        return True

    def _has_unread(self, node: NodeId) -> bool:
        link = self._links.get(node)
        return link is not None and link.has_unread

    def _on_heartbeat(self, node: NodeId, beat: Heartbeat) -> None:
        self.hearing.hear(node)
        before = self._beats.get(node)
        if before is not None and beat.facts is None:
            beat = Heartbeat(sent_at=beat.sent_at, usage=beat.usage, conditions=beat.conditions, facts=before.facts)
        self._beats[node] = beat
        self._beaten.set()

    async def _store_heartbeats(self) -> None:
        while True:
            await self._beaten.wait()
            await asyncio.sleep(self._settings.heartbeat_window_s)
            self._beaten.clear()
            beats, self._beats = self._beats, {}
            try:
                await self._ledger.heartbeats(beats)
            except Exception:
                log.exception("gateway.heartbeats_failed", nodes=len(beats), next="the next heartbeats are stored")
                self._beats = beats | self._beats

    async def _listen_in(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.hearing.tick()

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_S, self._settings.terms.heartbeat_s))
            try:
                self._tls.renew(self._db.clock.now())
                await self._drop_unwelcome()
                self._cut_dead()
            except Exception:
                log.exception("gateway.sweep_failed", next="tried again at the next heartbeat")

    async def _forward_streams(self) -> None:
        with self._db.wakes.listen(STREAMS) as bell:
            while True:
                rang = await bell.wait(_SWEEP_S)
                # Without other replicas there is nobody whose bell could have been missed.
                if not self._links or not (rang or self._db.is_postgresql):
                    continue
                try:
                    await self.streams.forward(list(self._links))
                except Exception:
                    log.exception("gateway.forward_failed", next=f"tried again within {_SWEEP_S:g} s")


def certificate_hosts(advertise: str, listen: str) -> tuple[str, ...]:
    """Return the names for a gateway's certificate: what agents are told to dial, what is listened on, this host."""
    named = (address.rpartition(":")[0].removeprefix("[").removesuffix("]") for address in (advertise, listen))
    wanted = [*named, "localhost", "127.0.0.1", "::1"]
    return tuple(dict.fromkeys(host for host in wanted if host not in {"", "0.0.0.0", "::"}))  # noqa: S104


async def _refuse(connection: ServerConnection, error: NacreError) -> None:
    try:
        await wire.send(connection, wire.refusal(error), timeout=5.0)
    except wire.PeerGoneError:
        return
    await connection.close(1008, error.code)


def _certificate(connection: ServerConnection) -> bytes | None:
    ssl_object: SSLObject | None = connection.transport.get_extra_info("ssl_object")
    return None if ssl_object is None else ssl_object.getpeercert(binary_form=True)


def _address(connection: ServerConnection) -> str:
    name: Sequence[object] | None = connection.transport.get_extra_info("peername")
    return str(name[0]) if name else ""


async def _finish(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


def _replaced() -> ConflictError:
    return ConflictError(
        "link_replaced", "the node has connected again", hint="run one agent per node if this keeps happening"
    )
