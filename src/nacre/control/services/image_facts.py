"""What becomes of an image on its way in: bytes arrive, are verified, converted, or turn out to be no good.

Called by uploads and by the reconciler, each in a transaction of its own. Those who work under a claim pass it: a lost
claim or an image on its way out ends the work with `ImageGoneError` and changes nothing.
"""

from dataclasses import replace
from datetime import datetime, timedelta

import msgspec
import structlog

from nacre.control.services import events, operations
from nacre.control.store import images as store
from nacre.control.store.db import Tx
from nacre.control.store.images import ImageRow, Origin, Part, Stage
from nacre.control.wake import IMAGES
from nacre.errors import ConflictError, NacreError, TimeoutExpiredError
from nacre.model.events import SYSTEM
from nacre.model.exports import BUSY
from nacre.model.ids import ImageId
from nacre.model.images import MOVES, Artifact, Format, ImageState, Role
from nacre.model.units import format_size

log = structlog.get_logger()

_INCOMING = frozenset({ImageState.UPLOADING, ImageState.FETCHING})
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 120.0
_TURN_S = 5.0
MAX_ATTEMPTS = 12
"""Tries in a row without a byte of progress, half an hour in all, before a fetch is given up."""


class ImageGoneError(ConflictError):
    """The image is being deleted, has failed, or is worked on by someone else by now."""

    def __init__(self) -> None:
        super().__init__(
            "image_gone", "the image is not being imported any more", hint="look at it with `nacre image show`"
        )


async def arrived(
    tx: Tx,
    image: ImageId,
    role: Role,
    received: int,
    *,
    claim: str | None = None,
    total: int | None = None,
    validator: str | None = None,
) -> None:
    """Record that so many bytes are on the disk for good."""
    row, part = await _incoming(tx, image, role, claim)
    moved = received > part.best_bytes
    part = msgspec.structs.replace(
        part,
        received_bytes=received,
        best_bytes=max(received, part.best_bytes),
        total_bytes=total if total is not None else part.total_bytes,
        validator=part.validator if validator is None else validator,
        progress_at=tx.now(),
    )
    row = _with_part(row, part)
    if moved:
        row = replace(row, attempts=0, error_code="", error="", hint="")
    await store.save(tx, replace(row, updated_at=tx.now()))
    await operations.progress(tx, row.id, _fraction(row), f"{role}: {format_size(received)}")


async def gathering(tx: Tx, image: ImageId, role: Role, gathered: int, *, claim: str) -> None:
    """Record how far a node is that makes a copy of a disk, before any of it arrives."""
    row, _ = await _incoming(tx, image, role, claim)
    await operations.progress(tx, row.id, None, f"{role}: the node copies it, {format_size(gathered)}")


async def rejected(tx: Tx, image: ImageId, role: Role, error: NacreError) -> None:
    """Record that what was uploaded is thrown away and may be sent again."""
    row, part = await _incoming(tx, image, role, None)
    row = _with_part(row, msgspec.structs.replace(part, received_bytes=0, progress_at=tx.now()))
    await store.save(tx, replace(row, updated_at=tx.now()))
    await operations.progress(tx, row.id, _fraction(row), f"{role}: refused, {error.message}")
    _tell(
        tx, row, "image.upload_refused", f"the {role} of image {row.name} was refused: {error.message}", code=error.code
    )


async def to_convert(tx: Tx, image: ImageId, role: Role, found: Format, *, claim: str | None = None) -> None:
    """Record that a verified artifact is in a format that nodes do not take."""
    row, part = await _incoming(tx, image, role, claim)
    row = _with_part(row, msgspec.structs.replace(part, stage=Stage.CONVERTING, format=found))
    await store.save(tx, _scheduled(replace(row, version=row.version + 1, updated_at=tx.now()), tx.now()))
    await operations.progress(tx, row.id, _fraction(row), f"{role}: converting from {found}")
    tx.wake(IMAGES)


async def done(tx: Tx, image: ImageId, artifact: Artifact, *, claim: str | None = None) -> ImageRow:
    """Record a finished artifact. The last one makes the image ready."""
    row, part = await _incoming(tx, image, artifact.role, claim)
    row = _with_part(row, msgspec.structs.replace(part, stage=Stage.DONE, artifact=artifact, progress_at=tx.now()))
    row = replace(row, version=row.version + 1, updated_at=tx.now(), attempts=0, error_code="", error="", hint="")
    if all(each.stage is Stage.DONE for each in row.parts):
        row = replace(_moved(row, ImageState.READY), claim=None)
        await operations.settle(tx, row.id, generation=row.generation, ok=True)
        _tell(tx, row, "image.ready", f"image {row.name} is ready")
        log.info("image.ready", image=row.id, name=row.name)
    else:
        await operations.progress(tx, row.id, _fraction(row), f"{artifact.role}: done")
    await store.save(tx, _scheduled(row, tx.now()))
    tx.wake(IMAGES)
    return row


async def failed(tx: Tx, image: ImageId, error: NacreError, *, claim: str | None = None) -> None:
    """Record that this image will never be ready. Its files go."""
    row = await _importing(tx, image, claim)
    row = replace(
        _moved(row, ImageState.FAILED),
        error_code=error.code,
        error=error.message,
        hint=error.hint,
        version=row.version + 1,
        updated_at=tx.now(),
        claim=None,
    )
    await store.save(tx, _scheduled(row, tx.now()))
    await operations.settle(
        tx, row.id, generation=row.generation, ok=False, code=error.code, message=error.message, hint=error.hint
    )
    _tell(tx, row, "image.failed", f"image {row.name} failed: {error.message}", code=error.code, hint=error.hint)
    tx.wake(IMAGES)
    log.warning("image.failed", image=row.id, name=row.name, code=error.code, error=error.message)


async def abandoned(tx: Tx, image: ImageId, since: datetime) -> None:
    """Give up an upload of which nothing has been heard since then."""
    row = await store.get(tx, image, lock=True)
    if row is None or row.state is not ImageState.UPLOADING or row.updated_at >= since:
        return
    error = TimeoutExpiredError(
        "upload_abandoned", "nothing of the upload has come for a day", hint="delete the image and create it again"
    )
    await failed(tx, image, error)


async def later(tx: Tx, image: ImageId, error: NacreError, *, claim: str) -> datetime | None:
    """Record a passing trouble, and return when the next try is due; None if this was the last.

    To wait for one's turn at a node is no try.
    """
    row = await _importing(tx, image, claim)
    waits = error.code == BUSY
    attempts = row.attempts + (0 if waits else 1)
    if attempts >= MAX_ATTEMPTS:
        await failed(tx, image, error, claim=claim)
        return None
    delay_s = _TURN_S if waits else min(_LAST_RETRY_S, _FIRST_RETRY_S * 2 ** (attempts - 1))
    at = tx.now() + timedelta(seconds=delay_s)
    row = replace(row, attempts=attempts, work_at=at, claim=None, updated_at=tx.now())
    await store.save(tx, replace(row, error_code=error.code, error=error.message, hint=error.hint))
    await operations.progress(tx, row.id, _fraction(row), f"{error.message}; tried again at {at:%H:%M:%S} UTC")
    return at


async def released(tx: Tx, image: ImageId, claim: str) -> None:
    """Give up a claim, leaving whatever is still to do for the next one."""
    row = await store.get(tx, image, lock=True)
    if row is not None and row.claim == claim:
        await store.save(tx, _scheduled(replace(row, claim=None), tx.now()))
        tx.wake(IMAGES)


async def cleaned(tx: Tx, image: ImageId, claim: str) -> None:
    """Record that the files of a failed image are gone."""
    row = await store.get(tx, image, lock=True)
    if row is not None and row.claim == claim and row.state is ImageState.FAILED:
        await store.save(tx, replace(row, claim=None, work_at=None))


async def removed(tx: Tx, image: ImageId, claim: str) -> None:
    """Record that the files of a deleted image are gone, which ends it."""
    row = await store.get(tx, image, lock=True)
    if row is None or row.claim != claim or row.state is not ImageState.DELETING:
        return
    await store.remove(tx, row.id)
    await operations.settle(tx, row.id, generation=row.generation, ok=True)
    _tell(tx, row, "image.deleted", f"image {row.name} is deleted")
    tx.wake(IMAGES)
    log.info("image.deleted", image=row.id, name=row.name)


async def _importing(tx: Tx, image: ImageId, claim: str | None) -> ImageRow:
    row = await store.get(tx, image, lock=True)
    if row is None or row.state not in _INCOMING or (claim is not None and row.claim != claim):
        raise ImageGoneError
    return row


async def _incoming(tx: Tx, image: ImageId, role: Role, claim: str | None) -> tuple[ImageRow, Part]:
    row = await _importing(tx, image, claim)
    part = row.part(role)
    if part is None or part.stage is Stage.DONE:
        raise ImageGoneError
    return row, part


def _with_part(row: ImageRow, part: Part) -> ImageRow:
    return replace(row, parts=tuple(part if each.role is part.role else each for each in row.parts))


def _moved(row: ImageRow, state: ImageState) -> ImageRow:
    if state not in MOVES[row.state]:
        raise ImageGoneError
    return replace(row, state=state)


def _scheduled(row: ImageRow, now: datetime) -> ImageRow:
    """Return the row with `work_at` as its state wants it; a claim that is held stays and comes back to it itself."""
    return row if row.claim is not None else replace(row, work_at=now if has_work(row) else None)


def has_work(row: ImageRow) -> bool:
    """Whether the reconciler has something to do for an image."""
    if row.state in {ImageState.DELETING, ImageState.FAILED}:
        return True
    return row.state in _INCOMING and any(
        part.stage is Stage.CONVERTING or (part.stage is Stage.RECEIVING and part.origin is not Origin.UPLOAD)
        for part in row.parts
    )


def _fraction(row: ImageRow) -> float | None:
    """Return how far the bytes of all artifacts are, None if a size is unknown."""
    have = want = 0
    for part in row.parts:
        total = part.size_bytes or part.total_bytes
        if part.stage is not Stage.RECEIVING:
            total = part.received_bytes
        if total is None:
            return None
        have, want = have + min(part.received_bytes, total), want + total
    return round(min(0.99, have / want), 4) if want else None


def _tell(tx: Tx, row: ImageRow, type_: str, message: str, **details: str) -> None:
    events.emit(
        tx,
        type=type_,
        actor=SYSTEM,
        noun="image",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=message,
        details=details,
    )
