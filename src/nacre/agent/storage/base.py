"""What every storage driver is. Called by `agent/vms`, with directories that belong to the agent.

A driver makes and removes disks. It never starts anything and never touches what it did not make.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nacre.agent.hypervisors.launch import DiskFile
from nacre.model.images import Format


@dataclass(frozen=True, kw_only=True)
class BaseDisk:
    """A verified disk image in the node's cache, from which machines' disks are derived. Never written to."""

    path: Path
    format: Format


class Storage(Protocol):
    """A driver."""

    async def ensure(self, directory: Path, disk: str, *, base: BaseDisk | None, size_bytes: int | None) -> DiskFile:
        """Return the disk called `disk` of the machine that owns `directory`, making it or growing it if need be.

        With a base it starts as a copy of it (and takes its size if none is given), without one it is blank and needs
        a size. May be repeated, also after a crash at any moment; the machine must not be running. Content is never
        lost and a disk never shrinks. Raises DriverError.
        """
        ...

    async def sizes(self, directory: Path) -> dict[str, int]:
        """Return the disks that there are of a machine, and how large the guest sees them. Raises DriverError."""
        ...

    async def remove(self, directory: Path, disk: str) -> None:
        """Remove a disk and what an interrupted `ensure` left of it. May be repeated."""
        ...
