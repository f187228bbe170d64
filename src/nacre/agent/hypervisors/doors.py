"""Connect to what is served in a machine's folder of sockets: consoles, screens and agents of guests.

The folder is the hypervisor's user's, so a hypervisor that was taken over can put a link to somebody else's socket in
it. Whoever answers is looked at before anything is sent: it has to be the machine's user, the keeper of the machine's
console, or this agent itself. Not asked where hypervisors run as the agent does: such a one can do all that we can.
"""

import asyncio
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors import console_keeper
from nacre.lib import processes
from nacre.lib.processes import Peer

_KEEPER = os.fsencode(f"/{Path(console_keeper.__file__).parent.name}/{Path(console_keeper.__file__).name}")


@dataclass(frozen=True)
class Door:
    """A unix stream socket that leads into a machine."""

    path: Path
    pid: int
    """The hypervisor's process."""

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect. Raises OSError; PermissionError if somebody listens there who has no business there."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        connection: socket.socket = writer.get_extra_info("socket")
        if not _may_serve(processes.peer(connection), processes.peer_user(connection), self.pid):
            writer.transport.abort()
            raise PermissionError(None, "a process of somebody else listens there", str(self.path))
        return reader, writer


def _may_serve(peer: Peer | None, user: int | None, hypervisor: int) -> bool:
    owner = processes.owner(hypervisor)
    if sys.platform != "linux" or owner is None or owner == os.geteuid():
        return True
    if user != os.geteuid():
        return user == owner
    return peer is not None and (peer.pid == os.getpid() or is_keeper(peer, hypervisor))


def is_keeper(peer: Peer, hypervisor: int) -> bool:
    """Whether a process is the keeper of the console of a hypervisor's process (`console_keeper.py`), and is ours."""
    started = processes.start_time(hypervisor)
    try:
        words = Path(f"/proc/{peer.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # Not by its whole path: it may be of before an upgrade that has put us elsewhere.
    mine = words[1:3] == [b"-I", b"-S"] and words[3].endswith(_KEEPER)
    return mine and words[4:6] == [b"%d" % hypervisor, b"%d" % (started or 0)] and _is_ours(peer)


def _is_ours(peer: Peer) -> bool:
    return processes.owner(peer.pid) == os.geteuid() and processes.start_time(peer.pid) == peer.start_time
