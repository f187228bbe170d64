"""Bodies of /v1/instance-types."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.ids import InstanceTypeId
from nacre.schema.common import Body, Out, ProjectRef
from nacre.schema.vms import VmConfig

Description = Annotated[str, msgspec.Meta(max_length=1024)]

NOT_SIZES = frozenset({"image", "labels", "start", "publish"})
"""Parts of a configuration that are no matter of size: an instance type must not give them."""


class InstanceTypeCreate(Body, frozen=True, kw_only=True):
    """A new named size."""

    name: str
    """Lower-case letters, digits and dashes."""
    config: VmConfig
    """What machines of this type have: CPUs, memory, and whatever else of a configuration but the image, labels,
    published ports and whether to start."""
    project: str | None = "default"
    """The project that it is for; null for a type of the whole platform, which every project may use."""
    description: Description = ""
    """What people should know of it."""
    labels: dict[str, str] = {}
    """Labels of the type itself, not of machines."""


class InstanceTypeUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays. Machines that were made from it keep what they have."""

    config: VmConfig | None = None
    """What of its configuration to change: what is null stays."""
    clear: tuple[str, ...] = ()
    """Names of fields of its configuration that it should not give any more."""
    description: Description | None = None
    """What people should know of it."""
    labels: dict[str, str] | None = None
    """Free labels, all of them."""


class InstanceTypeOut(Out, frozen=True, kw_only=True):
    """A named size."""

    id: InstanceTypeId
    """Its id, which never changes."""
    name: str
    """Its name."""
    project: ProjectRef | None
    """Null for a type of the whole platform."""
    description: str
    """What people should know of it."""
    labels: dict[str, str]
    """Free labels, to select by."""
    config: VmConfig
    """The configuration that it gives."""
    revision: int
    """Raised by every change. Machines remember which one they were made from."""
    vms: int
    """How many machines were made from it and are still there."""
    created_by: str
    """Who made it."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it was last changed."""
    etag: str
    """Names this state of it; give it in If-Match to change nothing newer."""
