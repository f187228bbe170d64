"""Disks that nodes send to the control plane, which makes images of them: what is asked for, what is said of it.

On a stream of the kind `export`: first a `DiskWanted`, then `DiskStatus` after `DiskStatus` while the node makes a copy
of the disk. The last one has a size, and so many bytes follow, or says why none do. Pure.
"""

import msgspec

from nacre.model.ids import CheckpointId

BUSY = "exports_busy"
"""The code of an answer that says: later, there are others before you."""


class DiskWanted(msgspec.Struct, frozen=True, kw_only=True):
    """The root disk of the stream's machine, as a checkpoint keeps it."""

    checkpoint: CheckpointId


class DiskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far the copy is."""

    gathered_bytes: int = 0
    """So much of it is there."""
    size_bytes: int | None = None
    """It is whole: so many bytes follow, and nothing else."""
    code: str = ""
    """Why there will be none; empty while all is well."""
    message: str = ""
    hint: str = ""
    retryable: bool = False
    """Whether it may be there another time."""
