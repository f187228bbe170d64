"""Bodies of /v1/nodes and /v1/nodes/tokens."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.ids import EnrolmentId, NodeId
from nacre.model.nodes import Capacity, Condition, HypervisorInfo, Inventory, NodeState, NodeWish, Reliability, Usage
from nacre.model.placement import Taint
from nacre.schema.common import Body, Out
from nacre.schema.moves import DrainOut

MAX_TAINTS = 32
Place = Annotated[
    str,
    msgspec.Meta(
        max_length=63,
        pattern="^([a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?)?$",
        extra={"expects": "letters, digits, dots, underscores and hyphens, with a letter or digit first and last"},
    ),
]


class LeftBehind(Out, frozen=True, kw_only=True):
    """A machine that stays assigned to a node out of reach."""

    vm: str
    """The machine."""
    reason: str
    """Why it stayed."""


class NodeOut(Out, frozen=True, kw_only=True):
    """A node, as its agent last reported it."""

    id: NodeId
    """Its id, which never changes."""
    name: str
    """Its name."""
    state: NodeState
    """Where it is in its life."""
    wish: NodeWish
    """What an operator wants of it; holds also while it is out of reach."""
    labels: dict[str, str]
    """Free labels, to select by."""
    taints: tuple[Taint, ...]
    """What keeps machines away that do not tolerate it."""
    region: str
    """Where it is, in the large."""
    zone: str
    """Where it is, in the small: what fails together."""
    hostname: str
    """Name of the host."""
    os: str
    """Operating system of the host."""
    kernel: str
    """Kernel of the host."""
    architecture: str
    """Architecture of the host, as its kernel calls it."""
    agent_version: str
    """Version of its agent."""
    hypervisors: tuple[HypervisorInfo, ...]
    """Its hypervisors."""
    conditions: tuple[Condition, ...]
    """What is wrong with it."""
    capacity: Capacity | None
    """What it has in all; null before its agent has connected."""
    usage: Usage | None
    """What is in use on it now, by anyone."""
    reserved_cpus: int
    """CPUs that its machines have reserved."""
    reserved_memory_bytes: int
    """Memory that its machines have reserved, in bytes."""
    reserved_disk_bytes: int
    """Disk that its machines have reserved, in bytes."""
    vms: int
    """How many machines it has."""
    copies: int
    """What machines that moved away have left behind here."""
    drain: DrainOut | None
    """The newest drain, which may have ended."""
    enrolment: str
    """The token that it joined with."""
    reliability: Reliability | None
    """How far it can be relied on; null while nobody knows."""
    tenure: int
    """Raised whenever the control plane gives the node up."""
    inventory: Inventory | None
    """What the host is made of; null in lists."""
    last_seen_at: datetime | None
    """When it was last heard."""
    certificate_expires_at: datetime | None
    """When its certificate ends."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it last changed."""
    etag: str
    """Its state, for `If-Match`."""


class NodeUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    labels: dict[str, str] | None = None
    """Free labels, to select by."""
    taints: Annotated[tuple[Taint, ...], msgspec.Meta(max_length=MAX_TAINTS)] | None = None
    """All taints of the node. Machines that run there stay, whatever they tolerate."""
    region: Place | None = None
    """Where it is, in the large."""
    zone: Place | None = None
    """Where it is, in the small: what fails together."""


class NodeEvacuated(Out, frozen=True, kw_only=True):
    """What an evacuation has begun, or done at once with a node out of reach."""

    node: NodeOut
    """The node."""
    taken: tuple[str, ...] = ()
    """Machines that were taken off a node out of reach; they start elsewhere as there is room."""
    left: tuple[LeftBehind, ...] = ()
    """Machines that were not, and why."""


class NodeTokenCreate(Body, frozen=True, kw_only=True):
    """An enrolment token: for one node, or for as many as `uses` says."""

    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=30 * 86400)] = 86400
    """For how many seconds it is good."""
    node_name: str | None = None
    """Bind the token to this node name; null lets the agent propose its host name."""
    region: str = ""
    """Region of the nodes that join with it."""
    zone: str = ""
    """Zone of the nodes that join with it."""
    uses: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 1
    """How many nodes may join with it."""


class NodeTokenOut(Out, frozen=True, kw_only=True):
    """An enrolment token without its secret."""

    id: EnrolmentId
    """Its id, which never changes."""
    node_name: str | None
    """How the node will be called; empty for its own name."""
    region: str
    """Where it is, in the large."""
    zone: str
    """Where it is, in the small: what fails together."""
    uses: int
    """How many nodes may join with it."""
    used: int
    """How many nodes have joined with it."""
    created_by: str
    """Who asked for it."""
    created_at: datetime
    """When it was made."""
    expires_at: datetime
    """When it is no longer good."""
    used_at: datetime | None
    """When it was used last."""
    used_by: NodeId | None
    """By whom it was used last."""


class NodeTokenCreated(Out, frozen=True, kw_only=True):
    """The only time that the secret is shown. `join` is all that an agent needs: address, CA fingerprint, secret."""

    token: NodeTokenOut
    """The token."""
    join: str
    """What an agent is started with to join."""
    command: str
    """To run on the new node. It asks for `join`."""
