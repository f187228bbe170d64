"""Every message between an agent and the control plane, in the order of a conversation.

Sent by `agent/link.py` and `control/gateway`. Messages contain model values rather than repeat them.
The tag is the `t` field. A field may be added with a default; anything else is a new protocol version.
"""

from datetime import datetime
from enum import StrEnum

import msgspec

from nacre.model.arrivals import VmArrival
from nacre.model.copies import CopyObserved, CopyRef, RetiredVm
from nacre.model.ids import ImageId, NodeId, StreamId, VmId
from nacre.model.images import Role
from nacre.model.nodes import Condition, NodeFacts, Usage
from nacre.model.vms import VmIntent, VmObserved
from nacre.model.volumes import PoolIntent, PoolObserved, VolumeIntent, VolumeObserved


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Base of every message."""


# Enrolment: a connection of its own to /enrol, without a client certificate.


class Enrol(Message, frozen=True, kw_only=True, tag="enrol"):
    """Agent: a one-time token and a certificate signing request (PEM) for a key that never leaves the node.

    Repeating it with the same token and the same key gives the same node again.
    """

    token: str
    csr_pem: str
    name: str


class Enrolled(Message, frozen=True, kw_only=True, tag="enrolled"):
    """Control: the node's identity, its certificate and the roots that it must trust (PEM)."""

    node: NodeId
    certificate_pem: str
    roots_pem: str


# The control connection: /agent, mutual TLS.


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """Agent, first: who it is. `node` must be what the certificate says."""

    newest: int
    oldest: int
    node: NodeId
    instance: str
    """Random per start of the agent; the newest connection of the newest instance wins."""
    facts: NodeFacts
    sent_at: datetime


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """Control, first: the terms."""

    version: int
    heartbeat_s: float
    resync_s: float
    """How often the agent asks for its desired state even if nothing rang."""
    server_time: datetime
    lease_s: float = 0.0
    """How long a granted lease lasts, counted from when the agent asked; 0 from a control plane that grants none."""
    renew_s: float = 0.0
    """How often an agent asks while it has machines that need a lease."""


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """Control: no, and why. Closes the connection unless it answers a `Rotate`."""

    code: str
    message: str
    hint: str
    retryable: bool = False


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Agent, every `heartbeat_s`."""

    sent_at: datetime
    usage: Usage
    conditions: tuple[Condition, ...] = ()
    facts: NodeFacts | None = None
    """Only when they changed since the last message."""


class Renew(Message, frozen=True, kw_only=True, tag="renew"):
    """Agent, every `renew_s` while it is told of machines with `ha: restart`: may I go on running them?

    The lease, if granted, runs from when the agent sent this, on a clock of its own that counts time asleep and that
    nobody sets. `tenure` is that of the desired state which the agent has on disk.
    """

    sequence: int
    tenure: int


class Renewed(Message, frozen=True, kw_only=True, tag="renewed"):
    """Control: the lease that was asked for with `sequence` is on record, or it is not granted because the node's
    tenure has ended: what it ran may run elsewhere, and the agent must pull.
    """

    sequence: int
    granted: bool


class Pull(Message, frozen=True, kw_only=True, tag="pull"):
    """Agent: send the desired state. `digest` is what it has, to save bytes."""

    digest: str = ""


class Wake(Message, frozen=True, kw_only=True, tag="wake"):
    """Control: something may have changed. Carries nothing, so losing one costs latency only."""


class NodeIntent(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a node should run, hold and forget."""

    vms: tuple[VmIntent, ...] = ()
    images: tuple[ImageId, ...] = ()
    """Images that must stay in the cache because something here uses them."""
    teardown_allowed: bool = False
    """An operator's word that this sync may tear down more than the blast-radius guard allows."""
    tenure: int = 0
    """Raised whenever the control plane gives the node up. Leases are granted for the newest only."""
    retired: tuple[RetiredVm, ...] = ()
    """Machines that have moved away and that the node has not said it has let go of."""
    discard: tuple[CopyRef, ...] = ()
    """Copies whose disks are to be deleted."""
    pools: tuple[PoolIntent, ...] = ()
    """Pools that the node may use, besides its own."""
    volumes: tuple[VolumeIntent, ...] = ()
    """Volumes that live on this node, or are used on it."""
    arrivals: tuple[VmArrival, ...] = ()
    """Machines that are to be taken in from other nodes while they run."""


class DesiredState(Message, frozen=True, kw_only=True, tag="desired"):
    """Control, answering `Pull`: the whole desired state, or None if `digest` still holds."""

    digest: str
    intent: NodeIntent | None


class HeldVm(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that the agent holds and was not told of. It is left alone."""

    id: VmId
    name: str
    running: bool
    since: datetime


class Observed(Message, frozen=True, kw_only=True, tag="observed"):
    """Agent: facts. `complete` says that `vms` is all there is, otherwise only what changed."""

    sequence: int
    digest: str
    """The desired state that these facts were measured against."""
    complete: bool
    vms: tuple[VmObserved, ...] = ()
    held: tuple[HeldVm, ...] = ()
    images: tuple[ImageId, ...] = ()
    copies: tuple[CopyObserved, ...] = ()
    """With `complete`: every copy that the node keeps, and what it was told to retire and has nothing of."""
    volumes: tuple[VolumeObserved, ...] = ()
    """With `complete` all there are, otherwise those that changed."""
    pools: tuple[PoolObserved, ...] = ()
    """With `complete`: every pool that the node was told of, and its own."""


class ObservedAck(Message, frozen=True, kw_only=True, tag="observed-ack"):
    """Control: facts up to `sequence` are stored durably."""

    sequence: int


class Rotate(Message, frozen=True, kw_only=True, tag="rotate"):
    """Agent: a CSR for a new key, to replace a certificate that is past two thirds of its life."""

    csr_pem: str


class Rotated(Message, frozen=True, kw_only=True, tag="rotated"):
    """Control: the new certificate. The link stays up; the next connection uses it."""

    certificate_pem: str
    roots_pem: str


class StreamKind(StrEnum):
    """What a stream carries."""

    CONSOLE = "console"  # both ways, raw bytes of the serial port
    CONSOLE_LOG = "console-log"  # to control, the stored console log, then the end
    EXEC = "exec"  # both ways, frames as in `model.commands`
    DISPLAY = "display"  # both ways, RFB
    METRICS = "metrics"  # to the agent a `MetricsQuery`, then to control a `MetricSeries` or points without end
    EXPORT = "export"  # to the agent a `DiskWanted`, then to control `DiskStatus`es and the bytes of a disk


SINCE_EVER = frozenset({StreamKind.CONSOLE, StreamKind.CONSOLE_LOG})
"""What every agent carries. The others only those whose `NodeFacts.streams` names them: older ones cannot read it."""


class OpenStream(Message, frozen=True, kw_only=True, tag="open-stream"):
    """Control: dial `address` at /stream/<id> and carry this. A stream nobody opens in time is given up."""

    stream: StreamId
    kind: StreamKind
    vm: VmId
    address: str
    """`host:port` of the replica where the viewer waits; empty for the one this link leads to."""
    tail_bytes: int = 65536
    """How much scrollback to send first."""


class StreamHeader(Message, frozen=True, kw_only=True, tag="stream-header"):
    """Agent, first on a stream connection: it is open, or why it cannot be."""

    ok: bool
    code: str = ""
    message: str = ""
    hint: str = ""


class GetArtifact(Message, frozen=True, kw_only=True, tag="get-artifact"):
    """Agent, first on a connection to /artifact: send these bytes. Binary frames follow, then a close."""

    image: ImageId
    role: Role
    offset: int = 0


class ArtifactHeader(Message, frozen=True, kw_only=True, tag="artifact-header"):
    """Control, answering `GetArtifact`: what follows, or why nothing does."""

    ok: bool
    size_bytes: int = 0
    code: str = ""
    message: str = ""
    hint: str = ""


FromAgent = Enrol | Hello | Heartbeat | Renew | Pull | Observed | Rotate | StreamHeader | GetArtifact
FromControl = (
    Enrolled | Welcome | Refused | Renewed | Wake | DesiredState | ObservedAck | Rotated | OpenStream | ArtifactHeader
)
