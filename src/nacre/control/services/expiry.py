"""When something that was kept goes by itself: one check for all that expires. Used by the services of what does."""

from datetime import datetime

from nacre.control.store.db import Tx
from nacre.errors import InvalidInputError


def check(tx: Tx, expires_at: datetime | None, *, keep: bool = False) -> None:
    """Raise InvalidInputError for a time that is over or has no zone, and for one given besides `keep`."""
    if expires_at is None:
        return
    if keep:
        raise InvalidInputError(
            "expiry_twice", "it cannot both expire and not", hint="give one of the two", field="keep"
        )
    if expires_at.tzinfo is None or expires_at <= tx.now():
        raise InvalidInputError(
            "invalid_expiry",
            "the time at which it expires is over, or has no zone",
            hint="give a time in the future, such as 2030-01-01T00:00:00Z",
            field="expires_at",
        )
