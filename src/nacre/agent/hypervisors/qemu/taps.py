"""Opening the host's network devices for a guest. Called by `driver` and `hotplug`.

QEMU gets descriptors, not names: given the name of a tap that is not there, it would make one.
"""

import fcntl
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import MacvtapNic, Nic, TapNic
from nacre.agent.hypervisors.qemu.command_line.surroundings import TapFds
from nacre.model.convergence import FailureClass

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TAP = 0x0002
_MULTI_QUEUE = 0x0100
_NO_PACKET_INFORMATION = 0x1000
_VIRTIO_HEADER = 0x4000

_TUN = Path("/dev/net/tun")
_VHOST = Path("/dev/vhost-net")
_DEVICES = Path("/sys/class/net")


@dataclass(frozen=True)
class Opened:
    """Our descriptors of the devices of some NICs. A context: closed at its end, when QEMU has its own."""

    fds: dict[str, TapFds]
    stack: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def in_order(self) -> list[int]:
        """Return all descriptors."""
        return [fd for one in self.fds.values() for fd in (*one.tap, *one.vhost)]

    def inherited(self, first: int) -> dict[str, TapFds]:
        """Return what they are called in a process that inherits them in order, the first as `first`."""
        names = {fd: first + place for place, fd in enumerate(self.in_order())}
        return {
            nic: TapFds(tap=tuple(names[fd] for fd in one.tap), vhost=tuple(names[fd] for fd in one.vhost))
            for nic, one in self.fds.items()
        }


def open_all(nics: tuple[Nic, ...]) -> Opened:
    """Open the devices of all NICs that have one. Raises DriverError and leaves none open."""
    with ExitStack() as stack:
        fds: dict[str, TapFds] = {}
        for nic in nics:
            if not isinstance(nic, TapNic | MacvtapNic):
                continue
            try:
                fds[nic.id] = _open(nic, stack)
            except OSError as error:
                raise _unusable(nic, error.strerror or "it does not open") from error
        return Opened(fds, stack.pop_all())


def _open(nic: TapNic | MacvtapNic, stack: ExitStack) -> TapFds:
    queues = nic.options.queues
    if isinstance(nic, TapNic):
        taps = tuple(_tap(nic, stack) for _ in range(queues))
    else:
        taps = tuple(_file(nic.device, stack) for _ in range(queues))
    vhost = tuple(_file(_VHOST, stack) for _ in range(queues)) if os.access(_VHOST, os.R_OK | os.W_OK) else ()
    return TapFds(tap=taps, vhost=vhost)


def _tap(nic: TapNic, stack: ExitStack) -> int:
    try:
        flags = int((_DEVICES / nic.device / "tun_flags").read_text(), 16)
    except FileNotFoundError as error:
        raise _unusable(nic, "the node has no such tap device") from error
    if nic.options.queues > 1 and not flags & _MULTI_QUEUE:
        raise _unusable(nic, "it was made for one queue")
    fd = _file(_TUN, stack)
    wanted = _TAP | _NO_PACKET_INFORMATION | _VIRTIO_HEADER | (flags & _MULTI_QUEUE)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", nic.device.encode(), wanted))
    return fd


def _file(path: Path, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    stack.callback(os.close, fd)
    return fd


def _unusable(nic: TapNic | MacvtapNic, why: str) -> DriverError:
    name = nic.device if isinstance(nic, TapNic) else nic.device.name
    return DriverError(
        "network_device_unusable",
        f"the network device {name} of NIC {nic.id} cannot be used: {why}",
        hint="it is made again with the machine's network; see the node's log if this stays",
        failure_class=FailureClass.TRANSIENT,
    )
