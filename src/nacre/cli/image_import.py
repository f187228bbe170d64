"""Bringing an image in: what comes from where, and sending what comes from here. Used by `image.py`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nacre.cli import progress
from nacre.cli.exits import note
from nacre.cli.session import Session
from nacre.cli.waiting import until_done
from nacre.errors import ConflictError, InvalidInputError, NotFoundError
from nacre.model.images import ImageState, Role, check_roles
from nacre.schema.common import OperationOut
from nacre.schema.images import ArtifactSource, ImageCreate, ImageOut

if TYPE_CHECKING:
    from nacre.client.api import Nacre

HASH_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the user named."""

    disk: str | None = None
    disk_path: str | None = None
    disk_sha256: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    iso: str | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One artifact, and the file that it is if it comes from here."""

    artifact: ArtifactSource
    file: Path | None = None


def plan_import(source: Source) -> list[Part]:
    """Return the artifacts in the order in which they are sent. Reads files for their checksum."""
    if source.disk is not None and source.disk_path is not None:
        raise InvalidInputError(
            "two_disks", "the disk is named twice", hint="give a file or URL, or --path, not both", field="path"
        )
    sha256 = None if source.disk_sha256 is None else _checksum(source.disk_sha256)
    parts: list[Part] = []
    if source.disk is not None:
        parts.append(_part(Role.DISK, source.disk, sha256))
    if source.disk_path is not None:
        parts.append(Part(artifact=ArtifactSource(role=Role.DISK, path=source.disk_path, sha256=sha256)))
    if source.kernel is not None:
        parts.append(_part(Role.KERNEL, source.kernel, None))
    if source.initrd is not None:
        parts.append(_part(Role.INITRD, source.initrd, None))
    if source.iso is not None:
        parts.append(_part(Role.ISO, source.iso, None))
    check_roles([part.artifact.role for part in parts])
    return parts


async def bring_in(session: Session, body: ImageCreate, parts: list[Part], timeout_s: float, *, wait: bool) -> ImageOut:
    """Create the image, or go on with one whose upload broke off; send files; wait until it is ready."""
    async with session.client() as nacre:
        image, operation, is_new = await _create_or_resume(nacre, body, parts)
        try:
            for part in parts:
                if part.file is not None:
                    await _send(nacre, image, part.artifact, part.file)
        except InvalidInputError:
            if is_new:  # what was refused for good would only be in the way of the next try
                await nacre.images.delete(image.id)
            raise
        if wait and operation is not None:
            with progress.spinner(f"{image.name}: checking") as say:
                await until_done(nacre, operation, timeout_s, say)
        return await nacre.images.show(image.id)


async def _create_or_resume(
    nacre: "Nacre", body: ImageCreate, parts: list[Part]
) -> tuple[ImageOut, OperationOut | None, bool]:
    """Return the image, what tells of its arrival, and whether it was made just now."""
    from nacre.client.collection import Query

    try:
        accepted = await nacre.images.create(body)
    except ConflictError:
        try:
            image = await nacre.images.show(body.name, project=body.project)
        except NotFoundError:
            image = None
        if image is None or image.state is not ImageState.UPLOADING or not _same_upload(image, parts):
            raise
    else:
        return accepted.resource, accepted.operation, True
    note(f"{image.name}: going on with the upload that broke off")
    query = Query(filters={"object": image.id}, sort="-created_at", limit=1)
    found = await nacre.operations.all(query)
    return image, found[0] if found else None, False


def _same_upload(image: ImageOut, parts: list[Part]) -> bool:
    """Whether an unfinished image waits for exactly these files. Their checksum is checked at the end anyway."""
    wanted = {part.artifact.role: part.artifact.size_bytes for part in parts if part.file is not None}
    awaited = {p.role: p.total_bytes for p in image.progress} | {a.role: a.size_bytes for a in image.artifacts}
    return bool(wanted) and all(role in awaited and awaited[role] in {size, None} for role, size in wanted.items())


async def _send(nacre: "Nacre", image: ImageOut, artifact: ArtifactSource, file: Path) -> None:
    with progress.bar(f"{artifact.role}: sending", artifact.size_bytes) as advance:
        await nacre.images.upload(image.id, artifact.role, file, sent=advance)


def _part(role: Role, where: str, sha256: str | None) -> Part:
    if where.startswith(("http://", "https://")):
        return Part(artifact=ArtifactSource(role=role, url=where, sha256=sha256))
    if "://" in where:
        raise InvalidInputError(
            "invalid_url", f"{where!r} is not fetched", hint="use an http or https URL, or a file", field=role.value
        )
    file = Path(where)
    size = _size(file, role)
    found = _digest(file, role, size)
    if sha256 is not None and sha256 != found:
        raise InvalidInputError(
            "checksum_mismatch",
            f"{where} has SHA-256 {found}",
            hint="the file is damaged or not the one that was meant; nothing was sent",
            field="sha256",
        )
    return Part(artifact=ArtifactSource(role=role, sha256=found, size_bytes=size), file=file)


def _size(file: Path, role: Role) -> int:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise InvalidInputError(
            "unreadable_file", f"{file}: {error.strerror}", hint="name a file that you can read", field=role.value
        ) from error
    if not file.is_file() or size == 0:
        raise InvalidInputError(
            "not_a_file", f"{file} is not a file with content", hint="name an image file", field=role.value
        )
    return size


def _digest(file: Path, role: Role, size: int) -> str:
    digest = hashlib.sha256()
    done = 0
    try:
        with file.open("rb") as source, progress.bar(f"{role}: checksum", size) as advance:
            while chunk := source.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                advance(done)
    except OSError as error:
        raise InvalidInputError(
            "unreadable_file", f"{file}: {error.strerror}", hint="name a file that you can read", field=role.value
        ) from error
    return digest.hexdigest()


def _checksum(text: str) -> str:
    found = text.lower().removeprefix("sha256:")
    if len(found) != 64 or set(found) - set("0123456789abcdef"):
        raise InvalidInputError(
            "invalid_checksum", f"{text!r} is not a SHA-256", hint="give 64 hexadecimal digits", field="sha256"
        )
    return found
