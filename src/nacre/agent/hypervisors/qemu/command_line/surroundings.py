"""What a command line depends on besides the machine: the QEMU that is there, and what was opened for it. Pure."""

from dataclasses import dataclass

TCG = "tcg"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The QEMU that is started, and its host."""

    binary: str
    accelerator: str
    sandbox: bool = True
    linux: bool = True
    tsc_khz: int | None = None
    """The rate of the host's time stamp counter."""


@dataclass(frozen=True, kw_only=True)
class TapFds:
    """Descriptors of a tap or macvtap device in the process that gets the command line, one per queue."""

    tap: tuple[int, ...]
    vhost: tuple[int, ...] = ()
    """As many, of /dev/vhost-net. None: QEMU moves the packets itself."""
