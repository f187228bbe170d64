"""Every table, by importing every store module. For migrations and tests; a new store module adds its line here."""

from nacre.control.store import ca, events, operations, projects, stream_requests
from nacre.control.store.db import metadata

__all__ = ["ca", "events", "metadata", "operations", "projects", "stream_requests"]
