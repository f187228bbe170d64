"""Inserts that may meet a unique constraint: the constraint decides, also between replicas, and our error says it."""

from sqlalchemy import Executable
from sqlalchemy.exc import IntegrityError

from nacre.control.store.db import Tx
from nacre.errors import NacreError

_UNIQUE_VIOLATION = "23505"
"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""


async def insert_unique(tx: Tx, statement: Executable, *, taken: NacreError) -> None:
    """Execute an insert. Raises `taken` if it breaks a unique constraint; the transaction is then of no more use."""
    try:
        await tx.connection.execute(statement)
    except IntegrityError as error:
        if _is_unique_violation(error):
            raise taken from error
        raise


def _is_unique_violation(error: IntegrityError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state == _UNIQUE_VIOLATION or "UNIQUE constraint failed" in str(error.orig)
