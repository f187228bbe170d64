"""A guest that comes from another host: the receiver's side. Called by `driver` and `guest`.

Listens on a unix socket for the guest, and on one beside it for the content of its disks.
"""

from pathlib import Path

from nacre.agent.hypervisors.abilities import disks_socket
from nacre.agent.hypervisors.launch import Arrival
from nacre.agent.hypervisors.qemu.command_line.places import node_of
from nacre.agent.hypervisors.qemu.talk import Talk


async def listen(talk: Talk, socket: Path, arrival: Arrival) -> None:
    """Have a waiting QEMU listen. Raises DriverError."""
    await talk.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    # Only if this host can; it does nothing unless the sender asks for it.
    await talk.attempt("migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-ram", "state": True}]})
    if arrival.disks:
        address = {"type": "unix", "data": {"path": str(disks_socket(socket))}}
        await talk.execute("nbd-server-start", {"addr": address})
        for disk in arrival.disks:
            export = {"type": "nbd", "id": f"move-{disk}", "node-name": node_of(disk), "name": disk, "writable": True}
            await talk.execute("block-export-add", export)
    await talk.execute("migrate-incoming", {"uri": f"unix:{socket}"})


async def arrived(talk: Talk) -> None:
    """The guest is here: let nobody write to its disks any more. May be repeated."""
    await talk.attempt("nbd-server-stop", {})
