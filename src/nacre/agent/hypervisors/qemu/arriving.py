"""A guest that comes from another host: the receiver's side. Called by `driver`, `guest` and `live`.

Listens on a unix socket for the guest, and on one beside it for the content of its disks.
"""

from pathlib import Path

from nacre.agent.hypervisors.abilities import disks_socket
from nacre.agent.hypervisors.launch import Arrival
from nacre.agent.hypervisors.qemu import answers
from nacre.agent.hypervisors.qemu.command_line.places import node_of
from nacre.agent.hypervisors.qemu.talk import Talk

_PASSING = "own.sock"
_LATE = "late-block-activate"


async def listen(talk: Talk, socket: Path, arrival: Arrival) -> None:
    """Have a waiting QEMU listen. Raises DriverError."""
    await talk.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    # Who has the guest in the end is not known yet: disks that the sender has open as well are its own until then.
    await talk.execute("migrate-set-capabilities", {"capabilities": [{"capability": _LATE, "state": True}]})
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


async def take_over(talk: Talk, folder: Path) -> None:
    """Make the disks this process's own without letting the guest run. May be repeated. Raises DriverError.

    From QEMU 10.0 on that is a command. Before, exporting a disk for a moment does it. `folder` is for a socket.
    """
    if await talk.attempt("blockdev-set-active", {"active": True}):
        return
    await arrived(talk)
    socket = folder / _PASSING
    await talk.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(socket)}}})
    try:
        for number, drive in enumerate(await talk.ask(list[answers.Drive], "query-block")):
            if drive.inserted is not None:
                export = {"type": "nbd", "id": f"own-{number}", "node-name": drive.inserted.node_name}
                await talk.execute("block-export-add", {**export, "name": f"own-{number}"})
    finally:
        await arrived(talk)
