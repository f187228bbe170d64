"""Real images made by qemu-img, a depot, and streams of bytes to upload. For every test that needs an image."""

import hashlib
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec

from nacre.control.auth.principals import Caller
from nacre.control.services import images
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.image_uploads import ImageUploads
from nacre.control.store import images as store
from nacre.control.store import projects as project_store
from nacre.control.store.db import Database
from nacre.control.store.images import ImageRow
from nacre.control.store.projects import ProjectRow
from nacre.errors import ConflictError
from nacre.model.ids import ProjectId
from nacre.model.images import Artifact, Format, ImageState, Role
from nacre.schema.common import Accepted
from nacre.schema.images import ArtifactSource, ImageCreate, ImageOut, UploadOut
from support import access

SECTOR = 512
MIB = 1 << 20


def raw_disk(size: int = MIB, *, seed: bytes = b"nacre") -> bytes:
    """A raw disk with a boot sector and content that does not compress to nothing."""
    filler = hashlib.sha256(seed).digest() * (size // 32 + 1)
    disk = bytearray(filler[:size])
    disk[:510] = bytes(510)
    disk[510:512] = b"\x55\xaa"
    return bytes(disk)


def kernel(size: int = 64 * 1024) -> bytes:
    """What looks like a bzImage from the outside."""
    content = bytearray(hashlib.sha256(b"kernel").digest() * (size // 32))
    content[0x1F1] = 4
    content[0x1FE:0x200] = b"\x55\xaa"
    content[0x202:0x206] = b"HdrS"
    return bytes(content)


def initrd(size: int = 4096) -> bytes:
    """What looks like a compressed initramfs."""
    return b"\x1f\x8b\x08\x00" + bytes(size)


def converted(folder: Path, kind: str, raw: bytes, *options: str) -> Path:
    """Make an image of `kind` (as qemu-img names it) from the bytes of a raw disk."""
    source, target = folder / "source.raw", folder / f"image.{kind}"
    source.write_bytes(raw)
    qemu_img("convert", "-f", "raw", "-O", kind, *options, str(source), str(target))
    return target


def qemu_img(*words: str) -> None:
    """Run qemu-img."""
    subprocess.run(["qemu-img", *words], check=True, capture_output=True, timeout=60)


def sha256(content: bytes) -> str:
    """Checksum in hex."""
    return hashlib.sha256(content).hexdigest()


async def stream(content: bytes, chunk: int = 64 * 1024) -> AsyncGenerator[bytes]:
    """The bytes as a request brings them."""
    for offset in range(0, len(content), chunk):
        yield content[offset : offset + chunk]


async def broken_stream(content: bytes) -> AsyncGenerator[bytes]:
    """The bytes, and then the client is gone."""
    async for chunk in stream(content):
        yield chunk
    raise ConnectionResetError


async def make_project(database: Database, name: str) -> str:
    """Make a project that belongs to nobody and return its id."""
    async with database.write() as tx:
        now = tx.now()
        row = ProjectRow(
            id=ProjectId(tx.new_id("project")),
            name=name,
            description="",
            labels={},
            version=1,
            created_at=now,
            updated_at=now,
        )
        await project_store.add(tx, row, taken=ConflictError("taken", "taken", hint="none"))
        return row.id


async def create(
    database: Database,
    depot: ImageDepot,
    *sources: ArtifactSource,
    name: str = "disk",
    project: str = "default",
    caller: Caller | None = None,
    **fields: object,
) -> Accepted[ImageOut]:
    """Create an image."""
    body = ImageCreate(name=name, artifacts=sources, project=project, **fields)  # type: ignore[arg-type]
    async with database.write() as tx:
        return await images.create(tx, caller or access.admin("image:create"), body, depot=depot)


async def upload(
    uploads: ImageUploads,
    image: str,
    content: bytes | AsyncIterator[bytes],
    *,
    role: Role = Role.DISK,
    offset: int = 0,
    caller: Caller | None = None,
) -> UploadOut:
    """Send bytes."""
    chunks = stream(content) if isinstance(content, bytes) else content
    return await uploads.receive(caller or access.admin("image:upload"), image, role, offset, chunks)


async def row(database: Database, image: str) -> ImageRow | None:
    """The image as stored."""
    async with database.read() as rd:
        return await store.get(rd, image)


async def in_state(database: Database, image: str, state: ImageState) -> ImageRow | None:
    """The image if it is in this state. For `until`."""
    found = await row(database, image)
    return found if found is not None and found.state is state else None


async def ready_image(
    database: Database, depot: ImageDepot, *, name: str = "disk", project: str = "default", **fields: object
) -> ImageOut:
    """An image that is ready, from a small raw disk."""
    made = await create(database, depot, ArtifactSource(role=Role.DISK), name=name, project=project, **fields)
    await upload(ImageUploads(database, depot), made.resource.id, raw_disk())
    async with database.read() as rd:
        return await images.show(rd, access.admin("image:view"), made.resource.id)


async def artifact(database: Database, image: str, role: Role, content: bytes) -> None:
    """Have the row of an image say that it has this file."""
    async with database.write() as tx:
        found = await store.get(tx, image, lock=True)
        assert found is not None
        parts = tuple(
            msgspec.structs.replace(
                part,
                artifact=Artifact(
                    role=role,
                    format=Format.RAW,
                    size_bytes=len(content),
                    sha256=sha256(content),
                    virtual_size_bytes=len(content),
                ),
            )
            if part.role is role
            else part
            for part in found.parts
        )
        await store.save(tx, replace(found, parts=parts))
