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
Place = Annotated[str, msgspec.Meta(max_length=63, pattern="^([a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?)?$")]


class LeftBehind(Out, frozen=True, kw_only=True):
    """A machine that stays assigned to a node out of reach."""

    vm: str
    reason: str


class NodeOut(Out, frozen=True, kw_only=True):
    """A node, as its agent last reported it."""

    id: NodeId
    name: str
    state: NodeState
    wish: NodeWish
    """What an operator wants of it; holds also while it is out of reach."""
    labels: dict[str, str]
    taints: tuple[Taint, ...]
    region: str
    zone: str
    hostname: str
    os: str
    kernel: str
    architecture: str
    agent_version: str
    hypervisors: tuple[HypervisorInfo, ...]
    conditions: tuple[Condition, ...]
    capacity: Capacity | None
    usage: Usage | None
    reserved_cpus: int
    reserved_memory_bytes: int
    reserved_disk_bytes: int
    vms: int
    copies: int
    """What machines that moved away have left behind here."""
    drain: DrainOut | None
    """The newest drain, which may have ended."""
    enrolment: str
    """The token that it joined with."""
    reliability: Reliability | None
    tenure: int
    """Raised whenever the control plane gives the node up."""
    inventory: Inventory | None
    """What the host is made of; null in lists."""
    last_seen_at: datetime | None
    certificate_expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    etag: str


class NodeUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    labels: dict[str, str] | None = None
    taints: Annotated[tuple[Taint, ...], msgspec.Meta(max_length=MAX_TAINTS)] | None = None
    """All taints of the node. Machines that run there stay, whatever they tolerate."""
    region: Place | None = None
    zone: Place | None = None


class NodeEvacuated(Out, frozen=True, kw_only=True):
    """What an evacuation has begun, or done at once with a node out of reach."""

    node: NodeOut
    taken: tuple[str, ...] = ()
    """Machines that were taken off a node out of reach; they start elsewhere as there is room."""
    left: tuple[LeftBehind, ...] = ()
    """Machines that were not, and why."""


class NodeTokenCreate(Body, frozen=True, kw_only=True):
    """An enrolment token: for one node, or for as many as `uses` says."""

    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=30 * 86400)] = 86400
    node_name: str | None = None
    """Bind the token to this node name; null lets the agent propose its host name."""
    region: str = ""
    zone: str = ""
    uses: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 1
    """How many nodes may join with it."""


class NodeTokenOut(Out, frozen=True, kw_only=True):
    """An enrolment token without its secret."""

    id: EnrolmentId
    node_name: str | None
    region: str
    zone: str
    uses: int
    used: int
    """How many nodes have joined with it."""
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    """When it was used last."""
    used_by: NodeId | None
    """By whom it was used last."""


class NodeTokenCreated(Out, frozen=True, kw_only=True):
    """The only time that the secret is shown. `join` is all that an agent needs: address, CA fingerprint, secret."""

    token: NodeTokenOut
    join: str
    command: str
    """To run on the new node. It asks for `join`."""
