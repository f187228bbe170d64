"""Leases: one replica at a time does what must not be done twice. Used by reconcilers that are singletons.

A holder acts in transactions that `guard` first, so that one who slept through the end of its term changes nothing.
The clocks of replicas should agree better than the time to live; if they do not, work pauses but is not done twice.
"""

from datetime import timedelta

from nacre.control.store import leases as store
from nacre.control.store.db import Tx
from nacre.errors import ConflictError


async def acquire(tx: Tx, name: str, holder: str, ttl: timedelta) -> int | None:
    """Take or renew the lease. Return its fencing term, or None while another holds it."""
    return await store.take(tx, name, holder, ttl)


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
