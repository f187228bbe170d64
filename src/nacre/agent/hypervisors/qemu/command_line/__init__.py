"""The command line of one machine, and the same parts for what comes later over QMP. Pure: a launch in, words out.

Called by `driver` and `guest`; golden tests hold it still. Nothing secret ever stands here: every user of the host can
read it. One module per kind of thing; `build` puts them together.
"""

from nacre.agent.hypervisors.qemu.command_line.build import build, probe_words
from nacre.agent.hypervisors.qemu.command_line.places import (
    CONSOLE_LOG,
    CONSOLE_SOCKET,
    DISPLAY_SOCKET,
    GUEST_SOCKET,
    QMP_SOCKET,
    SOCKETS,
    VIRTIO_CONSOLE_LOG,
    uuid_of,
)
from nacre.agent.hypervisors.qemu.command_line.surroundings import Surroundings, TapFds

__all__ = [
    "CONSOLE_LOG",
    "CONSOLE_SOCKET",
    "DISPLAY_SOCKET",
    "GUEST_SOCKET",
    "QMP_SOCKET",
    "SOCKETS",
    "VIRTIO_CONSOLE_LOG",
    "Surroundings",
    "TapFds",
    "build",
    "probe_words",
    "uuid_of",
]
