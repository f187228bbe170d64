"""One sample of a machine: counters and sizes as they are at a moment, and what two of them say. Pure."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime

from nacre.model.metrics import MetricPoint

_FIELDS = struct.Struct("<15Q")
_HEAD = struct.Struct("<II")
SIZE = _HEAD.size + _FIELDS.size
"""Bytes of a sample."""
_NONE = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A machine at one moment. Counters count from the beginning of `life`; None: nobody counts that."""

    at: int
    """Seconds since 1970."""
    life: int
    """Which process of the machine this is: when it started, in ticks since the host did."""
    cpu_ns: int | None = None
    resident_bytes: int | None = None
    balloon_bytes: int | None = None
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    disk_reads: int | None = None
    disk_writes: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None
    received_packets: int | None = None
    sent_packets: int | None = None
    guest_load_milli: int | None = None
    guest_available_bytes: int | None = None
    guest_disk_used_bytes: int | None = None


def encode(sample: Sample) -> bytes:
    """Return the bytes of a sample, with a checksum: a torn write is no sample."""
    at, *fields = astuple(sample)
    body = _FIELDS.pack(*(_NONE if field is None else min(field, _NONE - 1) for field in fields))
    return _HEAD.pack(at, zlib.crc32(body, at)) + body


def decode(data: bytes) -> Sample | None:
    """Return a sample; None for bytes that are none."""
    at, checksum = _HEAD.unpack_from(data)
    if not at or zlib.crc32(data[_HEAD.size :], at) != checksum:
        return None
    life, *fields = _FIELDS.unpack_from(data, _HEAD.size)
    values = (None if field == _NONE else field for field in fields)
    return Sample(at=at, life=life, **dict(zip(_NAMES, values, strict=True)))


_NAMES = tuple(name for name in Sample.__dataclass_fields__ if name not in {"at", "life"})


def points(samples: Sequence[Sample], *, begin: float, longest_s: float) -> Iterator[MetricPoint]:
    """Yield the points from `begin` on. Rates need a sample before, of the same life and not long ago."""
    before: Sample | None = None
    for sample in samples:
        if sample.at >= begin:
            yield point(before, sample, longest_s)
        before = sample


def point(before: Sample | None, now: Sample, longest_s: float) -> MetricPoint:
    """Return what a sample says after the one before it."""
    if before is not None and (before.life != now.life or not 0 < now.at - before.at <= longest_s):
        before = None

    def rate(name: str) -> float | None:
        first = getattr(before, name) if before is not None else None
        second = getattr(now, name)
        if before is None or first is None or second is None or second < first:
            return None
        return round((second - first) / (now.at - before.at), 3)

    cpu = rate("cpu_ns")
    return MetricPoint(
        at=datetime.fromtimestamp(now.at, UTC),
        cpu_cores=None if cpu is None else round(cpu / 1e9, 4),
        memory_resident_bytes=now.resident_bytes,
        memory_balloon_bytes=now.balloon_bytes,
        disk_read_bytes_per_second=rate("disk_read_bytes"),
        disk_written_bytes_per_second=rate("disk_written_bytes"),
        disk_reads_per_second=rate("disk_reads"),
        disk_writes_per_second=rate("disk_writes"),
        network_received_bytes_per_second=rate("received_bytes"),
        network_sent_bytes_per_second=rate("sent_bytes"),
        network_received_packets_per_second=rate("received_packets"),
        network_sent_packets_per_second=rate("sent_packets"),
        guest_load_1m=None if now.guest_load_milli is None else now.guest_load_milli / 1000,
        guest_memory_available_bytes=now.guest_available_bytes,
        guest_disk_used_bytes=now.guest_disk_used_bytes,
    )


def thinned(samples: Iterable[Sample], step_s: int) -> list[Sample]:
    """Return the last sample of each `step_s` seconds: counters lose nothing by it."""
    found: dict[int, Sample] = {}
    for sample in samples:
        found[sample.at // step_s] = sample
    return list(found.values())
