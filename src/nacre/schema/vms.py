"""Bodies of /v1/vms."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.convergence import Conditions
from nacre.model.guests import GuestInfo
from nacre.model.hardware import BootOptions, CpuOptions, DeviceOptions, DiskOptions, MemoryOptions
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
    LimitGroups,
    MachineType,
    Nics,
    Numa,
    Phase,
    PublishedPort,
    RestartPolicy,
    RunInfo,
    VmSpec,
)
from nacre.schema.common import Body, Out, ProjectRef
from nacre.schema.guests import CloudInitBody

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
    """Of the machine, to select by. Each key is taken from the first who gives it."""
    start: bool | None = None
    """Whether to start it at once, as it is unless told otherwise."""
    hypervisor: str | None = None
    """`qemu`, `cloud-hypervisor` or `firecracker`: `qemu` unless told otherwise. What each can do: /v1/capabilities."""
    machine: MachineType | None = None
    """The board, for `qemu`: `q35` unless told otherwise."""
    cpus: Cpus | None = None
    """Virtual CPUs that it starts with."""
    memory_bytes: MemoryBytes | None = None
    """Memory that it starts with."""
    disk_bytes: DiskBytes | None = None
    """Size of the root disk; the image's own unless told otherwise."""
    kernel_args: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    """Added to the image's kernel command line; only for images with a kernel."""
    nics: Nics | None = None
    """Its network interfaces, in the order in which the guest sees them: one unless told otherwise."""
    publish: Annotated[tuple[PublishedPort, ...], msgspec.Meta(max_length=64)] | None = None
    """Ports of the node that lead to the first NIC."""
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
    cpu: CpuOptions | None = None
    """How the CPUs are, besides how many."""
    memory: MemoryOptions | None = None
    """How the memory is, besides how much."""
    numa: Numa | None = None
    """Memory nodes of the guest. Empty: it has one."""
    root_disk: DiskOptions | None = None
    """How the root disk is connected."""
    limit_groups: LimitGroups | None = None
    """Limits that disks share."""
    devices: DeviceOptions | None = None
    """Consoles and small devices; `graphics: vnc` gives it a screen."""
    boot: BootOptions | None = None
    """What it starts from if its image has no kernel."""


class VmCreate(VmConfig, frozen=True, kw_only=True):
    """A new machine, or several of a kind. What is null comes from its instance type, then from its template, then from
    the image's defaults, then from Nacre's."""

    name: str
    """With `{n}` in it, or a `count` above 1, names are made from it: `web-{n}` becomes `web-1`, `web-2` and so on."""
    project: str = "default"
    """Name or id of the project that it belongs to."""
    template: str | None = None
    """Name or id of a template, with `@3` behind it for its third revision."""
    checkpoint: str | None = None
    """Instead of image and template: id of a checkpoint of a machine of the project, or machine/checkpoint by names.
    Disks start as they were then, on the same node; the machine itself is a new one with another identity."""
    instance_type: str | None = None
    """Name or id of an instance type."""
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)] = 1
    """So many machines at once: all of them or none."""
    first_number: Annotated[int, msgspec.Meta(ge=0, le=MAX_FIRST_NUMBER)] = 1
    """The number in the first name."""
    cloud_init: CloudInitBody | None = None
    """What the guests' cloud-inits are given. Of the request alone: no template and no instance type has any, because
    there may be secrets in it."""


class VmUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays, and an object that is given replaces the whole of the one before.

    What a running machine can take over is changed while it runs. What needs a restart is named in
    `restart_required` until it happened.
    """

    labels: dict[str, str] | None = None
    """Free labels, all of them."""
    cpus: Cpus | None = None
    """Virtual CPUs; up to `cpu.max` while it runs."""
    memory_bytes: MemoryBytes | None = None
    """Memory; up to `memory.max_bytes` while it runs."""
    disk_bytes: DiskBytes | None = None
    """Size of the root disk, which only grows."""
    publish: Annotated[tuple[PublishedPort, ...], msgspec.Meta(max_length=64)] | None = None
    """Ports of the node that lead to the first NIC, all of them."""
    restart: RestartPolicy | None = None
    """When its node starts it again by itself."""
    stop_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] | None = None
    """How long a graceful stop may take before the machine is switched off."""
    placement: Placement | None = None
    """Judged when it is placed next; a machine that has a node stays there."""
    ha: HaPolicy | None = None
    """What happens to it when its node is lost."""
    priority: Priority | None = None
    """Higher goes first when machines wait for room or are restarted elsewhere."""
    preemptible: bool | None = None
    """May be stopped to make room for a machine of higher priority."""
    nics: Nics | None = None
    """Network interfaces, all of them. Their limits change while it runs."""
    cpu: CpuOptions | None = None
    """How the CPUs are."""
    memory: MemoryOptions | None = None
    """How the memory is. What its balloon takes changes while it runs."""
    numa: Numa | None = None
    """Memory nodes of the guest."""
    root_disk: DiskOptions | None = None
    """How the root disk is connected. Its limits change while it runs."""
    limit_groups: LimitGroups | None = None
    """Limits that disks share."""
    devices: DeviceOptions | None = None
    """Consoles and small devices; `graphics: vnc` gives it a screen."""
    boot: BootOptions | None = None
    """What it starts from if its image has no kernel."""
    cloud_init: CloudInitBody | None = None
    """In place of all that the guest's cloud-init was given before; an empty object gives it nothing any more."""


class VmStop(Body, frozen=True, kw_only=True):
    """How to stop."""

    force: bool = False
    """Switch off at once instead of asking the guest first."""


class ImageRef(Out, frozen=True, kw_only=True):
    """The image that a machine boots from."""

    id: ImageId
    """Its id, which never changes."""
    name: str
    """Its name."""


class NodeRef(Out, frozen=True, kw_only=True):
    """The node that a machine is placed on."""

    id: NodeId
    """Its id, which never changes."""
    name: str
    """Its name."""


class VmOut(Out, frozen=True, kw_only=True):
    """A machine: what was asked (`spec`, `desired`), what is (`phase`, `run`), and how far apart they are."""

    id: VmId
    """Its id, which never changes."""
    name: str
    """Its name."""
    project: ProjectRef
    """The project that it belongs to."""
    labels: dict[str, str]
    """Free labels, to select by."""
    spec: VmSpec
    """Its configuration."""
    image: ImageRef
    """The image that it boots from."""
    desired: Desired
    """What it should be doing."""
    phase: Phase
    """What it is doing."""
    since: datetime
    """Since when it is in this phase."""
    node: NodeRef | None
    """The node that it is placed on; null while there is none."""
    run: RunInfo | None
    """Its current life, or the last one; null if it has never run."""
    conditions: Conditions
    """How far it is from what was asked."""
    restart_required: tuple[str, ...]
    """Names of fields that take effect only when it is next started."""
    fence: int = 0
    """The fencing token of its placement: every placement of a machine has a higher one than all before."""
    template: Origin | None = None
    """The template that it was made from, as it was then."""
    instance_type: Origin | None = None
    """The instance type that it was made from, as it was then."""
    guest: GuestInfo | None = None
    """What the agent in the guest says; null if none has said anything since the start."""
    checkpoints: int = 0
    """How many checkpoints there are of it."""
    decision: str = ""
    """Why it is where it is, or nowhere yet, in one sentence; more is in its explanation."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it last changed."""
    etag: str
    """Its state, for `If-Match`."""
