"""What Cloud Hypervisor tells by itself: a file of JSON objects that grows. Decoding is pure; `follow` reads the file.

Used by `guest` and `driver`. The process writes each event indented, and an empty line after it. What it is about to do
(`booting`, `pausing`) is told before it is checked, so only what has been done counts here.
"""

import asyncio
import errno
import json
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from nacre.agent.hypervisors.abilities import MigrationProgress, MigrationState
from nacre.agent.hypervisors.base import GuestState

_END = b"\n\n"
_CHUNK = 64 << 10
_LOOK_S = (0.02, 0.25)
"""How soon and how late the file is looked at again. It cannot be waited for but by watching it."""


@dataclass(frozen=True)
class Event:
    """Something that has happened."""

    source: str
    name: str
    properties: dict[str, str] = field(default_factory=dict[str, str])
    at: float = field(default=0.0, compare=False)
    """Seconds since the process began."""


class Decoder:
    """Makes events of a growing text, however it is cut. What is no event is passed over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that are complete with `data`."""
        *parts, self._rest = (self._rest + data).split(_END)
        return [event for part in parts if (event := _event(part)) is not None]


_NO_MIGRATION = MigrationProgress(state=MigrationState.NONE)


@dataclass
class Story:
    """What has happened to a machine since its process began."""

    booted: bool = False
    """It has run here at some time."""
    off: bool = False
    """It has powered off since."""
    resetting: bool = False
    panicked: bool = False
    removed: dict[str, int] = field(default_factory=dict[str, int])
    """How often the guest has let go of a device, by its name."""
    awaits_guest: bool = False
    """It listens for a machine that comes from another host."""
    migration: MigrationProgress = _NO_MIGRATION
    paused_at: float | None = None

    def hear(self, event: Event) -> None:
        """Take an event in."""
        match event.source, event.name:
            case "vm", "booted" | "restored" | "rebooted" | "migration-receive-finished":
                self.booted = True
                self.off = self.resetting = self.panicked = self.awaits_guest = False
            case "vm", "rebooting":
                self.resetting = True
            case "vm", "paused":
                self.paused_at = event.at
            case "vm", "resumed":
                self.paused_at = None
                self.panicked = False
            case "vm", "shutdown":
                self.off = True
                self.resetting = False
            case "vm", "device-removed":
                name = event.properties.get("id", "")
                self.removed[name] = self.removed.get(name, 0) + 1
            case "vm", "migration-receive-ready":
                self.awaits_guest = True
            case "vm", "migration-started":
                self.migration = MigrationProgress(state=MigrationState.COPYING)
            case "vm", "migration-failed":
                self.migration = MigrationProgress(
                    state=MigrationState.FAILED, detail="Cloud Hypervisor gave up; the machine runs on here"
                )
            case "vm", "migration-finished":
                still = None if self.paused_at is None else 1000 * (event.at - self.paused_at)
                self.migration = MigrationProgress(state=MigrationState.MOVED, downtime_ms=still)
            case "guest", "panic":
                self.panicked = True
            case _:
                pass

    def state(self, said: str) -> GuestState:
        """Say what a guest does whose Cloud Hypervisor says `said` (`VmInfo.state`)."""
        if self.migration.state is MigrationState.MOVED:
            return GuestState.PAUSED
        match said:
            case "Running":
                return GuestState.HALTED if self.panicked else GuestState.RUNNING
            case "Paused" | "BreakPoint":
                return GuestState.PAUSED
            case "Created" | "Shutdown":
                if self.off:
                    return GuestState.SHUT_DOWN
                return GuestState.HALTED if self.booted else GuestState.STARTING
            case _:
                return GuestState.HALTED


async def follow(path: Path) -> AsyncIterator[Event]:
    """Yield every event of a file from its beginning, and what is appended from then on. Never ends."""
    decoder = Decoder()
    wait, longest = _LOOK_S
    with _opened(path) as file:
        while True:
            data = file.read(_CHUNK)
            for event in decoder.feed(data):
                yield event
            if data:
                wait = _LOOK_S[0]
                continue
            await asyncio.sleep(wait)
            wait = min(longest, wait * 1.5)


def read(path: Path) -> list[Event]:
    """Return the events that a file holds; none if there is none."""
    try:
        with _opened(path) as file:
            return Decoder().feed(file.read())
    except FileNotFoundError:
        return []


def _opened(path: Path) -> BinaryIO:
    """Open the file that a process writes which its guest may have taken over: nothing else in its place."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(error.errno, "it is a link") from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(errno.ENOENT, "it is no file")
    return os.fdopen(file, "rb")


def _event(text: bytes) -> Event | None:
    try:
        found: object = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    fields = cast("dict[str, object]", found)
    properties = fields.get("properties")
    named = cast("dict[str, object]", properties) if isinstance(properties, dict) else {}
    return Event(
        source=str(fields.get("source")),
        name=str(fields.get("event")),
        properties={name: str(value) for name, value in named.items()},
        at=_seconds(fields.get("timestamp")),
    )


def _seconds(timestamp: object) -> float:
    """Read a time stamp; 0 if it is none."""
    if not isinstance(timestamp, dict):
        return 0.0
    secs, nanos = (cast("dict[str, object]", timestamp).get(name) for name in ("secs", "nanos"))
    return secs + nanos / 1e9 if isinstance(secs, int) and isinstance(nanos, int) else 0.0
