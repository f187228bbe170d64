"""What Firecracker counts, summed up. Used by `guest`.

It appends a line of JSON to a file every minute and when it is told to, and each line holds only what has come since
the line before. So lines are added up; how far that has come is kept beside the file, because the agent may be another
one next time. A file that has grown long is cut: what has been added up is not needed any more.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import msgspec

from nacre.agent.hypervisors.abilities import DeviceCounters, GuestCounters
from nacre.agent.hypervisors.firecracker import ids
from nacre.lib.files import write_atomically

CUT_AT = 1 << 20

_DISK = "block_"
_NIC = "net_"
_DISK_FIELDS = ("read_bytes", "write_bytes", "read_count", "write_count")
_NIC_FIELDS = ("rx_bytes_count", "tx_bytes_count", "rx_packets_count", "tx_packets_count")


class Sums(msgspec.Struct):
    """What has been counted so far, and up to which byte of the file."""

    offset: int = 0
    devices: dict[str, list[int]] = {}
    """By the name of the device in the file: bytes in, bytes out, operations in, operations out."""

    def add(self, lines: Iterable[bytes]) -> None:
        """Add lines."""
        for line in lines:
            for name, counted in _parsed(line).items():
                fields = _DISK_FIELDS if name.startswith(_DISK) else _NIC_FIELDS if name.startswith(_NIC) else ()
                if not fields or not isinstance(counted, dict):
                    continue
                found = cast("Mapping[str, object]", counted)
                news = [value if isinstance(value := found.get(field), int) else 0 for field in fields]
                before = self.devices.get(name, [0] * len(fields))
                self.devices[name] = [old + new for old, new in zip(before, news, strict=True)]

    def counters(self) -> GuestCounters:
        """As the rest of the agent knows them."""
        return GuestCounters(disks=self._of(_DISK), nics=self._of(_NIC))

    def _of(self, prefix: str) -> tuple[DeviceCounters, ...]:
        return tuple(
            DeviceCounters(
                id=ids.name(name.removeprefix(prefix)),
                read_bytes=sums[0],
                written_bytes=sums[1],
                reads=sums[2],
                writes=sums[3],
            )
            for name, sums in sorted(self.devices.items())
            if name.startswith(prefix)
        )


def collect(file: int, kept: Path) -> Sums:
    """Add up what is new in a file that is open for reading and writing, and keep the sums. Blocks."""
    sums = _kept(kept)
    end = os.fstat(file).st_size
    if end < sums.offset:  # it was cut
        sums.offset = 0
    content = os.pread(file, end - sums.offset, sums.offset)
    whole = content.rfind(b"\n") + 1
    sums.add(content[:whole].splitlines())
    sums.offset += whole
    write_atomically(kept, msgspec.json.encode(sums))
    if sums.offset > CUT_AT and sums.offset == end:
        # Whoever has it open and does not append goes on where it was, and leaves a hole that takes no room.
        os.ftruncate(file, 0)
    return sums


def _kept(path: Path) -> Sums:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sums)
    except FileNotFoundError:
        return Sums()


def _parsed(line: bytes) -> Mapping[str, object]:
    try:
        found: object = json.loads(line.lstrip(b"\0") or b"{}")
    except ValueError:  # cut off by a full disk
        return {}
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else {}
