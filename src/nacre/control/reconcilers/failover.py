"""What lost nodes ran is started elsewhere. Run by `main` in every replica: all of them count, one of them acts.

Who acts holds a lease row, so that there is one rate for the platform. That it is one is a matter of order and not of
safety: every step is checked again under the lock of the node it is about (see `services.failover_rules`).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from nacre.control.reconcilers.failover_counts import Bucket, Counts
from nacre.control.reconcilers.loop import Loop
from nacre.control.services import failover, leases
from nacre.control.services.failover import Picture, Standing, Terms, Watching
from nacre.control.store.db import Database
from nacre.control.store.node_leases import LeaseRow, RestartableRow
from nacre.model.ids import VmId
from nacre.model.nodes import NodeState

LEASE = "failover"
POLL_S = 1.0
TTL = timedelta(seconds=10)
"""For how long who acts may be gone before another does. Counts go on meanwhile."""
_STALL_S = 3.0
_STALL_SHARE = 0.2
"""We have stood still after this time without a round, or this share of a lease if that is more."""
_TROUBLE_S = 10.0
"""A machine that could not be taken is tried again after this; the others do not wait for it."""

log = structlog.get_logger()


class Failover:
    """Gives up nodes whose leases have ended, and takes machines off them by priority."""

    def __init__(self, db: Database, holder: str, terms: Terms) -> None:
        """`holder` names this process and no other."""
        self._db = db
        self._holder = holder
        self._terms = terms
        self._counts = Counts(max(_STALL_S, _STALL_SHARE * terms.lease_s))
        self._bucket = Bucket(terms.per_s)
        self._held: bool | None = None
        """What was told last; None while that is not known."""
        self._other: tuple[tuple[int, datetime], float] | None = None
        """The lease of another holder as it was last seen to change, and when that was."""
        self._troubled: dict[VmId, float] = {}

    @property
    def watching(self) -> Watching:
        """What operators' requests are answered from."""
        return Watching(terms=self._terms, silence=self._silence)

    def loop(self) -> Loop:
        """Return the loop to run."""
        return Loop("failover", self._db.wakes, (), self.round, poll_s=POLL_S)

    async def round(self) -> float | None:
        """Read, count, and act if that is on us. Due again when the next machine may be taken."""
        try:
            picture, was_held = await self._read()
            found = failover.standings(picture, self.watching)
            lost = [one for one in found if failover.in_mass_loss(one, self._terms)]
            due = [one for one in found if failover.is_due(one)]
            given_up = {node.id for node in picture.watched if node.state is NodeState.FAILED}
            queue = [vm for vm in picture.waiting if vm.node in given_up]
            over = was_held and not lost
            term = await self._acquire() if due or queue or over else None
        except Exception:
            self._counts.restart()  # while the database is away, that nobody renews says nothing about nodes
            raise
        if term is None:
            return None
        held = [one for one in due if one in lost]
        if held or over:
            await self._tell(term, held)
        gone = [await self._give_up(term, one) for one in due if one not in lost]
        next_s = await self._take(term, queue)
        return 0.0 if any(gone) else next_s

    def _silence(self, row: LeaseRow) -> float:
        return self._counts.silence(row, self._db.clock.monotonic())

    async def _read(self) -> tuple[Picture, bool]:
        async with self._db.read() as rd:
            picture = await failover.load(rd)
            was_held = await failover.was_held(rd) if self._held is None else self._held
        self._held = was_held
        self._counts.note(picture.watched, self._db.clock.monotonic())
        return picture, was_held

    async def _acquire(self) -> int | None:
        """Return the term in which we act, None if it is another replica that does.

        Ends of leases are wall time. One that has not changed for its whole length on our own clock is not held by
        anybody, whatever its end says: it may have been written by a clock that was wrong.
        """
        async with self._db.write() as tx:
            term = await leases.acquire(tx, LEASE, self._holder, TTL)
            if term is None:
                seen, now = await leases.look(tx, LEASE), self._db.clock.monotonic()
                if seen is None or self._other is None or self._other[0] != seen:
                    self._other = None if seen is None else (seen, now)
                elif now - self._other[1] > TTL.total_seconds():
                    term = await leases.seize(tx, LEASE, self._holder, TTL, seen)
        if term is None:
            self._held = None  # the other one tells, so we look again what was told
        else:
            self._other = None
        return term

    async def _tell(self, term: int, held: Sequence[Standing]) -> None:
        if bool(held) is self._held:
            return
        worst = max(held, key=lambda one: one.lost, default=None)
        async with self._db.write() as tx:
            await leases.guard(tx, LEASE, term)
            names = [one.node.name for one in held]
            await failover.tell_hold(tx, names, worst.lost if worst else 0, worst.of if worst else 0)
        self._held = bool(held)
        if worst is not None:
            log.warning("failover.held", nodes=len(held), lost=worst.lost, of=worst.of, next="an operator may confirm")
        else:
            log.info("failover.released")

    async def _give_up(self, term: int, one: Standing) -> bool:
        node = one.node
        async with self._db.write() as tx:
            await leases.guard(tx, LEASE, term)
            done = await failover.give_up(
                tx, node.id, tenure=node.tenure, renewals=node.renewals, silent_s=one.silent_s
            )
        if done:
            log.warning("failover.node_given_up", node=node.id, name=node.name, silent_s=round(one.silent_s, 1))
        return done

    async def _take(self, term: int, queue: Sequence[RestartableRow]) -> float | None:
        """Take as many machines as may be taken now, and return when more may; None if there are no more."""
        now = self._db.clock.monotonic()
        self._bucket.fill(now)
        self._troubled = {vm: until for vm, until in self._troubled.items() if until > now}
        for vm in queue:
            if vm.id in self._troubled:
                continue
            if not self._bucket.take():
                return self._bucket.next_s
            try:
                async with self._db.write() as tx:
                    await leases.guard(tx, LEASE, term)
                    taken = await failover.take(tx, vm.id, vm.node)
            except Exception:
                self._troubled[vm.id] = now + _TROUBLE_S
                raise
            if taken:
                log.info("failover.vm_taken", vm=vm.id, node=vm.node, priority=vm.priority)
        return None
