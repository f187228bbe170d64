"""The table of answers that are given again when a request is repeated with its Idempotency-Key."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, Table, Text, delete, insert, select, text

from nacre.control.store.db import Tx, metadata
from nacre.control.store.rows import load
from nacre.control.store.types import Timestamp
from nacre.model.ids import UserId

answers = Table(
    "idempotency_answers",
    metadata,
    Column("user", Text, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Timestamp, nullable=False, index=True),
)


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """What was answered the first time."""

    fingerprint: str
    status: int
    body: bytes
    created_at: datetime


async def take(tx: Tx, user: UserId, key: str) -> StoredAnswer | None:
    """Return the answer under a key, waiting for a transaction that is about to store one."""
    if tx.connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(f"{user} {key}".encode()).digest()[:8], "big", signed=True)
        await tx.connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": number})
    query = select(answers).where(answers.c.user == user, answers.c.key == key)
    row = (await tx.connection.execute(query)).one_or_none()
    return None if row is None else load(StoredAnswer, row)


async def put(tx: Tx, user: UserId, key: str, answer: StoredAnswer) -> None:
    """Store the answer under a key that has none."""
    await tx.connection.execute(insert(answers).values(user=user, key=key, **vars(answer)))


async def forget(tx: Tx, before: datetime) -> None:
    """Delete answers stored at or before a time."""
    await tx.connection.execute(delete(answers).where(answers.c.created_at <= before))
