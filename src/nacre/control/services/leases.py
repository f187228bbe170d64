"""Leases: one replica at a time does what must not be done twice. Used by reconcilers that are singletons.

A holder acts in transactions that `guard` first, so that one who slept through the end of its term changes nothing.
The clocks of replicas should agree better than the time to live; if they do not, work pauses but is not done twice.
"""

from datetime import datetime, timedelta

from nacre.control.store import leases as store
from nacre.control.store.db import Read, Tx
from nacre.errors import ConflictError


async def acquire(tx: Tx, name: str, holder: str, ttl: timedelta) -> int | None:
    """Take or renew the lease. Return its fencing term, or None while another holds it."""
    return await store.take(tx, name, holder, ttl)


async def look(rd: Read, name: str) -> tuple[int, datetime] | None:
    """Return the term of a lease and when it ends; None if nobody ever held it."""
    return await store.look(rd, name)


async def seize(tx: Tx, name: str, holder: str, ttl: timedelta, seen: tuple[int, datetime]) -> int | None:
    """Take a lease that is still as it was `seen`, whatever its end says. Return the new term, None if it has changed.

    For who has seen it stand still for longer than `ttl` on a clock of its own: the end that is written may come from a
    clock that was wrong. Whoever held it changes nothing any more, because its term is over.
    """
    return await store.seize(tx, name, holder, ttl, seen)


async def guard(tx: Tx, name: str, term: int) -> None:
    """Raise ConflictError unless `term` still runs. Nobody can take the lease until `tx` ends."""
    ends = await store.end_of(tx, name, term)
    if ends is None or ends <= tx.now():
        raise ConflictError(
            "lease_lost", f"the lease {name} is no longer held", hint="acquire it again and look at what changed"
        )


async def release(tx: Tx, name: str, term: int) -> None:
    """Let the next one have it at once, as a replica does when it shuts down."""
    await store.release(tx, name, term)
