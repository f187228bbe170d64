"""The agent's link to its control plane: dialled out, kept up, and replaced when it breaks. Run by `main`.

The agent works on while the link is down: facts wait in the outbox, and streams that are open stay open. Losing the
link is never a reason to touch a guest.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from nacre.agent import streams
from nacre.agent.dialer import Dialer
from nacre.agent.identity import Identity, IdentityFiles
from nacre.agent.lease import Lease
from nacre.agent.outbox import Outbox
from nacre.agent.rotation import Rotation
from nacre.agent.session import Reporter, Session
from nacre.agent.streams import Duplex
from nacre.errors import NacreError, UnauthenticatedError
from nacre.lib.backoff import Backoff
from nacre.lib.clock import Clock
from nacre.model.ids import ImageId, VmId
from nacre.model.images import Role
from nacre.model.vms import VmObserved
from nacre.model.volumes import VolumeObserved
from nacre.protocol import paths
from nacre.protocol.messages import OpenStream, StreamKind

MAX_STREAMS = 256
_STABLE_S = 10.0
"""A link that held this long was a good one: the next waits start short again."""
_HOPELESS_S = 60.0
"""Between tries when the control plane has said no for good; an operator may change its mind."""

URGENT_WAIT_S = 1.0
_URGENT_REACH_S = 2.0
"""Between tries, and for each, while machines run on a lease: a cut of 30 s must not cost more than its 35 s."""

log = structlog.get_logger()


class Handler(Reporter, Protocol):
    """The rest of the agent, as the link sees it."""

    def open_stream(self, kind: StreamKind, vm: VmId, tail_bytes: int) -> AbstractAsyncContextManager[Duplex]:
        """Open what the control plane wants to see. Entering raises NacreError if it cannot be opened."""
        ...


class Link:
    """The link of one agent."""

    def __init__(
        self,
        identity: Identity,
        files: IdentityFiles,
        handler: Handler,
        clock: Clock,
        random: Callable[[], float],
        instance: str,
        dialer: Dialer | None = None,
        lease: Lease | None = None,
    ) -> None:
        """`instance` must sort after those of earlier starts: an id of `model.ids.make_id`.

        `lease` is None for a node that runs nothing which needs one.
        """
        self._dialer = dialer or Dialer(identity)
        self._rotation = Rotation(files, self._dialer, clock)
        self._handler = handler
        self._clock = clock
        self._random = random
        self._instance = instance
        self._outbox = Outbox()
        self._lease = lease
        self._backoff = Backoff(first=0.25, cap=15.0, random=random)
        self._session: Session | None = None
        self._address = identity.gateways[0] if identity.gateways else ""
        self._told = ""
        self._streams: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        """Whether the control plane can be talked to now."""
        return self._session is not None

    def observe(self, vms: tuple[VmObserved, ...]) -> None:
        """Tell the control plane of changed machines: at once, or when it is back. Never waits."""
        self._outbox.add(vms)
        if self._session is not None:
            self._session.nudge()

    def observe_volume(self, volume: VolumeObserved) -> None:
        """Tell the control plane of a changed volume: at once, or when it is back. Never waits."""
        self._outbox.add_volume(volume)
        if self._session is not None:
            self._session.nudge()

    def report(self) -> None:
        """Tell the control plane everything, after what waits already."""
        self._outbox.want_complete()
        if self._session is not None:
            self._session.nudge()

    def fetch_artifact(self, image: ImageId, role: Role, offset: int) -> AsyncIterator[bytes]:
        """Yield the bytes of an image's artifact from `offset` on. Raises NacreError."""
        return streams.fetch_artifact(self._dialer, self._address, image, role, offset)

    async def run(self) -> None:
        """Keep the link up until cancelled. Streams end with it."""
        try:
            while True:
                # In a task of its own, because a task group that ended by an error can leave a request to cancel
                # behind in its task (Python 3.11), and then no time-out in that task is taken for one any more.
                wait = await asyncio.create_task(self._once(), name="link once")
                await asyncio.sleep(wait)
        finally:
            for task in self._streams:
                task.cancel()
            if self._streams:
                await asyncio.wait(self._streams)

    async def _once(self) -> float:
        """Connect to the first address that lets us and stay connected. Returns how long to wait afterwards."""
        hopeless = bool(self._addresses())
        for address in self._addresses():
            began = asyncio.get_running_loop().time()
            try:
                await self._connect(address)
            except NacreError as error:
                self._down(address, error)
                hopeless = hopeless and not error.retryable
            except Exception:
                log.exception("link.failed", address=address, next="connects again")
                hopeless = False
            was_up, self._session = self._session is not None, None
            if was_up:
                if asyncio.get_running_loop().time() - began > _STABLE_S:
                    self._backoff.reset()
                break
        if hopeless:
            return _HOPELESS_S * (0.5 + 0.5 * self._random())
        return self._backoff.next(URGENT_WAIT_S if self._is_urgent else None)

    @property
    def _is_urgent(self) -> bool:
        """Whether machines are at stake that stand still when the link is down for too long."""
        return self._lease is not None and self._lease.is_needed

    def _addresses(self) -> list[str]:
        """Every address, beginning with the one that worked last."""
        return sorted(self._dialer.identity.gateways, key=lambda address: address != self._address)

    async def _connect(self, address: str) -> None:
        if self._dialer.identity.expires_at <= self._clock.now():
            raise UnauthenticatedError(
                "certificate_expired",
                "the node's certificate has expired, because it was away from its control plane for too long",
                hint="remove the identity folder of the agent's data and enrol with `nacre node token create`",
            )
        self._dialer.reach_s = _URGENT_REACH_S if self._is_urgent else None
        async with self._dialer.dial(address, paths.AGENT) as connection:
            session = Session(
                connection,
                node=self._dialer.identity.node,
                instance=self._instance,
                reporter=self._handler,
                outbox=self._outbox,
                rotation=self._rotation,
                clock=self._clock,
                random=self._random,
                open_stream=self._open_stream,
                lease=self._lease,
            )
            await session.greet()
            self._session, self._address, self._told = session, address, ""
            log.info("link.up", address=address, node=self._dialer.identity.node)
            await session.run()

    def _down(self, address: str, error: NacreError) -> None:
        """Say once why there is no link, and again only if the reason changes."""
        if error.code != self._told:
            self._told = error.code
            log.warning(
                "link.down",
                address=address,
                code=error.code,
                message=error.message,
                hint=error.hint,
                next="tries again",
            )

    def _open_stream(self, request: OpenStream) -> None:
        if len(self._streams) >= MAX_STREAMS:
            log.warning("stream.refused", vm=request.vm, open=len(self._streams), next="the viewer may try again")
            return
        source = self._handler.open_stream(request.kind, request.vm, request.tail_bytes)
        task = asyncio.create_task(
            streams.carry(self._dialer, self._address, request, source), name=f"stream {request.stream}"
        )
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
