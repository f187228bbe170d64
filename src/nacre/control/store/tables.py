"""Every table, by importing every store module. For migrations and tests; a new store module adds its line here."""

from nacre.control.store import (
    ca,
    claims,
    enrolments,
    events,
    grants,
    idempotency,
    images,
    leases,
    nodes,
    operations,
    projects,
    published_ports,
    stream_requests,
    tokens,
    users,
    vms,
)
from nacre.control.store.db import metadata

__all__ = [
    "ca",
    "claims",
    "enrolments",
    "events",
    "grants",
    "idempotency",
    "images",
    "leases",
    "metadata",
    "nodes",
    "operations",
    "projects",
    "published_ports",
    "stream_requests",
    "tokens",
    "users",
    "vms",
]
