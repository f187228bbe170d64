"""A machine that goes to another node while it runs: what both nodes are told, and what they report. Pure.

One attempt is a stream with an id of its own. A source that has reported `SENT` of a stream never runs the guest again
unless the order is withdrawn; a target never runs it before its placement names the stream (`VmIntent.arrived_by`).
"""

from enum import StrEnum

import msgspec

from nacre.model.ids import NodeId, StreamId, VolumeId

DOWNTIME_MS = 300


class SendState(StrEnum):
    """How far a node is that sends a machine."""

    WAITING = "waiting"  # nothing has been sent yet
    COPYING = "copying"
    SENT = "sent"  # all of it has left; on record there: it runs here no more unless the order is withdrawn
    FAILED = "failed"  # it runs on here


class ArrivalState(StrEnum):
    """How far a node is that takes a machine in."""

    WAITING = "waiting"  # nothing is ready yet
    READY = "ready"  # the image is here, and the node listens
    COPYING = "copying"
    ARRIVED = "arrived"  # all of it is here; it stands still until the placement is the node's
    FAILED = "failed"  # what had come is of no use


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """An order to send a machine to another node while it runs."""

    stream: StreamId
    target: NodeId
    addresses: tuple[str, ...]
    """Where the target listens (`host:port`), to be tried in this order."""
    bandwidth_bytes: int | None = None
    """Per second. None: as fast as it goes."""
    downtime_ms: int = DOWNTIME_MS
    """How long the guest may stand still for the last pages."""


class DiskOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A disk whose content comes."""

    id: str
    size_bytes: int


class VolumeOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A volume that the machine has open, and that the target opens as well."""

    id: VolumeId
    layer: str = ""
    """The file that is written, as it is called in its folder; empty if the volume is not made of files."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a source tells the target's agent of what comes."""

    shape: str
    """Only the driver understands it."""
    cpus: int
    """As many as it has now."""
    memory_bytes: int
    """As much as it has now."""
    least_cpus: int = 0
    """As many as it began with: it cannot have fewer while it runs. 0 if that is not known."""
    least_memory_bytes: int = 0
    """As much as it began with."""
    disks: tuple[DiskOffer, ...] = ()
    """Those whose content comes."""
    volumes: tuple[VolumeOffer, ...] = ()
    """Those that both nodes reach. Nobody changes what they are made of until it is known where the machine runs."""


class OutgoingObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a source has to say of a stream."""

    stream: StreamId
    state: SendState
    transferred_bytes: int = 0
    remaining_bytes: int = 0
    downtime_ms: float | None = None
    """How long the guest stood still at the source's end, as its hypervisor says."""
    message: str = ""
    """Why it failed."""


class ArrivalObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a target has to say of a stream."""

    stream: StreamId
    state: ArrivalState
    addresses: tuple[str, ...] = ()
    """Where it listens, from READY on."""
    message: str = ""
    """Why it failed."""
