"""Every table, by importing every store module. For migrations and tests; a new store module adds its line here."""

from nacre.control.store import events, operations, projects
from nacre.control.store.db import metadata

__all__ = ["events", "metadata", "operations", "projects"]
