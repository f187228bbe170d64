"""A reconciler of images in a process of its own, to be killed. Run with a database URL, a data directory, a root.

A node that is asked for a disk sends the file `node.qcow2` in the root.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec

from nacre.control.reconcilers.image_exports import NodeDisks
from nacre.control.reconcilers.images import ImageReconciler
from nacre.control.services import events
from nacre.control.services.image_files import ImageDepot
from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.lib.clock import SystemClock
from nacre.model.exports import DiskStatus
from nacre.model.ids import NodeId, VmId
from nacre.model.units import MIB
from nacre.protocol.messages import StreamKind


class Node:
    """Fulfils `image_exports.Streams` and is the stream as well."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk

    @contextlib.asynccontextmanager
    async def open(self, vm: VmId, node: NodeId, kind: StreamKind) -> AsyncGenerator["Node"]:
        """Open a stream."""
        del vm, node, kind
        yield self

    async def send(self, data: bytes) -> None:
        """Take what is wanted."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Say how large the disk is, and send it slowly enough to be killed in the middle."""
        content = self._disk.read_bytes()
        yield msgspec.json.encode(DiskStatus(gathered_bytes=1))
        yield msgspec.json.encode(DiskStatus(size_bytes=len(content)))
        for offset in range(0, len(content), MIB):
            await asyncio.sleep(0.005)
            yield content[offset : offset + MIB]


async def main(url: str, data: str, root: str) -> None:
    database = Database.from_url(url, SystemClock(), Wakes())
    database.on_commit(events.flush)
    depot = replace(ImageDepot.of(Path(data), image_roots=(root,)), reserve_bytes=0)
    print("working", flush=True)
    disks = NodeDisks(db=database, streams=Node(Path(root) / "node.qcow2"))
    await ImageReconciler(database, depot, nodes=disks, claim_s=0.3, renew_s=0.1).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
