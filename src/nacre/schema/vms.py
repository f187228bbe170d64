"""Bodies of /v1/vms."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.convergence import Conditions
from nacre.model.ids import NodeId, VmId
from nacre.model.images import ImageId
from nacre.model.placement import MAX_PRIORITY, Placement
from nacre.model.templates import Origin
from nacre.model.vms import (
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

MIB = 1 << 20
MAX_COUNT = 100
MAX_FIRST_NUMBER = 1_000_000
Cpus = Annotated[int, msgspec.Meta(ge=1, le=256)]
MemoryBytes = Annotated[int, msgspec.Meta(ge=MIN_MEMORY, le=MAX_MEMORY, multiple_of=MIB)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)]
DiskBytes = Annotated[int, msgspec.Meta(ge=MIN_DISK, le=MAX_DISK, multiple_of=512)]


class VmConfig(Body, frozen=True, kw_only=True):
    """Part of a machine's configuration. What is null is not given and comes from elsewhere, from Nacre at last."""

    image: str | None = None
    """Name or id of an image that is ready."""
    labels: dict[str, str] = {}
    """Of the machine. Each key is taken from the first who gives it."""
    start: bool | None = None
    """Whether to start it at once, as it is unless told otherwise."""
    hypervisor: str | None = None
    """What runs it: `qemu` unless told otherwise."""
    machine: MachineType | None = None
    """The board: `q35` unless told otherwise."""
    cpus: Cpus | None = None
    memory_bytes: MemoryBytes | None = None
    disk_bytes: DiskBytes | None = None
    kernel_args: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    """Added to the image's kernel command line; only for images with a kernel."""
    nics: Annotated[tuple[NicSpec, ...], msgspec.Meta(max_length=8)] | None = None
    """Its network interfaces: one unless told otherwise."""
    publish: Annotated[tuple[PublishedPort, ...], msgspec.Meta(max_length=64)] | None = None
    """Ports of the node that lead to the guest."""
    restart: RestartPolicy | None = None
    """When a node starts it again by itself: `on-failure` unless told otherwise."""
    stop_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] | None = None
    """How long a graceful stop may take before it is switched off: 30 s unless told otherwise."""
    placement: Placement | None = None
    """Where it may and should go."""
    ha: HaPolicy | None = None
    """What happens to it when its node is lost: `none` unless told otherwise."""
    priority: Priority | None = None
    """Higher goes first when machines wait for room or are restarted elsewhere: 100 unless told otherwise."""
    preemptible: bool | None = None
    """May be stopped to make room for a machine of higher priority."""


class VmCreate(VmConfig, frozen=True, kw_only=True):
    """A new machine, or several of a kind. What is null comes from its instance type, then from its template, then from
    the image's defaults, then from Nacre's."""

    name: str
    """With `{n}` in it, or a `count` above 1, names are made from it: `web-{n}` becomes `web-1`, `web-2` and so on."""
    project: str = "default"
    template: str | None = None
    """Name or id of a template, with `@3` behind it for its third revision."""
    instance_type: str | None = None
    """Name or id of an instance type."""
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] = 1
    """So many machines at once: all of them or none."""
    first_number: Annotated[int, msgspec.Meta(ge=0, le=MAX_FIRST_NUMBER)] = 1
    """The number in the first name."""


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
    template: Origin | None = None
    """The template that it was made from, as it was then."""
    instance_type: Origin | None = None
    """The instance type that it was made from, as it was then."""
    decision: str = ""
    """Why it is where it is, or nowhere yet, in one sentence; more is in its explanation."""
    created_at: datetime
    updated_at: datetime
    etag: str
