"""Bodies of /v1/vms."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.convergence import Conditions
from nacre.model.guests import GuestInfo
from nacre.model.hardware import DeviceOptions
from nacre.model.ids import NodeId, VmId
from nacre.model.images import ImageId
from nacre.model.placement import MAX_PRIORITY, Placement
from nacre.model.vms import (
    DEFAULT_STOP_TIMEOUT_S,
    MAX_DISK,
    MAX_MEMORY,
    MIN_DISK,
    MIN_MEMORY,
    Desired,
    HaPolicy,
    MachineType,
    NicSpec,
    Phase,
    PublishedPort,
    RestartPolicy,
    RunInfo,
    VmSpec,
)
from nacre.schema.common import Body, Out, ProjectRef
from nacre.schema.guests import CloudInitBody

MIB = 1 << 20
Cpus = Annotated[int, msgspec.Meta(ge=1, le=256)]
MemoryBytes = Annotated[int, msgspec.Meta(ge=MIN_MEMORY, le=MAX_MEMORY, multiple_of=MIB)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)]
DiskBytes = Annotated[int, msgspec.Meta(ge=MIN_DISK, le=MAX_DISK, multiple_of=512)]


class VmCreate(Body, frozen=True, kw_only=True):
    """A new machine. What is null comes from the image's defaults, then from Nacre's."""

    name: str
    image: str
    """Name or id of an image that is ready."""
    project: str = "default"
    labels: dict[str, str] = {}
    start: bool = True
    hypervisor: str = "qemu"
    machine: MachineType = MachineType.Q35
    cpus: Cpus | None = None
    memory_bytes: MemoryBytes | None = None
    disk_bytes: DiskBytes | None = None
    kernel_args: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    nics: Annotated[tuple[NicSpec, ...], msgspec.Meta(max_length=8)] = (NicSpec(),)
    publish: Annotated[tuple[PublishedPort, ...], msgspec.Meta(max_length=64)] = ()
    restart: RestartPolicy = RestartPolicy.ON_FAILURE
    stop_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = DEFAULT_STOP_TIMEOUT_S
    placement: Placement = Placement()
    """Where it may and should go."""
    ha: HaPolicy = HaPolicy.NONE
    """What happens to it when its node is lost."""
    priority: Priority = 100
    """Higher goes first when machines wait for room or are restarted elsewhere."""
    preemptible: bool = False
    """May be stopped to make room for a machine of higher priority."""
    devices: DeviceOptions = DeviceOptions()
    """Consoles and small devices; `graphics: vnc` gives it a screen."""
    cloud_init: CloudInitBody | None = None
    """What the guest's cloud-init is given."""


class VmUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays. What needs a restart is named in `restart_required` until it happened."""

    labels: dict[str, str] | None = None
    cpus: Cpus | None = None
    memory_bytes: MemoryBytes | None = None
    publish: Annotated[tuple[PublishedPort, ...], msgspec.Meta(max_length=64)] | None = None
    restart: RestartPolicy | None = None
    stop_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] | None = None
    placement: Placement | None = None
    """Judged when it is placed next; a machine that has a node stays there."""
    ha: HaPolicy | None = None
    priority: Priority | None = None
    preemptible: bool | None = None
    cloud_init: CloudInitBody | None = None
    """In place of all that the guest's cloud-init was given before; an empty object gives it nothing any more."""


class VmStop(Body, frozen=True, kw_only=True):
    """How to stop."""

    force: bool = False
    """Switch off at once instead of asking the guest first."""


class ImageRef(Out, frozen=True, kw_only=True):
    """The image that a machine boots from."""

    id: ImageId
    name: str


class NodeRef(Out, frozen=True, kw_only=True):
    """The node that a machine is placed on."""

    id: NodeId
    name: str


class VmOut(Out, frozen=True, kw_only=True):
    """A machine: what was asked (`spec`, `desired`), what is (`phase`, `run`), and how far apart they are."""

    id: VmId
    name: str
    project: ProjectRef
    labels: dict[str, str]
    spec: VmSpec
    image: ImageRef
    desired: Desired
    phase: Phase
    since: datetime
    node: NodeRef | None
    run: RunInfo | None
    conditions: Conditions
    restart_required: tuple[str, ...]
    """Names of fields that take effect only when it is next started."""
    fence: int = 0
    """The fencing token of its placement: every placement of a machine has a higher one than all before."""
    guest: GuestInfo | None = None
    """What the agent in the guest says; null if none has said anything since the start."""
    decision: str = ""
    """Why it is where it is, or nowhere yet, in one sentence; more is in its explanation."""
    created_at: datetime
    updated_at: datetime
    etag: str
