"""Every table, by importing every store module. For migrations and tests; a new store module adds its line here."""

from nacre.control.store import events
from nacre.control.store.db import metadata

__all__ = ["events", "metadata"]
