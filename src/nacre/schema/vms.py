"""Bodies of /v1/vms."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.convergence import Conditions
from nacre.model.hardware import BootOptions, CpuOptions, DeviceOptions, DiskOptions, MemoryOptions
from nacre.model.ids import NodeId, VmId
from nacre.model.images import ImageId
from nacre.model.placement import MAX_PRIORITY, Placement
from nacre.model.vms import (
    DEFAULT_HYPERVISOR,
    DEFAULT_STOP_TIMEOUT_S,
    MAX_DISK,
    MAX_MEMORY,
    MIN_DISK,
    MIN_MEMORY,
    Desired,
    HaPolicy,
    LimitGroups,
    MachineType,
    Nics,
    NicSpec,
    Numa,
    Phase,
    PublishedPort,
    RestartPolicy,
    RunInfo,
    VmSpec,
)
from nacre.schema.common import Body, Out, ProjectRef

MIB = 1 << 20
Cpus = Annotated[int, msgspec.Meta(ge=1, le=256)]
MemoryBytes = Annotated[int, msgspec.Meta(ge=MIN_MEMORY, le=MAX_MEMORY, multiple_of=MIB)]
Priority = Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)]
DiskBytes = Annotated[int, msgspec.Meta(ge=MIN_DISK, le=MAX_DISK, multiple_of=512)]


class VmCreate(Body, frozen=True, kw_only=True):
    """A new machine. What is null comes from the image's defaults, then from Nacre's."""

    name: str
    """Unique in its project: lower-case letters, digits and dashes."""
    image: str
    """Name or id of an image that is ready."""
    project: str = "default"
    """Name or id of the project that it belongs to."""
    labels: dict[str, str] = {}
    """Free labels, to select by."""
    start: bool = True
    """Start it at once."""
    hypervisor: str = DEFAULT_HYPERVISOR
    """What runs it: `qemu`, `cloud-hypervisor`, `firecracker`. What each can do is in /v1/capabilities."""
    machine: MachineType = MachineType.Q35
    """The board, for `qemu`."""
    cpus: Cpus | None = None
    """Virtual CPUs that it starts with."""
    memory_bytes: MemoryBytes | None = None
    """Memory that it starts with."""
    disk_bytes: DiskBytes | None = None
    """Size of the root disk; null takes the image's own."""
    kernel_args: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    """Added to the image's kernel command line; only for images with a kernel."""
    nics: Nics = (NicSpec(),)
    """Network interfaces, in the order in which the guest sees them."""
    publish: Annotated[tuple[PublishedPort, ...], msgspec.Meta(max_length=64)] = ()
    """Ports of the node that lead to the first NIC."""
    restart: RestartPolicy = RestartPolicy.ON_FAILURE
    """When its node starts it again by itself."""
    stop_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = DEFAULT_STOP_TIMEOUT_S
    """How long a graceful stop may take before the machine is switched off."""
    placement: Placement = Placement()
    """Where it may and should go."""
    ha: HaPolicy = HaPolicy.NONE
    """What happens to it when its node is lost."""
    priority: Priority = 100
    """Higher goes first when machines wait for room or are restarted elsewhere."""
    preemptible: bool = False
    """May be stopped to make room for a machine of higher priority."""
    cpu: CpuOptions = CpuOptions()
    """How the CPUs are, besides how many."""
    memory: MemoryOptions = MemoryOptions()
    """How the memory is, besides how much."""
    numa: Numa = ()
    """Memory nodes of the guest. Empty: it has one."""
    root_disk: DiskOptions = DiskOptions()
    """How the root disk is connected."""
    limit_groups: LimitGroups = ()
    """Limits that disks share."""
    devices: DeviceOptions = DeviceOptions()
    """Consoles and small devices."""
    boot: BootOptions = BootOptions()
    """What it starts from if its image has no kernel."""


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
    """Consoles and small devices."""
    boot: BootOptions | None = None
    """What it starts from if its image has no kernel."""


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
    decision: str = ""
    """Why it is where it is, or nowhere yet, in one sentence; more is in its explanation."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it last changed."""
    etag: str
    """Its state, for `If-Match`."""
