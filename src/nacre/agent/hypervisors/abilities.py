"""What some drivers and their guests can do beyond the core: one small protocol each. Called by `agent/vms`.

What a node advertises follows from these, and from what a driver says of its version and its host (`CanOffer`). Errors
are DriverErrors; one that comes too late, or from a hypervisor that is silent, says nothing about what has happened.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.launch import Disk, DiskFile, FirmwareFiles, Launch, Nic
from nacre.model.capabilities import Offer
from nacre.model.hardware import RateLimits


@runtime_checkable
class CanProbeAcceleration(Protocol):
    """Ability: proves an accelerator by booting a kernel under it."""

    async def prove_acceleration(self, kernel: Path) -> None:
        """Boot `kernel` under each faster accelerator, with a time limit, and remember the verdict."""
        ...


@runtime_checkable
class CanGuard(Protocol):
    """Ability: starts guests under a guard, so that none outlives its lease."""

    def guard_obstacle(self) -> str:
        """Say why guests cannot be guarded on this host; empty if they can."""
        ...


@runtime_checkable
class HasJails(Protocol):
    """Ability of a driver: it makes a folder with all that a confined machine's process is to see."""

    @property
    def has_jails(self) -> bool:
        """Always true."""
        ...


@runtime_checkable
class HasFirmware(Protocol):
    """Ability of a driver: starts guests by UEFI."""

    def uefi(self, *, secure_boot: bool) -> FirmwareFiles | None:
        """Return the host's; None if there is none. Its variables are what those of a new machine are copied from."""
        ...


@runtime_checkable
class CannotReset(Protocol):
    """Of a guest: its process cannot begin again. Who resets it ends it and starts it anew."""

    @property
    def cannot_reset(self) -> bool:
        """Always true."""
        ...


@runtime_checkable
class CanHotplug(Protocol):
    """Ability of a guest: disks and NICs come and go while it runs.

    Each returns when the guest has the device or has let go of it, and may be repeated. A guest that does not let go in
    time is a DriverError (`guest_holds_device`), and the device stays.
    """

    async def attach_disk(self, disk: Disk) -> None:
        """Give the guest a disk."""
        ...

    async def detach_disk(self, disk: str, timeout: float) -> None:
        """Take a disk back, in `timeout` seconds."""
        ...

    async def attach_nic(self, nic: Nic) -> None:
        """Give the guest a NIC."""
        ...

    async def detach_nic(self, nic: str, timeout: float) -> None:
        """Take a NIC back, in `timeout` seconds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large a guest is now."""

    cpus: int
    memory_bytes: int
    """What it was given, the balloon not counted."""
    reclaimed_bytes: int = 0
    """What the balloon holds."""


@runtime_checkable
class CanResize(Protocol):
    """Ability of a guest: it grows and shrinks while it runs. One size per call; each may be repeated."""

    async def sizes(self) -> Sizes:
        """Ask the hypervisor."""
        ...

    async def resize_cpus(self, cpus: int) -> None:
        """Have the guest run with so many CPUs, between those that it started with and `CpuOptions.max`."""
        ...

    async def resize_memory(self, memory_bytes: int) -> None:
        """Have the guest run with so much memory, between what it started with and `MemoryOptions.max_bytes`."""
        ...

    async def reclaim(self, reclaim_bytes: int) -> None:
        """Have the balloon take so much from the guest. Returns when that is on its way: it takes the guest's help."""
        ...


@runtime_checkable
class CanResizeDisks(Protocol):
    """Ability of a guest: it sees that a disk has grown while it runs."""

    async def resize_disk(self, disk: str, size_bytes: int) -> None:
        """Grow a disk, and tell the guest. May be repeated."""
        ...


@runtime_checkable
class CanSnapshotDisks(Protocol):
    """Ability of a guest: what it writes to a disk goes to another file from one moment to the next."""

    async def switch_disk(self, disk: str, layer: DiskFile) -> None:
        """Go on with `layer`, an empty overlay of what the disk writes now, which stays as it is. May be repeated."""
        ...

    async def merge_disk(self, disk: str, layer: Path) -> None:
        """Take a layer under a disk into the one above it, so that it is not needed any more. May be repeated.

        The lowest one cannot go.
        """
        ...


@runtime_checkable
class CanLimit(Protocol):
    """Ability of a guest: the limits of its devices change while it runs."""

    async def limit_disk(self, disk: str, limits: RateLimits) -> None:
        """Replace what may go through a disk."""
        ...

    async def limit_nic(self, nic: str, receive: RateLimits, send: RateLimits) -> None:
        """Replace what may go through a NIC."""
        ...


@runtime_checkable
class CanCheckpoint(Protocol):
    """Ability of a guest: its memory and devices are written to files. Disks are the caller's, while it is paused."""

    async def save(self, directory: Path) -> None:
        """Write everything but the disks of a paused guest to an empty folder. The guest stays paused."""
        ...


@runtime_checkable
class CanRestore(Protocol):
    """Ability of a driver: a guest goes on from what `CanCheckpoint.save` has written."""

    async def restore(self, launch: Launch, directory: Path) -> Guest:
        """Start a process that goes on where the guest was saved, paused. Raises DriverError and leaves no process.

        Disks and NICs are those of `launch`, in the same order as when it was saved.
        """
        ...


class MigrationState(StrEnum):
    """Where a guest is that moves to another host."""

    NONE = "none"  # it does not move
    COPYING = "copying"
    POSTCOPY = "postcopy"  # it runs there, and its memory is still coming
    MOVED = "moved"  # it runs there; what is here must never run again
    FAILED = "failed"  # it runs on here
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class MigrationProgress:
    """How far a guest has moved to another host."""

    state: MigrationState
    transferred_bytes: int = 0
    remaining_bytes: int = 0
    downtime_ms: float | None = None
    """How long the guest stood still, as the hypervisor says; None until it is over."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class MigrationTerms:
    """How a guest is moved."""

    downtime_ms: int = 300
    """How long the guest may stand still for the last pages."""
    bandwidth_bytes: int | None = None
    """Per second. None: as fast as it goes."""
    postcopy: bool = False
    """Let it go on there before all of its memory has come. A guest whose network fails then is lost."""
    disks: tuple[str, ...] = ()
    """Disks whose content is to be copied because the other host does not see them."""


def disks_socket(socket: Path) -> Path:
    """Return where the content of disks goes, beside a guest that goes through `socket`."""
    return socket.with_name(socket.name + ".disks")


@runtime_checkable
class HasShape(Protocol):
    """Ability of a guest: what it is made of has changed since its start in ways that only its driver can tell."""

    async def shape(self) -> str:
        """Return what the driver on another host must know to take it in: for `Launch.arrival`. Short."""
        ...


@runtime_checkable
class CanMigrate(Protocol):
    """Ability of a guest: it moves to another host while it runs. The sender's side."""

    async def migrate(self, socket: Path, terms: MigrationTerms) -> None:
        """Begin to send the guest through a unix stream socket, at whose other end `CanReceive.receive` listens.

        Returns when it has begun. The guest runs here until it runs there; once it does it never runs here again.
        """
        ...

    async def migration(self) -> MigrationProgress:
        """Ask the hypervisor."""
        ...

    async def cancel_migration(self) -> None:
        """Stop sending. The guest goes on here, unless it runs there already. May be repeated."""
        ...


@runtime_checkable
class CanReceive(Protocol):
    """Ability of a driver: takes a guest in that moves here."""

    async def receive(self, launch: Launch, socket: Path) -> Guest:
        """Start a process that waits for a guest on a unix stream socket, and return when it listens.

        Until the guest has come its state is STARTING. Raises DriverError and leaves no process behind.
        """
        ...


@runtime_checkable
class CanTakeBack(Protocol):
    """Ability of a guest: goes on here although all of it was sent. For who knows that nobody runs it elsewhere."""

    async def take_back(self) -> None:
        """Let a guest that was sent (`MOVED`) run here again. May be repeated."""
        ...


@runtime_checkable
class CanTakeOver(Protocol):
    """Ability of a guest: one that was received held leaves disks alone that its sender may yet go on to write."""

    async def take_over(self) -> None:
        """Have the disks for itself. For who knows that the sender never runs again. May be repeated."""
        ...


@runtime_checkable
class CanClose(Protocol):
    """Ability of a guest: its process lets go of its disks in good order, which storage that many hosts reach notes."""

    async def close(self) -> None:
        """End the process of a guest that stands still; by force if it takes long. For one that is not to go on here.

        Returns when it is gone. Raises DriverError.
        """
        ...


@runtime_checkable
class CanReceiveHeld(Protocol):
    """Ability of a driver: takes a guest in with the content of its disks, and does not let it run by itself."""

    async def receive_held(self, launch: Launch, socket: Path) -> Guest:
        """As `CanReceive.receive`, but once the guest has come it is PAUSED until it is resumed.

        Until then, or until `CanTakeOver.take_over`, disks whose content has not come are neither written nor locked.
        """
        ...


@runtime_checkable
class HasDisplay(Protocol):
    """Ability of a guest: it has a screen."""

    @property
    def display_socket(self) -> Path | None:
        """Unix stream socket that speaks RFB (VNC), RFC 6143; None if this guest has no screen."""
        ...


@runtime_checkable
class HasGuestChannel(Protocol):
    """Ability of a guest: an agent in it can be spoken to."""

    @property
    def guest_socket(self) -> Path | None:
        """Unix stream socket that leads to the guest agent; None if this guest has none."""
        ...


@dataclass(frozen=True, kw_only=True)
class DeviceCounters:
    """What has gone through a device since the guest's process began."""

    id: str
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int


@dataclass(frozen=True, kw_only=True)
class GuestCounters:
    """What a guest has done since its process began. CPU and memory are read from the process itself."""

    disks: tuple[DeviceCounters, ...] = ()
    nics: tuple[DeviceCounters, ...] = ()
    """`read` is what the guest received, `written` what it sent."""


@runtime_checkable
class HasCounters(Protocol):
    """Ability of a guest: its devices are counted."""

    async def counters(self) -> GuestCounters:
        """Ask the hypervisor."""
        ...


@runtime_checkable
class CanOffer(Protocol):
    """Ability of a driver: says what it can do on this host, in the words of `model.capabilities`."""

    async def offer(self) -> Offer:
        """Return it, computed from the hypervisor's version and the host. Raises DriverError if it is not there."""
        ...
