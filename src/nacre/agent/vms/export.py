"""Make a copy of a machine's root disk as a checkpoint keeps it: one file that needs no other. Called by `exports`.

Reads layers that nobody writes any more, through hard links of its own: the machine runs, starts, stops and changes
beside it, and its disk is held for the moment of linking only. What is begun lies in one folder and is rubbish.
"""

import os
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage import qemu_img
from nacre.agent.storage.disks import format_of
from nacre.agent.storage.roots import disk_of
from nacre.agent.vms import kept
from nacre.agent.vms.host import Host
from nacre.lib.threads import in_thread
from nacre.model.checkpoints import snapshot_of
from nacre.model.convergence import FailureClass
from nacre.model.ids import CheckpointId, VmId
from nacre.model.units import MIB, format_size

RESERVE_BYTES = 512 * MIB
"""Stays free on the node's disk, because guests write there too."""
_FILE = "disk.qcow2"
_LAYERS = "layers"


class _Measured(msgspec.Struct, frozen=True):
    """What `qemu-img measure` says."""

    required: int


async def export(
    vm: VmId, checkpoint: CheckpointId, host: Host, place: Path, *, reserve_bytes: int = RESERVE_BYTES
) -> Path:
    """Return the copy, which is made in `place`, an empty folder. Raises DriverError and OSError."""
    found = await in_thread(kept.read, host.place(vm), checkpoint)
    if found is None or not found.root:
        raise DriverError(
            "checkpoint_missing",
            "the checkpoint is not on the node, or has no root disk",
            hint="take another one of a machine with a root disk: `nacre vm checkpoint`",
            failure_class=FailureClass.PERMANENT,
        )
    layers, target = place / _LAYERS, place / _FILE
    await in_thread(layers.mkdir, mode=0o700)
    async with host.pools.held([disk_of(vm)]):
        top = await host.roots.share(vm, snapshot_of(checkpoint), layers)
    await _check_room(top, reserve_bytes)
    words = ("-q", "-U", "-f", format_of(top.name).value, "-O", "qcow2", str(top), str(target))
    await qemu_img.run("qemu-img", "convert", *words, limit_s=qemu_img.COPY_S, bound=True)
    return target


def gathered(place: Path) -> int:
    """Return how much of a copy there is. Blocks; short."""
    try:
        return (place / _FILE).stat().st_blocks * 512
    except FileNotFoundError:
        return 0


async def _check_room(top: Path, reserve_bytes: int) -> None:
    """Raise DriverError unless a copy fits on the node's disk, before any of it is written."""
    words = ("-U", "-f", format_of(top.name).value, "-O", "qcow2", "--output=json", str(top))
    said = await qemu_img.run("qemu-img", "measure", *words)
    required = msgspec.json.decode(said, type=_Measured).required
    room = await in_thread(os.statvfs, top.parent)
    if room.f_bavail * room.f_frsize < required + reserve_bytes:
        raise DriverError(
            "storage_full",
            f"the node has no room for a copy of the disk, which takes {format_size(required)}",
            hint="free space on the node or add a disk; it is tried again by itself",
        )
