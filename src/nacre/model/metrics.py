"""What is measured of a machine while it runs: what is asked for, and series of points. Pure.

Counters of the machine become rates between two samples; sizes are as they were at the sample. None: nobody knows.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

MAX_POINTS = 2000
SAMPLE_S = 10
TIERS = ((10, 360), (60, 1440), (900, 1344))
"""Seconds from one sample to the next, and how many are kept: 1 hour, 24 hours, 14 days."""


class MetricsVerb(StrEnum):
    """What is wanted of a node's samples."""

    RANGE = "range"
    FOLLOW = "follow"


class MetricsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which samples are wanted. Sent to the node as the first frame of a stream."""

    verb: MetricsVerb = MetricsVerb.RANGE
    begin: datetime | None = None
    """None: an hour before `end`."""
    end: datetime | None = None
    """None: now."""
    step_s: Annotated[int, msgspec.Meta(ge=1, le=86400)] | None = None
    """None: as fine as there is for that time."""


class MetricPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A machine at one moment; rates are means since the point before."""

    at: datetime
    """When it was measured."""
    cpu_cores: float | None = None
    """How many CPUs of the host it kept busy."""
    memory_resident_bytes: int | None = None
    """What its process has of the host's memory."""
    memory_balloon_bytes: int | None = None
    """What the balloon has taken from the guest."""
    disk_read_bytes_per_second: float | None = None
    """From all disks."""
    disk_written_bytes_per_second: float | None = None
    """To all disks."""
    disk_reads_per_second: float | None = None
    """Requests."""
    disk_writes_per_second: float | None = None
    """Requests."""
    network_received_bytes_per_second: float | None = None
    """By all NICs, as the guest sees it."""
    network_sent_bytes_per_second: float | None = None
    """By all NICs, as the guest sees it."""
    network_received_packets_per_second: float | None = None
    """By all NICs, as the guest sees it."""
    network_sent_packets_per_second: float | None = None
    """By all NICs, as the guest sees it."""
    guest_load_1m: float | None = None
    """As the guest's agent says."""
    guest_memory_available_bytes: int | None = None
    """As the guest's agent says."""
    guest_disk_used_bytes: int | None = None
    """As the guest's agent says, of all its file systems."""


class MetricSeries(msgspec.Struct, frozen=True, kw_only=True):
    """Points of one machine, the oldest first."""

    step_s: int
    """Seconds between points; there are none for times when the machine did not run."""
    points: tuple[MetricPoint, ...] = ()
    """None for times at which nothing was measured."""
