"""Gateways and agents' links on loopback with real TLS, over a real database. For every test of the link."""

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from nacre.agent import enrolment
from nacre.agent.dialer import trusting
from nacre.agent.identity import Identity, IdentityFiles
from nacre.agent.link import Link
from nacre.agent.outbox import Report
from nacre.control.auth.ca import CertificateAuthority
from nacre.control.auth.sealing import Sealer
from nacre.control.gateway.database import DatabaseLedger
from nacre.control.gateway.link import Terms
from nacre.control.gateway.server import Gateway, GatewaySettings, certificate_hosts
from nacre.control.services import enrolments, nodes
from nacre.control.services.image_files import ImageDepot
from nacre.control.store import nodes as node_store
from nacre.control.store.db import Database
from nacre.control.store.nodes import NodeRow
from nacre.errors import NotFoundError
from nacre.model.events import SYSTEM
from nacre.model.ids import NodeId, VmId, make_id
from nacre.model.nodes import Condition, NodeFacts, Usage
from nacre.model.vms import VmObserved
from nacre.protocol import codec, join, version
from nacre.protocol.join import Join
from nacre.protocol.messages import (
    DesiredState,
    FromAgent,
    FromControl,
    Hello,
    NodeIntent,
    Refused,
    StreamKind,
    Welcome,
)
from nacre.schema.nodes import NodeTokenCreate
from support.access import admin
from support.cloud import facts
from support.patience import within
from support.platform import free_port

DOMAIN = "test.nacre"
DAY = 86400.0
USAGE = Usage(load1=0.5, memory_bytes=1, disk_bytes=2)


@dataclass(kw_only=True)
class Replica:
    """One running gateway, and what a test does to it."""

    db: Database
    ca: CertificateAuthority
    gateway: Gateway
    address: str
    depot: ImageDepot

    async def join(self, *, ttl_s: int = 3600, name: str | None = None) -> Join:
        """A fresh join string, read."""
        joining = enrolments.Joining(gateway=self.address, ca=self.ca.fingerprint)
        async with self.db.write() as tx:
            made = await enrolments.issue(tx, NodeTokenCreate(ttl_s=ttl_s, node_name=name), joining, actor=SYSTEM)
        return join.decode(made.join)

    async def enrolled(self, folder: Path, *, name: str = "host-1") -> tuple[Identity, IdentityFiles]:
        """A new node's identity."""
        files = IdentityFiles(folder)
        return await enrolment.enrol(files, await self.join(), name), files

    async def node(self, node: NodeId) -> NodeRow:
        """A node as stored."""
        async with self.db.read() as rd:
            row = await node_store.get(rd, node)
        assert row is not None
        return row

    async def remove(self, node: NodeId) -> None:
        """Remove a node as an operator does."""
        async with self.db.write() as tx:
            await nodes.remove(tx, admin("node:delete"), node)


@asynccontextmanager
async def replica(
    db: Database,
    folder: Path,
    *,
    port: int = 0,
    heartbeat_s: float = 0.1,
    resync_s: float = 30.0,
    certificate_s: float = 90 * DAY,
) -> AsyncGenerator[Replica]:
    """A gateway that listens on loopback until the block ends."""
    address = f"127.0.0.1:{port or free_port()}"
    ca = await CertificateAuthority.open(db, Sealer(bytes(32)), DOMAIN)
    depot = ImageDepot(folder=folder / "images")
    settings = GatewaySettings(
        host="127.0.0.1",
        port=int(address.rpartition(":")[2]),
        advertise=address,
        hosts=certificate_hosts(address, address),
        terms=Terms(heartbeat_s=heartbeat_s, resync_s=resync_s, lease_s=35.0, renew_s=2.0),
        heartbeat_window_s=0.02,
    )
    gateway = Gateway(settings, db, ca, DatabaseLedger(db, ca, depot, certificate_s))
    async with gateway.running():
        yield Replica(db=db, ca=ca, gateway=gateway, address=address, depot=depot)


class Echo:
    """A console of a machine that says hello and then repeats what it is told."""

    def __init__(self, greeting: bytes) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.heard.put_nowait(greeting)
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self.heard.get()) != b"bye":
            yield data

    async def send(self, data: bytes) -> None:
        self.heard.put_nowait(data)


@dataclass
class Host:
    """The rest of an agent: believes what it is told, reports what a test says."""

    vms: tuple[VmObserved, ...] = ()
    told: list[DesiredState] = field(default_factory=list[DesiredState])
    intent: NodeIntent | None = None
    facts_now: NodeFacts = field(default_factory=facts)
    wrong: tuple[Condition, ...] = ()
    consoles: dict[VmId, Echo] = field(default_factory=dict[VmId, Echo])
    tails: list[int] = field(default_factory=list[int])

    async def facts(self) -> NodeFacts:
        return self.facts_now

    async def usage(self) -> Usage:
        return USAGE

    def conditions(self) -> tuple[Condition, ...]:
        return self.wrong

    def digest(self) -> str:
        return codec.digest(self.intent) if self.intent is not None else ""

    def report(self) -> Report:
        return Report(vms=self.vms)

    async def on_desired(self, state: DesiredState) -> None:
        self.told.append(state)
        self.intent = state.intent if state.intent is not None else self.intent

    @asynccontextmanager
    async def open_stream(self, kind: StreamKind, vm: VmId, tail_bytes: int) -> AsyncGenerator[Echo]:
        if vm not in self.consoles:
            raise NotFoundError("vm_not_here", "this node has no such machine", hint="look at the machine's node")
        self.tails.append(tail_bytes)
        try:
            yield self.consoles[vm]
        finally:
            self.consoles[vm].closed = True


def instance(db: Database) -> str:
    """What names one start of an agent."""
    return make_id("run", db.clock.now(), os.urandom(10))


@asynccontextmanager
async def linked(
    at: Replica, identity: Identity, files: IdentityFiles, host: Host, *, name: str = ""
) -> AsyncGenerator[Link]:
    """An agent's link that is kept up until the block ends."""
    link = Link(identity, files, host, at.db.clock, lambda: 0.5, name or instance(at.db))
    running = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()


# An agent by hand, for what no agent of ours would send


@asynccontextmanager
async def dialled(
    address: str, path: str, roots_pem: str, pair: Path | None = None, **options: object
) -> AsyncGenerator[ClientConnection]:
    """A connection to a path, with a certificate or without."""
    context: ssl.SSLContext = trusting(roots_pem)
    if pair is not None:
        context.load_cert_chain(pair)
    uri = f"wss://{address}{path}"
    async with connect(uri, ssl=context, compression=None, proxy=None, close_timeout=1, **options) as connection:  # type: ignore[arg-type]
        yield connection


def hello(db: Database, node: NodeId, **changes: object) -> Hello:
    """A proper greeting, unless changed."""
    values: dict[str, object] = {
        "newest": version.CURRENT,
        "oldest": version.OLDEST,
        "node": node,
        "instance": instance(db),
        "facts": facts(),
        "sent_at": db.clock.now(),
    }
    return Hello(**(values | changes))  # type: ignore[arg-type]


async def say(connection: ClientConnection, message: FromAgent | bytes | str) -> None:
    """Send a message, or whatever else."""
    await connection.send(message if isinstance(message, bytes | str) else codec.encode(message))


async def hear(connection: ClientConnection, timeout: float = 5.0) -> FromControl:
    """The next message."""
    async with within(timeout):
        return codec.decode_from_control(await connection.recv(decode=False))


async def greeted(connection: ClientConnection, db: Database, node: NodeId, **changes: object) -> Welcome:
    """Greet and be welcome."""
    await say(connection, hello(db, node, **changes))
    answer = await hear(connection)
    assert isinstance(answer, Welcome), answer
    return answer


async def refused(connection: ClientConnection) -> Refused:
    """The next message, which must be a refusal with a hint, and the last."""
    answer = await hear(connection)
    assert isinstance(answer, Refused), answer
    assert answer.hint
    async with within(5):
        await connection.wait_closed()
    return answer
