"""Pools for the contract of stores: each kind with what tests do past its driver, which is to write, read and look.

`FolderPool` is files, `CephPool` is images of a real cluster. What is in a volume is the first bytes of its first six
blocks of 64 KiB, in letters.
"""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from nacre.agent.storage.base import VolumeStore
from nacre.agent.storage.ceph.reach import Reach
from nacre.agent.storage.ceph.volumes import CephVolumes
from nacre.agent.storage.layers import MANIFEST, read, tree
from nacre.agent.storage.volumes import DirectoryVolumes
from nacre.lib.clock import SystemClock
from nacre.model.ids import VolumeId
from nacre.model.volumes import DiskFormat
from support import ceph
from support.volumes import content, fill, sound

_BLOCKS = 6
_BLOCK = 65536


class Pool(Protocol):
    """One pool of one kind."""

    form: DiskFormat
    """What its volumes are kept in."""

    def opened(self, *, shared: bool = False) -> VolumeStore:
        """A driver of it, as an agent makes one: for itself alone, or for a pool that other nodes see as well."""
        ...

    async def fill(self, volume: VolumeId, text: str, offset: int = 0) -> None:
        """Write a block full of one letter."""
        ...

    async def content(self, volume: VolumeId) -> str:
        """What is in a volume."""
        ...

    def check_tidy(self) -> None:
        """Nothing is there but what volumes are made of, and all of that is sound."""
        ...

    def is_empty(self) -> bool:
        """Whether nothing is left in it."""
        ...

    def again(self, prepare: Callable[["Pool"], Awaitable[None]]) -> "Pool":
        """A pool of the same kind in which `prepare` has been done, and nothing else. This one is not used any more."""
        ...


class FolderPool:
    """A pool in a folder."""

    def __init__(self, root: Path, number: int = 0, form: DiskFormat = DiskFormat.QCOW2) -> None:
        self.root = root
        self.form = form
        self._number = number

    def opened(self, *, shared: bool = False) -> VolumeStore:
        """A driver of it."""
        return DirectoryVolumes(self.root, clock=SystemClock(), shared=shared)

    async def path(self, volume: VolumeId) -> Path:
        """The file that is written."""
        return (await DirectoryVolumes(self.root, clock=SystemClock()).disk(volume)).path

    async def fill(self, volume: VolumeId, text: str, offset: int = 0) -> None:
        """Write a block full of one letter."""
        fill(await self.path(volume), text, offset)

    async def content(self, volume: VolumeId) -> str:
        """What is in a volume."""
        return content(await self.path(volume))

    def check_tidy(self) -> None:
        """Nothing is there but what volumes are made of."""
        for folder in self.root.iterdir():
            assert not folder.name.startswith("."), folder
            manifest = read(folder)
            assert manifest is not None, folder
            useful = tree(folder, manifest)
            assert {path.name for path in folder.iterdir()} == {*useful, MANIFEST}
            assert all(sound(folder / name) for name in useful)

    def is_empty(self) -> bool:
        """Whether nothing is left in it."""
        return not list(self.root.iterdir())

    def again(self, prepare: Callable[[Pool], Awaitable[None]]) -> "FolderPool":
        """A copy of one that was prepared once."""
        first = self.root.with_name("first")
        if not first.exists():
            first.mkdir()
            asyncio.run(prepare(FolderPool(first, form=self.form)))
        copy = FolderPool(first.with_name(f"pool-{self._number + 1}"), self._number + 1, self.form)
        shutil.rmtree(self.root)
        subprocess.run(["cp", "--archive", "--sparse=always", first, copy.root], check=True)
        return copy


class CephPool:
    """The pool of a cluster, of which a test has the whole."""

    form = DiskFormat.RAW

    def __init__(self, cluster: ceph.Cluster, folder: Path) -> None:
        self.cluster = cluster
        self._folder = folder
        self._reach = Reach(pool=ceph.POOL, access=cluster.access(), folder=folder)

    def opened(self, *, shared: bool = True) -> VolumeStore:  # it always is
        """A driver of it."""
        return CephVolumes(ceph.POOL, self.cluster.access(), self._folder)

    async def fill(self, volume: VolumeId, text: str, offset: int = 0) -> None:
        """Write a block full of one letter."""
        self._io(volume, [f"write -P {ord(text)} {offset} 64k"])

    async def content(self, volume: VolumeId) -> str:
        """What is in a volume."""
        said = self._io(volume, [f"read -v {number * _BLOCK} 1" for number in range(_BLOCKS)], "-r")
        found = re.findall(r"^[0-9a-f]{8}:\s+([0-9a-f]{2})", said, re.MULTILINE)
        return "".join(chr(int(one, 16)) for one in found)

    def check_tidy(self) -> None:
        """Every image is a volume's, and has no snapshot that was for a moment only."""
        images, _ = self.cluster.images()
        for image in images:
            assert f'"volume":"{image}"' in self.cluster.rbd("image-meta", "get", image, "nacre.volume")
            assert "for-" not in self.cluster.rbd("snap", "ls", image)

    def is_empty(self) -> bool:
        """Whether nothing is left in it."""
        return self.cluster.images() == ([], [])

    def wipe(self) -> None:
        """Remove all that is in it, whoever made it."""
        while not self.is_empty():
            for image in self.cluster.images()[0]:
                self.cluster.rbd("snap", "purge", "--no-progress", image)
                self.cluster.rbd("trash", "mv", image)
            subprocess.run(
                ["rbd", "--conf", str(self.cluster.configuration), "trash", "purge", "--no-progress", ceph.POOL],
                check=False,
                capture_output=True,
            )

    def again(self, prepare: Callable[[Pool], Awaitable[None]]) -> "CephPool":
        """The same one, emptied and prepared anew."""
        self.wipe()
        asyncio.run(prepare(self))
        return self

    def _io(self, volume: VolumeId, commands: Sequence[str], *options: str) -> str:
        reach = self._reach
        reach.write()
        image = f"driver=rbd,pool={reach.pool},image={volume},user={reach.user},conf={reach.configuration},key-secret=k"
        words = [word for command in commands for word in ("-c", command)]
        secret = f"secret,id=k,format=base64,file={reach.secret}"
        command = ["qemu-io", "--object", secret, *options, *words, "--image-opts", image]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
