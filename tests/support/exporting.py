"""Disks of machines on their way out of a node in this process: what is asked, what is said, what has come."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nacre.agent.exports import Export, Exports
from nacre.model.exports import DiskStatus, DiskWanted
from nacre.model.ids import CheckpointId, VmId
from support.node import Node
from support.volumes import content, sound


def exports(node: Node, **options) -> Exports:
    """Those of a node."""
    return Exports(node.host, ended=node.executor.layers_freed, **({"reserve_bytes": 0} | options))


@dataclass
class Came:
    """What has come over one stream."""

    said: list[DiskStatus] = field(default_factory=list[DiskStatus])
    data: bytearray = field(default_factory=bytearray)

    def take(self, frame: bytes) -> None:
        """Take the next frame: a status, or bytes once a status has told of them."""
        if self.said and self.said[-1].size_bytes is not None:
            self.data += frame
        else:
            self.said.append(msgspec.json.decode(frame, type=DiskStatus))


async def received(one: Export, checkpoint: CheckpointId) -> Came:
    """Ask for a disk and take all that comes."""
    await one.send(msgspec.json.encode(DiskWanted(checkpoint=checkpoint)))
    came = Came()
    async for frame in one:
        came.take(frame)
    return came


async def exported(source: Exports, vm: VmId, checkpoint: CheckpointId) -> Came:
    """The same, from the stream on."""
    async with source.opened(vm) as one:
        return await received(one, checkpoint)


def letter(came: Came, place: Path) -> str:
    """The first letter of a disk that has come, which is whole, sound and needs no other file."""
    path = place / "came.qcow2"
    path.write_bytes(came.data)
    assert sound(path)
    said = subprocess.run(["qemu-img", "info", "-f", "qcow2", str(path)], check=True, capture_output=True, text=True)
    assert "backing" not in said.stdout
    return content(path)[0]


def left(node: Node) -> list[Path]:
    """What lies about of disks that were to be sent."""
    folder = node.host.exports
    return list(folder.iterdir()) if folder.exists() else []
