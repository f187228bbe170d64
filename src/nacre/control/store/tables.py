"""Every table, by importing every store module. For migrations and tests; a new store module adds its line here."""

from nacre.control.store import (
    ca,
    claims,
    events,
    grants,
    idempotency,
    images,
    leases,
    operations,
    projects,
    stream_requests,
    tokens,
    users,
)
from nacre.control.store.db import metadata

__all__ = [
    "ca",
    "claims",
    "events",
    "grants",
    "idempotency",
    "images",
    "leases",
    "metadata",
    "operations",
    "projects",
    "stream_requests",
    "tokens",
    "users",
]
