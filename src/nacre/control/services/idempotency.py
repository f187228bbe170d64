"""Idempotency keys: a request that is sent twice changes things once. Used by `request` around every change."""

from datetime import timedelta

from nacre.control.auth.principals import Principal
from nacre.control.store import idempotency as store
from nacre.control.store.db import Tx
from nacre.control.store.idempotency import StoredAnswer
from nacre.errors import ConflictError

KEPT = timedelta(hours=24)


async def replay(tx: Tx, principal: Principal, key: str, fingerprint: str) -> StoredAnswer | None:
    """Return the answer that this user got for this key in the last 24 hours, if any.

    Raises ConflictError if the key came with another request. Two requests with one key at once wait for each other.
    """
    stored = await store.take(tx, principal.user, key)
    await store.forget(tx, tx.now() - KEPT)
    if stored is None or stored.created_at <= tx.now() - KEPT:
        return None
    if stored.fingerprint != fingerprint:
        raise ConflictError(
            "idempotency_key_reused",
            "this Idempotency-Key was used for a different request",
            hint="use a fresh key for each request, and the same one only to repeat it unchanged",
        )
    return stored


async def remember(tx: Tx, principal: Principal, key: str, fingerprint: str, *, status: int, body: bytes) -> None:
    """Keep the answer of a request, in the transaction of the change."""
    answer = StoredAnswer(fingerprint=fingerprint, status=status, body=body, created_at=tx.now())
    await store.put(tx, principal.user, key, answer)


__all__ = ["StoredAnswer", "remember", "replay"]
