"""What every hypervisor driver is: a small core. What only some can do is in `abilities`.

Called by `agent/vms`. A driver knows its hypervisor and the files it is given; it never sees the wire, the
control plane or another driver. The contract suite in `tests/contract` runs against every driver.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from nacre.agent.hypervisors.launch import Launch
from nacre.model.nodes import HypervisorInfo
from nacre.model.vms import ExitReason


class GuestState(StrEnum):
    """What the hypervisor says that a guest is doing."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SHUT_DOWN = "shut-down"  # the guest has powered off, its process leaves when released
    FAILED = "failed"  # the hypervisor stopped it, and going on may help (I/O error)
    HALTED = "halted"  # it stands still for somebody to decide (panic, watchdog, internal error)
    FROZEN = "frozen"  # its guard holds the hypervisor's process still, because its lease has ended
    GONE = "gone"  # no process


@dataclass(frozen=True, kw_only=True)
class Handle:
    """How to find a guest again after the agent was gone. Stored in the runtime record."""

    pid: int
    start_time: int
    """Field 22 of /proc/<pid>/stat, clock ticks since boot: with the pid it names one process for ever."""
    boot_id: str
    accelerator: str = ""
    accelerator_reason: str = ""
    details: dict[str, str] = field(default_factory=dict[str, str])
    """What only the driver understands (socket names, versions)."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A process that freezes a guest when its lease ends (`guard.py`)."""

    pid: int
    start_time: int
    lease: Path


@dataclass(frozen=True, kw_only=True)
class GuestEvent:
    """A change that the hypervisor told us of, as it happens."""

    state: GuestState
    exit_reason: ExitReason | None = None
    """Set with GONE."""
    detail: str = ""


class Guest(Protocol):
    """One running machine, started or adopted. Every method may be repeated."""

    @property
    def handle(self) -> Handle:
        """How to find it again."""
        ...

    @property
    def guard(self) -> Guard | None:
        """What freezes the guest when its lease ends; None if nothing does."""
        ...

    @property
    def console_socket(self) -> Path:
        """Unix stream socket of the serial console. One client at a time: the agent."""
        ...

    @property
    def console_log(self) -> Path:
        """File to which the hypervisor itself appends everything the console prints."""
        ...

    async def state(self) -> GuestState:
        """Ask the hypervisor."""
        ...

    def events(self) -> AsyncIterator[GuestEvent]:
        """Changes from now on. Ends after GONE. One consumer."""
        ...

    async def shutdown(self) -> None:
        """Ask the guest to power off (ACPI button). Returns at once; GONE follows if the guest obeys."""
        ...

    async def reset(self) -> None:
        """Hard reset, as the button on the box."""
        ...

    async def pause(self) -> None:
        """Stop the virtual CPUs."""
        ...

    async def resume(self) -> None:
        """Let the virtual CPUs run again."""
        ...

    async def release(self) -> None:
        """Let the process of a guest in SHUT_DOWN end, now that its power-off is on record. Returns at once.

        Until then it stays for a few seconds: were it gone and nothing written, the power-off would look like a crash.
        """
        ...

    async def kill(self) -> None:
        """End the process (through a verified pidfd) and return when it is gone."""
        ...

    async def detach(self) -> None:
        """Let go of the guest without touching it: the agent is leaving, the guest stays."""
        ...


class Hypervisor(Protocol):
    """A driver."""

    @property
    def name(self) -> str:
        """As in `VmSpec.hypervisor`."""
        ...

    async def probe(self) -> HypervisorInfo:
        """What works on this host and, for what does not, why. Never raises for a missing hypervisor."""
        ...

    async def start(self, launch: Launch) -> Guest:
        """Start a guest; returns when its process answers. Raises DriverError and leaves no process behind.

        With `launch.lease` it never starts when that has ended: the error is then `lease_missing`.
        """
        ...

    async def adopt(self, launch: Launch, handle: Handle | None) -> Guest | None:
        """Take over a guest that outlived the agent; None if there is none (any more).

        `handle` is None when the agent died between starting the process and writing its record: the driver
        then finds the process by its sockets. Verified by boot id, start time, peer credentials and handshake.
        """
        ...
