"""What machines that have moved away leave behind on nodes: told by the control plane, and seen by agents."""

from datetime import datetime
from enum import StrEnum

import msgspec

from nacre.model.ids import VmId


class RetiredVm(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that has moved away. Placements up to `fence` are to be switched off and set aside with their disks."""

    id: VmId
    """Its id, which never changes."""
    fence: int
    """The newest placement that has ended."""


class CopyState(StrEnum):
    """What has become of what a machine left behind on a node."""

    RETIRING = "retiring"  # the node has not said yet that it has let go of it
    KEPT = "kept"  # switched off; its disks are kept until they expire or an operator discards them
    DISCARDING = "discarding"  # its disks are to be deleted


class CopyRef(msgspec.Struct, frozen=True, kw_only=True):
    """What one placement of a machine left behind on a node."""

    id: VmId
    """Its id, which never changes."""
    fence: int
    """The token of the placement."""


class CopyObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has of a retired placement."""

    id: VmId
    """Its id, which never changes."""
    fence: int
    """The token of the placement."""
    exists: bool
    """False for a placement that the node was told to retire and has nothing of."""
    size_bytes: int = 0
    """What its disks take."""
    since: datetime | None = None
    """When it was set aside."""
