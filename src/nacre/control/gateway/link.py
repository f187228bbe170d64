"""The control connection of one agent, from its Hello to its end.

Made by `gateway/server.py` for each connection to /agent. It rings the agent when the node's desired state may have
changed, answers pulls, stores facts before it acknowledges them, and renews certificates. It decides nothing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import structlog
from websockets.asyncio.server import ServerConnection

from nacre.control.auth.ca import Peer
from nacre.control.gateway import wire
from nacre.control.gateway.leases import Renewals
from nacre.control.gateway.ledger import Ledger
from nacre.control.wake import Bell
from nacre.errors import ForbiddenError, NacreError
from nacre.lib.clock import Clock
from nacre.model.ids import NodeId
from nacre.model.nodes import Condition, ConditionKind
from nacre.protocol import codec, version
from nacre.protocol.messages import (
    DesiredState,
    FromAgent,
    FromControl,
    Heartbeat,
    Hello,
    Observed,
    ObservedAck,
    Pull,
    Renew,
    Renewed,
    Rotate,
    Wake,
    Welcome,
)

MAX_CLOCK_SKEW = timedelta(seconds=5)
_SLOW_POLL_S = 600.0

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What agents are told when they connect. Seconds."""

    heartbeat_s: float
    resync_s: float
    lease_s: float = 0.0
    """How long a granted lease lasts."""
    renew_s: float = 0.0
    """How often an agent asks for one while it needs one."""


def check_hello(hello: Hello, peer: Peer) -> int:
    """Return the protocol version to speak. Raises NacreError if the agent is not who it says, or too old or new."""
    if hello.node != peer.node:
        raise ForbiddenError(
            "node_mismatch",
            "the agent claims to be another node than its certificate says",
            hint="each agent needs a data directory of its own; enrol this one again",
        )
    return version.negotiate(hello.newest, hello.oldest)


class Link:
    """One connected agent."""

    def __init__(
        self,
        connection: ServerConnection,
        peer: Peer,
        hello: Hello,
        ledger: Ledger,
        renewals: Renewals,
        clock: Clock,
        on_heartbeat: Callable[[NodeId, Heartbeat], None],
    ) -> None:
        self.peer = peer
        self.instance = hello.instance
        self._connection = connection
        self._ledger = ledger
        self._renewals = renewals
        self._clock = clock
        self._on_heartbeat = on_heartbeat
        self._skewed_since: datetime | None = None
        self._rung = True
        """Whether the next pull follows a ring, or is the first; others are only to be sure."""

    @property
    def node(self) -> NodeId:
        """Whose link this is."""
        return self.peer.node

    @property
    def has_unread(self) -> bool:
        """Whether the agent has sent something that was not looked at yet."""
        return wire.has_unread(self._connection)

    def cut(self) -> None:
        """Break the connection without a word."""
        log.info("link.cut", node=self.node, reason="nothing is heard on it")
        self._connection.transport.abort()

    async def send(self, message: FromControl) -> None:
        """Send one message. Raises PeerGoneError."""
        await wire.send(self._connection, message)

    async def drop(self, error: NacreError) -> None:
        """Tell the agent why and hang up. Never raises for an agent that is gone already."""
        log.info("link.dropped", node=self.node, code=error.code)
        try:
            await wire.send(self._connection, wire.refusal(error), timeout=1.0)
        except wire.PeerGoneError:
            return
        await self._connection.close(1008, error.code)

    async def run(self, terms: Terms, agreed: int, bell: Bell) -> None:
        """Serve the agent until the connection ends. Raises NacreError for what an agent must not send."""
        welcome = Welcome(
            version=agreed,
            heartbeat_s=terms.heartbeat_s,
            resync_s=terms.resync_s,
            server_time=self._clock.now(),
            lease_s=terms.lease_s,
            renew_s=terms.renew_s,
        )
        await self.send(welcome)
        ringing = asyncio.create_task(self._ring(bell), name=f"ring {self.node}")
        try:
            while True:
                await self._handle(await wire.receive(self._connection))
        finally:
            ringing.cancel()
            await asyncio.wait([ringing])

    async def _ring(self, bell: Bell) -> None:
        try:
            while True:
                if not await bell.wait(_SLOW_POLL_S):
                    continue  # the gateway looks at all links at once, and often
                self._rung = True
                await self.send(Wake())
                refused = await self._ledger.refused({self.node: self.peer})
                if self.node in refused:
                    await self.drop(refused[self.node])
                    return
        except wire.PeerGoneError:
            return
        except Exception:
            # The agent comes back and pulls, so nothing is missed by hanging up.
            log.exception("link.ring_failed", node=self.node, next="the agent connects again")
            self._connection.transport.abort()

    async def _handle(self, message: FromAgent) -> None:
        match message:
            case Heartbeat():
                self._on_heartbeat(self.node, self._with_skew(message))
            case Renew():
                await self._renew(message)
            case Pull(digest=digest):
                await self.send(await self._desired(digest))
            case Observed():
                await self._ledger.observed(self.node, self.instance, message)
                await self.send(ObservedAck(sequence=message.sequence))
            case Rotate(csr_pem=csr_pem):
                await self._rotate(csr_pem)
            case _:
                raise wire.unexpected(message)

    async def _renew(self, message: Renew) -> None:
        granted = await self._renewals.ask(self.node, message.tenure)
        if granted is not None:
            await self.send(Renewed(sequence=message.sequence, granted=granted))

    async def _desired(self, known: str) -> DesiredState:
        patient, self._rung = not self._rung, False
        intent = await self._ledger.desired(self.node, patient=patient)
        digest = codec.digest(intent)
        return DesiredState(digest=digest, intent=None if digest == known else intent)

    async def _rotate(self, csr_pem: str) -> None:
        try:
            rotated, peer = await self._ledger.rotate(self.node, csr_pem)
        except NacreError as error:
            log.warning("link.rotation_refused", node=self.node, code=error.code, next="the agent tries again")
            await self.send(wire.refusal(error))
            return
        await self.send(rotated)
        self.peer = peer
        log.info("link.certificate_rotated", node=self.node, expires_at=self.peer.expires_at.isoformat())

    def _with_skew(self, beat: Heartbeat) -> Heartbeat:
        now = self._clock.now()
        skew = beat.sent_at - now
        if abs(skew) <= MAX_CLOCK_SKEW:
            self._skewed_since = None
            return beat
        self._skewed_since = self._skewed_since or now
        return msgspec.structs.replace(beat, conditions=(*beat.conditions, clock_skew(skew, self._skewed_since)))


def clock_skew(skew: timedelta, since: datetime) -> Condition:
    """Return the condition of a node whose clock is `skew` ahead of the control plane's."""
    direction = "ahead of" if skew > timedelta() else "behind"
    return Condition(
        kind=ConditionKind.CLOCK_SKEW,
        message=f"the clock of the node is {abs(skew).total_seconds():.0f} s {direction} the control plane's",
        hint="run a time service (chrony, systemd-timesyncd) on both",
        since=since,
    )
