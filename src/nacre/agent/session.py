"""One connection to the control plane, from Hello until it breaks. Made by `link.py`, which makes another afterwards.

Tells facts, asks for the desired state, says that the node lives, and has its certificate replaced in time. What comes
in is handed on; nothing is decided here.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from websockets.asyncio.client import ClientConnection

from nacre.agent import dialer
from nacre.agent.dialer import RefusedError
from nacre.agent.lease import Lease
from nacre.agent.outbox import Outbox, Report
from nacre.agent.rotation import Rotation
from nacre.errors import InvalidInputError, NacreError
from nacre.lib.clock import Clock
from nacre.lib.tasks import apart
from nacre.model.ids import NodeId
from nacre.model.nodes import Condition, NodeFacts, Usage
from nacre.protocol import version
from nacre.protocol.messages import (
    DesiredState,
    FromControl,
    Heartbeat,
    Hello,
    ObservedAck,
    OpenStream,
    Pull,
    Refused,
    Renewed,
    Rotated,
    Wake,
    Welcome,
)

ACK_TIMEOUT_S = 60.0
RENEW_TIMEOUT_S = 3.0
"""While machines run on a lease, a control plane that does not answer for so long is given up and dialled again."""


class Reporter(Protocol):
    """What a session asks of the rest of the agent. None of it may take long."""

    async def facts(self) -> NodeFacts:
        """What this host is."""
        ...

    async def usage(self) -> Usage:
        """What is in use on this host now."""
        ...

    def conditions(self) -> tuple[Condition, ...]:
        """What is wrong with this host now."""
        ...

    def digest(self) -> str:
        """The digest of the desired state that the agent acts on; empty if it has none."""
        ...

    def report(self) -> Report:
        """Everything that the agent holds now."""
        ...

    async def on_desired(self, state: DesiredState) -> None:
        """Take the desired state and return once it is safe on disk. An intent of None says that the digest holds."""
        ...


class Session:
    """One connection. It ends by raising NacreError."""

    def __init__(
        self,
        connection: ClientConnection,
        *,
        node: NodeId,
        instance: str,
        reporter: Reporter,
        outbox: Outbox,
        rotation: Rotation,
        clock: Clock,
        random: Callable[[], float],
        open_stream: Callable[[OpenStream], None],
        lease: Lease | None = None,
    ) -> None:
        """`lease` is None for a node that runs nothing which needs one."""
        self._connection = connection
        self._node = node
        self._instance = instance
        self._reporter = reporter
        self._outbox = outbox
        self._rotation = rotation
        self._clock = clock
        self._random = random
        self._open_stream = open_stream
        self._lease = lease
        self._renewed: asyncio.Queue[Renewed] = asyncio.Queue()
        self._told: asyncio.Queue[DesiredState] = asyncio.Queue()
        self._facts: NodeFacts | None = None
        self._terms: Welcome | None = None
        self._pulling = False
        self._pull_again = False
        self._outgoing = asyncio.Event()
        self._acknowledged = asyncio.Event()

    async def greet(self) -> None:
        """Say who this is and learn the terms. Raises RefusedError if the control plane will not have it."""
        self._facts = await self._reporter.facts()
        hello = Hello(
            newest=version.CURRENT,
            oldest=version.OLDEST,
            node=self._node,
            instance=self._instance,
            facts=self._facts,
            sent_at=self._clock.now(),
        )
        await dialer.send(self._connection, hello)
        self._terms = await dialer.expect(self._connection, Welcome)

    async def run(self) -> None:
        """Talk until the connection breaks. Raises NacreError."""
        if self._terms is None:
            raise RuntimeError("the session has not been greeted")
        self._rotation.reconnected()
        self._outbox.reconnected()
        self.nudge()
        try:
            await apart(self._talk(self._terms))
        except ExceptionGroup as group:
            expected, rest = group.split(NacreError)
            if expected is None or rest is not None:
                raise
            raise _first(expected) from None

    async def _talk(self, terms: Welcome) -> None:
        async with asyncio.TaskGroup() as group:
            if self._lease is not None and terms.lease_s > 0 and terms.renew_s > 0:
                group.create_task(self._renew(self._lease, terms.lease_s, terms.renew_s), name="link renew")
            group.create_task(self._listen(), name="link listen")
            group.create_task(self._obey(), name="link obey")
            group.create_task(self._tell(), name="link tell")
            group.create_task(self._live(terms.heartbeat_s), name="link live")
            group.create_task(self._resync(terms.resync_s), name="link resync")

    def nudge(self) -> None:
        """Something new is in the outbox."""
        self._outgoing.set()

    async def _renew(self, lease: Lease, lease_s: float, renew_s: float) -> None:
        """Ask for the lease again and again while something needs it. A control plane that does not answer is gone.

        One that was found silent before is given longer each time, or all the agents of one that is merely slow would
        keep it so by coming back.
        """
        while True:
            await lease.wanted()
            try:
                async with asyncio.timeout(min(RENEW_TIMEOUT_S * 2**lease.silences, lease_s / 3)):
                    question = lease.ask()
                    await dialer.send(self._connection, question)
                    while (answer := await self._renewed.get()).sequence != question.sequence:
                        pass  # of a question before
            except TimeoutError as error:
                lease.silences += 1
                raise dialer.silent() from error
            if not await lease.answered(answer, lease_s):
                await self._pull()
            await lease.pause(renew_s)

    async def _listen(self) -> None:
        while True:
            await self._take(await dialer.receive(self._connection, timeout=None))

    async def _take(self, message: FromControl) -> None:
        match message:
            case Wake():
                await self._pull()
            case DesiredState():
                self._told.put_nowait(message)
            case ObservedAck(sequence=sequence):
                self._outbox.acknowledge(sequence)
                self._acknowledged.set()
            case Renewed():
                self._renewed.put_nowait(message)
            case OpenStream():
                self._open_stream(message)
            case Rotated():
                await self._replace_certificate(message)
            case Refused():
                if not self._rotation.refused(message):
                    raise RefusedError(message)
            case _:
                raise InvalidInputError(
                    "unexpected_message",
                    f"the control plane sent {message.__class__.__name__}",
                    hint="both sides must speak the same protocol version",
                )

    async def _obey(self) -> None:
        """Take desired states. Apart from listening, so that a slow disk does not keep a lease from being heard of."""
        while True:
            await self._reporter.on_desired(await self._told.get())
            self._pulling = False
            if self._pull_again:
                await self._pull()

    async def _pull(self) -> None:
        """Ask for the desired state. Rings while an answer is on its way make one more question, not many."""
        if self._pulling:
            self._pull_again = True
            return
        self._pulling, self._pull_again = True, False
        await dialer.send(self._connection, Pull(digest=self._reporter.digest()))

    async def _tell(self) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            while (message := self._outbox.next(self._reporter.digest(), self._reporter.report)) is not None:
                self._acknowledged.clear()
                await dialer.send(self._connection, message)
                try:
                    async with asyncio.timeout(ACK_TIMEOUT_S):
                        await self._acknowledged.wait()
                except TimeoutError as error:
                    raise dialer.silent() from error

    async def _live(self, heartbeat_s: float) -> None:
        """At even intervals however long each takes, each agent at times of its own: else thousands end up in step."""
        loop = asyncio.get_running_loop()
        due = loop.time() + heartbeat_s * self._random()
        while True:
            await asyncio.sleep(due - loop.time())
            due = max(due + heartbeat_s, loop.time())
            facts = await self._reporter.facts()
            beat = Heartbeat(
                sent_at=self._clock.now(),
                usage=await self._reporter.usage(),
                conditions=self._reporter.conditions(),
                facts=None if facts == self._facts else facts,
            )
            await dialer.send(self._connection, beat)
            self._facts = facts
            request = self._rotation.request()
            if request is not None:
                await dialer.send(self._connection, request)

    async def _resync(self, resync_s: float) -> None:
        """Ask and report at once, then now and then although nothing rang, each agent at times of its own."""
        while True:
            await self._pull()
            await asyncio.sleep(resync_s * (0.75 + 0.5 * self._random()))
            if self._pulling:
                raise dialer.silent()
            self._outbox.want_complete()
            self.nudge()

    async def _replace_certificate(self, answer: Rotated) -> None:
        try:
            await self._rotation.granted(answer)
        except NacreError as error:
            self._rotation.failed(error)


def _first(group: ExceptionGroup[NacreError]) -> NacreError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
