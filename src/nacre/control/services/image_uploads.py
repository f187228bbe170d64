"""Uploads of artifacts: streamed to the disk, resumed by offset, taken only when whole and what they should be.

Called by `control/api/images.py`. One upload of an artifact at a time, by a lock on its file. The offset to resume from
is what was recorded after a sync: never more than the disk holds, whatever crashed.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.services import image_facts
from nacre.control.services.image_files import ImageDepot, PartFile, too_large
from nacre.control.services.image_finishing import finish
from nacre.control.services.image_lookup import find, missing
from nacre.control.store import images as store
from nacre.control.store.db import Database, Read
from nacre.control.store.images import ImageRow, Origin, Part, Stage
from nacre.errors import ConflictError, InvalidInputError, NotFoundError
from nacre.lib.threads import in_thread
from nacre.model.images import ImageState, Role
from nacre.model.units import MIB
from nacre.schema.images import UploadOut

_BUFFER = 1 * MIB
_RECORD_BYTES = 64 * MIB
_RECORD_S = 2.0


async def upload_state(rd: Read, caller: Caller, ref: str, role: Role, *, project: str | None = None) -> UploadOut:
    """Return how much of an artifact has arrived for good. Raises NacreError."""
    _, part = await _admit(rd, caller, ref, role, project)
    return _out(part, part.received_bytes, complete=part.stage is not Stage.RECEIVING)


@dataclass(frozen=True)
class ImageUploads:
    """Receives the content of images. Made by `app`."""

    db: Database
    depot: ImageDepot

    async def receive(
        self,
        caller: Caller,
        image: str,
        role: Role,
        offset: int,
        chunks: AsyncIterator[bytes],
        *,
        project: str | None = None,
    ) -> UploadOut:
        """Take bytes from `offset` on. With the last one, check the whole and finish the artifact.

        The last byte is known by the announced size; without one, by the end of `chunks`. If `chunks` raises, what has
        come until then is kept. Raises NacreError: a wrong offset is a conflict whose hint has the right one, content
        that is not what it should be is thrown away so that it can be sent again.
        """
        async with self.db.read() as rd:
            row, part = await _admit(rd, caller, image, role, project)
        if part.stage is not Stage.RECEIVING:
            raise _complete(part)
        file = await in_thread(self.depot.open_part, row.id, role)
        try:
            row, part = await self._again(caller, row, role, file)
            _check_offset(file, part, offset)
            upload = _Upload(self.db, self.depot, row, part, file)
            await upload.take(offset, chunks)
            return await upload.end()
        finally:
            await in_thread(file.close)

    async def _again(self, caller: Caller, row: ImageRow, role: Role, file: PartFile) -> tuple[ImageRow, Part]:
        """Look once more, now that nobody else writes this artifact."""
        try:
            async with self.db.read() as rd:
                row, part = await _admit(rd, caller, row.id, role, None)
        except NotFoundError:
            async with self.db.read() as rd:
                gone = await store.get(rd, row.id) is None
            if gone:  # perhaps before we made the file
                await in_thread(self.depot.remove, row.id)
            raise
        if file.size < part.received_bytes:  # the file was lost: whoever asks must hear so
            async with self.db.write() as tx:
                await image_facts.arrived(tx, row.id, role, file.size)
        return row, part


class _Upload:
    """One request's worth of an upload."""

    def __init__(self, db: Database, depot: ImageDepot, row: ImageRow, part: Part, file: PartFile) -> None:
        self._db = db
        self._depot = depot
        self._row = row
        self._part = part
        self._file = file
        self._recorded = part.received_bytes
        self._recorded_at = asyncio.get_running_loop().time()

    async def take(self, offset: int, chunks: AsyncIterator[bytes]) -> None:
        """Write what comes; what is written is recorded however this ends."""
        await in_thread(self._file.cut, offset)
        if self._part.size_bytes is not None:
            await in_thread(self._file.expect, self._part.size_bytes)
        buffer = bytearray()
        try:
            async for chunk in chunks:
                buffer += chunk
                if len(buffer) >= _BUFFER:
                    await self._write(buffer)
                    buffer = bytearray()
        finally:
            await self._write_last(buffer)

    async def end(self) -> UploadOut:
        """Finish the artifact if all of it is here."""
        announced, size = self._part.size_bytes, self._file.size
        if announced is not None and size < announced:
            return _out(self._part, size, complete=False)
        try:
            verified = await in_thread(self._file.verify, self._part)
        except InvalidInputError as error:
            await self._discard(error)
            raise
        await finish(self._db, self._depot, self._row.id, self._part.role, verified)
        return _out(self._part, size, complete=True)

    async def _write(self, data: bytearray) -> None:
        after, announced = self._file.size + len(data), self._part.size_bytes
        if after > self._depot.max_bytes:
            raise too_large(after, self._depot.max_bytes)
        if announced is not None and after > announced:
            raise InvalidInputError(
                "image_size_mismatch",
                f"more bytes are sent than the {announced} that were announced for the {self._part.role}",
                hint="delete the image and create it with the size of the file, or without one",
            )
        await in_thread(self._file.append, data)
        now = asyncio.get_running_loop().time()
        if self._file.size - self._recorded >= _RECORD_BYTES or now - self._recorded_at >= _RECORD_S:
            await self._record()

    async def _write_last(self, data: bytearray) -> None:
        try:
            if data:
                await self._write(data)
        finally:
            await self._record()

    async def _record(self) -> None:
        if self._file.size == self._recorded:
            return
        await in_thread(self._file.sync)
        async with self._db.write() as tx:
            await image_facts.arrived(tx, self._row.id, self._part.role, self._file.size)
        self._recorded = self._file.size
        self._recorded_at = asyncio.get_running_loop().time()

    async def _discard(self, error: InvalidInputError) -> None:
        """Start anew: these bytes will never be the artifact."""
        async with self._db.write() as tx:
            await image_facts.rejected(tx, self._row.id, self._part.role, error)
        await in_thread(self._file.cut, 0)


async def _admit(rd: Read, caller: Caller, ref: str, role: Role, project: str | None) -> tuple[ImageRow, Part]:
    """Return the image and the artifact if the caller may send it. Raises NacreError."""
    row = await find(rd, caller, ref, project)
    policy.require(caller, row.project, missing=missing(ref))
    part = row.part(role)
    if part is None:
        raise NotFoundError(
            "artifact_not_declared",
            f"image {row.name} is not to have a {role}",
            hint=f"it has: {', '.join(part.role for part in row.parts)}",
        )
    if part.origin is not Origin.UPLOAD:
        raise ConflictError(
            "artifact_not_uploaded",
            f"the {role} of image {row.name} is fetched from a {part.origin}",
            hint="create an image without url and path to upload its artifacts",
        )
    if row.state is not ImageState.UPLOADING and part.stage is Stage.RECEIVING:
        raise ConflictError(
            "image_not_uploading",
            f"image {row.name} is {row.state}",
            hint="delete it and create it again" if row.state is ImageState.FAILED else "wait until it is gone",
        )
    return row, part


def _check_offset(file: PartFile, part: Part, offset: int) -> None:
    have = min(file.size, part.received_bytes)
    if part.stage is not Stage.RECEIVING:
        raise _complete(part)
    if offset != have:
        raise ConflictError(
            "upload_offset_mismatch",
            f"{have} bytes of the {part.role} are here, but {offset} were skipped",
            hint=f"send the file from byte {have} on (Upload-Offset: {have})",
            field="Upload-Offset",
        )


def _complete(part: Part) -> ConflictError:
    return ConflictError(
        "upload_complete", f"the {part.role} has arrived completely", hint="there is nothing left to send"
    )


def _out(part: Part, offset: int, *, complete: bool) -> UploadOut:
    return UploadOut(role=part.role, offset=offset, size_bytes=part.size_bytes, complete=complete)
