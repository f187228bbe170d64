"""Images through the API, with uploads that go on where they broke off."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from nacre.client.collection import Collection, in_project
from nacre.client.transport import Transport
from nacre.errors import ConflictError, NacreError
from nacre.model.images import Role
from nacre.schema.common import Accepted, Page
from nacre.schema.images import ImageCreate, ImageOut, ImageUpdate, UploadOut

AcceptedImage = Accepted[ImageOut]

CHUNK_BYTES = 1 << 20
STALL_S = 120.0
TRIES_WITHOUT_PROGRESS = 6

Sent = Callable[[int], None]
"""Told how many bytes of a file have been sent, again and again."""


def _quiet(_: int) -> None:
    """Tell nobody."""


class Images(Collection[ImageOut]):
    """`/v1/images`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/images", ImageOut, Page[ImageOut])

    async def create(self, body: ImageCreate, *, wait_s: float = 0) -> AcceptedImage:
        """Create an image; what has neither URL nor path is then uploaded."""
        return await self._transport.change("POST", self._path, AcceptedImage, body=body, wait_s=wait_s)

    async def update(
        self, ref: str, body: ImageUpdate, *, project: str | None = None, if_match: str | None = None
    ) -> ImageOut:
        """Change fields of an image."""
        return await self._transport.change(
            "PATCH", self.at(ref), ImageOut, body=body, params=in_project(project), if_match=if_match
        )

    async def delete(self, ref: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedImage:
        """Delete an image that no machine uses."""
        return await self._transport.change(
            "DELETE", self.at(ref), AcceptedImage, params=in_project(project), wait_s=wait_s
        )

    async def upload_state(self, ref: str, role: Role, *, project: str | None = None) -> UploadOut:
        """Return how much of an artifact has arrived."""
        return await self._transport.read(self._upload_path(ref, role), UploadOut, params=in_project(project))

    async def upload(self, ref: str, role: Role, file: Path, *, sent: Sent = _quiet) -> UploadOut:
        """Send a file, from where an earlier try broke off. `ref` is best an id. Raises NacreError.

        Network failures are retried for as long as some bytes get through between them.
        """
        best, tries = -1, 0
        while True:
            state = await self.upload_state(ref, role)
            sent(state.offset)
            if state.complete:
                return state
            tries = 0 if state.offset > best else tries + 1
            best = max(best, state.offset)
            try:
                return await self._send_from(ref, role, file, state.offset, sent)
            except NacreError as error:
                broken = error.retryable or (isinstance(error, ConflictError) and "offset" in error.code)
                if not broken or tries >= TRIES_WITHOUT_PROGRESS:
                    raise
            await asyncio.sleep(min(5.0, 0.2 * 2**tries))

    async def _send_from(self, ref: str, role: Role, file: Path, offset: int, sent: Sent) -> UploadOut:
        with await asyncio.to_thread(file.open, "rb") as source:
            return await self._transport.send_stream(
                self._upload_path(ref, role),
                UploadOut,
                _chunks(source, offset, sent),
                headers={"Upload-Offset": str(offset), "Content-Type": "application/octet-stream"},
                stall_s=STALL_S,
            )

    def _upload_path(self, ref: str, role: Role) -> str:
        return self.at(ref, "artifacts", role.value, "upload")


async def _chunks(source: BinaryIO, offset: int, sent: Sent) -> AsyncIterator[bytes]:
    """Read a file piece by piece without holding up the loop."""
    await asyncio.to_thread(source.seek, offset)
    while chunk := await asyncio.to_thread(source.read, CHUNK_BYTES):
        yield chunk
        offset += len(chunk)
        sent(offset)
