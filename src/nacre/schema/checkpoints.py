"""Bodies of the checkpoints of machines."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.checkpoints import CheckpointPhase
from nacre.model.consistency import Consistency
from nacre.model.convergence import Failure
from nacre.model.ids import CheckpointId
from nacre.schema.common import Body, Out, VmRef
from nacre.schema.volumes import VolumeRef

Description = Annotated[str, msgspec.Meta(max_length=1024)]


class CheckpointCreate(Body, frozen=True, kw_only=True):
    """A new checkpoint: the machine as it is when its node takes it."""

    name: str
    """Unique among the checkpoints of the machine."""
    description: Description = ""
    """What it is for."""
    memory: bool = False
    """Memory and devices as well, so that the machine goes on where it was. It must be running or paused."""
    expires_at: datetime | None = None
    """Deleted at this time, unless protected."""
    protected: bool = False
    """Neither deleted nor expired until that is taken back."""


class CheckpointUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    description: Description | None = None
    """What it is for."""
    expires_at: datetime | None = None
    """Deleted at this time, unless protected."""
    keep: bool = False
    """Take back `expires_at`: it does not expire."""
    protected: bool | None = None
    """Whether it cannot be deleted."""


class VmRestore(Body, frozen=True, kw_only=True):
    """What to put a machine back to. What was written since is lost."""

    checkpoint: str
    """Name or id of one of its checkpoints."""
    memory: bool | None = None
    """Whether it goes on where it was. Null: if the checkpoint has memory. False: only the disks are put back."""
    stop: bool = False
    """End the machine if it runs. Without this, a machine that runs is left alone and the request refused."""
    paused: bool = False
    """With memory: leave it paused."""


class CheckpointOut(Out, frozen=True, kw_only=True):
    """A checkpoint of a machine."""

    id: CheckpointId
    """Its id, which never changes."""
    name: str
    """Its name."""
    description: str
    """What it is for."""
    vm: VmRef
    """The machine that it is of."""
    phase: CheckpointPhase
    """What has become of it."""
    consistency: Consistency | None
    """What a guest finds in it; null while it has not been taken."""
    memory: bool
    """Whether memory and devices were asked for as well."""
    volumes: tuple[VolumeRef, ...]
    """The volumes that are part of it, besides the root disk."""
    size_bytes: int
    """Of its disks, as the guest sees them."""
    memory_bytes: int
    """What its memory takes."""
    taken_at: datetime | None
    """When it was taken; null while it is not yet."""
    failure: Failure | None
    """Why it could not be taken. It is not tried again: delete it, and ask for another."""
    expires_at: datetime | None
    """When it is deleted by itself; null for never."""
    protected: bool
    """Whether it cannot be deleted."""
    created_by: str
    """Who made it."""
    created_at: datetime
    """When it was asked for."""
