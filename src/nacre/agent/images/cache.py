"""Images on this node: fetched once, verified, kept while anything needs them, bounded otherwise. Called by recipes.

An artifact with its final name is whole and verified; one that is being fetched has another name and is gone on with.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from nacre.errors import NotFoundError, UnavailableError
from nacre.lib.files import sync_folder
from nacre.lib.threads import in_thread
from nacre.model.ids import ImageId
from nacre.model.images import Artifact, ImageManifest, Role

Fetch = Callable[[ImageId, Role, int], AsyncIterator[bytes]]

_PARTIAL = ".partial"
_STALL_S = 60.0
_BLOCK = 1 << 20

log = structlog.get_logger()


@dataclass(frozen=True)
class CachedImage:
    """The files of one image. They do not change and must not be written to."""

    paths: Mapping[Role, Path]

    def path(self, role: Role) -> Path | None:
        """Return the file with this role, if the image has one."""
        return self.paths.get(role)


class ImageCache:
    """The images of one node."""

    def __init__(
        self, folder: Path, *, limit_bytes: int, fetch: Fetch, needed: Callable[[], frozenset[ImageId] | None]
    ) -> None:
        """`needed` names the images that must stay; None that nobody knows, so that all stay. `folder` exists."""
        self._folder = folder
        self._limit = limit_bytes
        self._fetch = fetch
        self._needed = needed
        self._locks: dict[ImageId, asyncio.Lock] = {}
        self._in_use: dict[ImageId, int] = {}

    async def fetch(self, manifest: ImageManifest) -> CachedImage:
        """Return the image's files, fetching what is missing. May be repeated; goes on where it broke off.

        Raises NacreError if the control plane cannot be reached or the content is not what it should be, and OSError.
        """
        if not manifest.artifacts:
            raise NotFoundError(
                "image_gone",
                "the machine's image does not exist any more",
                hint="create the machine again from another image",
            )
        self._in_use[manifest.id] = self._in_use.get(manifest.id, 0) + 1
        try:
            async with self._locks.setdefault(manifest.id, asyncio.Lock()):
                paths = {artifact.role: await self._artifact(manifest.id, artifact) for artifact in manifest.artifacts}
                os.utime(self._folder / manifest.id)  # when it was last used
        finally:
            self._in_use[manifest.id] -= 1
            if not self._in_use[manifest.id]:
                del self._in_use[manifest.id]
        return CachedImage(paths)

    def cached(self) -> tuple[ImageId, ...]:
        """Name the images of which something is here whole."""
        return tuple(
            ImageId(place.name)
            for place in sorted(self._folder.iterdir())
            if any(file.suffix != _PARTIAL for file in place.iterdir())
        )

    def size(self) -> int:
        """Return how many bytes the cache takes."""
        return sum(_size(place) for place in self._folder.iterdir())

    async def evict(self, room: int = 0) -> None:
        """Remove images that nothing needs, longest unused first, until the cache with `room` more bytes is in bounds.

        In use means: named by the desired state, under a machine's disk, or being fetched.
        """
        needed = self._needed()
        if needed is None:
            return
        size = await in_thread(self.size) + room
        for place in sorted(self._folder.iterdir(), key=lambda place: place.stat().st_mtime):
            if size <= self._limit:
                return
            image = ImageId(place.name)
            if image in needed or image in self._in_use:
                continue
            size -= _size(place)
            await in_thread(shutil.rmtree, place)
            self._locks.pop(image, None)
            log.info("image.evicted", image=image)

    async def _artifact(self, image: ImageId, artifact: Artifact) -> Path:
        place = self._folder / image
        path = place / artifact.role.value
        if path.exists() and path.stat().st_size == artifact.size_bytes:
            return path
        place.mkdir(mode=0o700, exist_ok=True)
        await self.evict(artifact.size_bytes)
        await self._receive(image, artifact, path.with_name(path.name + _PARTIAL))
        path.with_name(path.name + _PARTIAL).rename(path)
        await in_thread(sync_folder, place)
        await in_thread(sync_folder, self._folder)
        log.info("image.fetched", image=image, role=artifact.role, size_bytes=artifact.size_bytes)
        return path

    async def _receive(self, image: ImageId, artifact: Artifact, partial: Path) -> None:
        """Write the artifact to `partial`, from where an earlier try broke off, and verify it as a whole."""
        arriving = await in_thread(_Arriving, partial, artifact)
        try:
            if arriving.size < artifact.size_bytes:
                chunks = self._fetch(image, artifact.role, arriving.size)
                try:
                    while (chunk := await _next(chunks)) is not None:
                        await in_thread(arriving.write, chunk)
                finally:
                    if isinstance(chunks, AsyncGenerator):
                        await chunks.aclose()
            await in_thread(arriving.verify)
        finally:
            arriving.close()


class _Arriving:
    """A file that is being received. Blocking."""

    def __init__(self, path: Path, artifact: Artifact) -> None:
        """Go on with what is there, unless it is more than there should be."""
        self._path = path
        self._artifact = artifact
        self._digest = hashlib.sha256()
        self.size = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if os.fstat(self._descriptor).st_size > artifact.size_bytes:
            os.ftruncate(self._descriptor, 0)
        while block := os.read(self._descriptor, _BLOCK):
            self._digest.update(block)
            self.size += len(block)

    def write(self, chunk: bytes) -> None:
        """Append."""
        view = memoryview(chunk)
        while view:
            written = os.write(self._descriptor, view)
            self._digest.update(view[:written])
            self.size += written
            view = view[written:]

    def verify(self) -> None:
        """Raise UnavailableError unless all is here and right, which is then on the platter."""
        if self._digest.hexdigest() != self._artifact.sha256 or self.size != self._artifact.size_bytes:
            self._path.unlink()
            raise UnavailableError(
                "image_corrupt",
                f"the {self._artifact.role} of the image arrived with another checksum than it should have",
                hint="it is fetched again by itself; if that does not help, import the image anew",
            )
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(_STALL_S):
            return await anext(chunks, None)
    except TimeoutError as error:
        raise UnavailableError(
            "image_stalled", "the image stopped arriving", hint="it is fetched on from there by itself"
        ) from error


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.iterdir())
