"""The files of images: where they lie, how they are written for good, what they are. Called by services of images.

Layout: `<data>/images/<image id>/<role>` is a finished artifact, `<role>.part` one that is arriving, `<role>.convert` a
conversion at work. Finished means: it appeared there by a rename after it was complete, on the disk and verified.
Everything here blocks: call it in a thread. Knows no database.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from nacre.control.store.images import Origin, Part
from nacre.errors import ConflictError, ExhaustedError, InvalidInputError, NotFoundError, TooLargeError
from nacre.lib import diskformats
from nacre.lib.addresses import AddressGuard, parse_networks
from nacre.lib.diskformats import Kind, Recognised
from nacre.lib.rooted import open_under
from nacre.model.ids import ImageId
from nacre.model.images import MAX_ARTIFACT_BYTES, Format, Role
from nacre.model.units import MIB, format_size

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BLOCK = 4 * MIB


class UploadBusyError(ConflictError):
    """Someone else is sending this artifact at the moment."""

    retryable = True


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A complete file that is what it should be."""

    size_bytes: int
    sha256: str
    recognised: Recognised


@dataclass(frozen=True, kw_only=True)
class ImageDepot:
    """Where files of images are kept, and what the operator allows to come in."""

    folder: Path
    roots: tuple[Path, ...] = ()
    """Folders whose files may be registered."""
    guard: AddressGuard = field(default_factory=AddressGuard)
    max_bytes: int = MAX_ARTIFACT_BYTES
    reserve_bytes: int = 128 * MIB
    """Kept free on the file system, because the database may live there too."""

    @classmethod
    def of(cls, data_dir: Path, image_roots: tuple[str, ...] = (), fetch_allow: tuple[str, ...] = ()) -> Self:
        """Return the depot that settings describe."""
        return cls(
            folder=data_dir / "images",
            roots=tuple(Path(root) for root in image_roots),
            guard=AddressGuard(parse_networks(fetch_allow)),
        )

    def path(self, image: ImageId, role: Role) -> Path:
        """Return where a finished artifact lies."""
        return self.folder / image / role.value

    def part_path(self, image: ImageId, role: Role) -> Path:
        """Return where an arriving artifact lies."""
        return self.folder / image / f"{role.value}.part"

    def convert_path(self, image: ImageId, role: Role) -> Path:
        """Return where a conversion is written."""
        return self.folder / image / f"{role.value}.convert"

    def open_registered(self, path: str, *, field: str | None = None) -> int:
        """Return a descriptor of a file under the allowed roots. Raises NacreError."""
        return open_under(self.roots, path, field=field)

    def open_part(self, image: ImageId, role: Role) -> "PartFile":
        """Take hold of an arriving artifact, made if it is not there. Raises UploadBusyError if someone else has it."""
        try:
            (self.folder / image).mkdir(mode=0o700, parents=True, exist_ok=True)
            self.reopen(image, role)
            fd = os.open(self.part_path(image, role), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _disk_error(error, 0) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise UploadBusyError(
                "upload_in_progress",
                f"the {role} of this image is being received already",
                hint="wait for the other upload, or until its broken connection is noticed, and ask how far it got",
            ) from error
        return PartFile(fd, self.part_path(image, role), self.reserve_bytes)

    def reopen(self, image: ImageId, role: Role) -> None:
        """Undo the last step of an artifact that was finished in the folder but not in the database before a crash."""
        part, done = self.part_path(image, role), self.path(image, role)
        if done.exists() and not part.exists():
            done.rename(part)

    def arrived_bytes(self, image: ImageId, role: Role) -> int:
        """Return how large an arriving artifact is on the disk."""
        for path in (self.part_path(image, role), self.path(image, role)):
            if path.exists():
                return path.stat().st_size
        return 0

    def finish(self, image: ImageId, role: Role, *, converted: bool) -> None:
        """Put a verified file where it is served from. May be repeated."""
        source = self.convert_path(image, role) if converted else self.part_path(image, role)
        try:
            sync_file(source)
            source.rename(self.path(image, role))
            sync_folder(self.folder / image)
        except OSError as error:
            raise _disk_error(error, 0) from error

    def clean(self, image: ImageId, role: Role) -> None:
        """Remove what is not needed once the finished artifact is recorded."""
        self.part_path(image, role).unlink(missing_ok=True)
        self.convert_path(image, role).unlink(missing_ok=True)

    def remove(self, image: ImageId) -> None:
        """Delete every file of an image. May be repeated."""
        folder = self.folder / image
        if folder.exists():
            shutil.rmtree(folder)
            sync_folder(self.folder)

    def leftovers(self) -> list[ImageId]:
        """Return the images that have a folder here."""
        if not self.folder.is_dir():
            return []
        return [ImageId(entry.name) for entry in self.folder.iterdir() if entry.is_dir()]

    def idle_s(self, image: ImageId) -> float:
        """Return for how many seconds nothing was made or removed in the folder of an image."""
        return time.time() - (self.folder / image).stat().st_mtime

    def holds_artifacts(self, image: ImageId) -> bool:
        """Whether there is a finished artifact of this image."""
        return any(self.path(image, role).exists() for role in Role)


class _Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class PartFile:
    """An arriving artifact under an exclusive lock, which lives as long as this object or its process."""

    def __init__(self, fd: int, path: Path, reserve_bytes: int) -> None:
        self._fd = fd
        self._path = path
        self._reserve = reserve_bytes
        self._digest: _Digest | None = None
        self.size = os.fstat(fd).st_size

    def cut(self, offset: int) -> None:
        """Forget everything behind `offset`. From 0 on the checksum is taken along, which saves reading all again."""
        os.ftruncate(self._fd, offset)
        self.size = offset
        self._digest = None if offset else hashlib.sha256()

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write at the end. What fits is kept when the disk is full. Raises ExhaustedError."""
        view = memoryview(data)
        while view:
            block = view[:_BLOCK]
            self._check_room(len(block))
            try:
                written = os.pwrite(self._fd, block, self.size)
            except OSError as error:
                raise _disk_error(error, self.size) from error
            self.size += written
            if self._digest is not None:
                self._digest.update(view[:written])
            view = view[written:]

    def expect(self, total: int) -> None:
        """Raise ExhaustedError at once if a file of `total` bytes cannot fit."""
        self._check_room(max(0, total - self.size))

    def sync(self) -> None:
        """Return when all that was written is on the disk for good."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _disk_error(error, self.size) from error

    def verify(self, part: Part) -> Verified:
        """Return what the file is, if it is what was announced. Raises NacreError."""
        return verify(self._fd, part, None if self._digest is None else self._digest.hexdigest())

    def close(self) -> None:
        """Let go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check_room(self, size: int) -> None:
        room = os.fstatvfs(self._fd)
        if self._reserve and room.f_bavail * room.f_frsize < size + self._reserve:
            raise disk_full(self.size)


def verify(fd: int, part: Part, digest: str | None = None) -> Verified:
    """Return what an open file is, if it is what was announced. `digest`: its checksum if known. Raises NacreError."""
    size = os.fstat(fd).st_size
    if part.size_bytes is not None and size != part.size_bytes:
        raise InvalidInputError(
            "image_size_mismatch",
            f"the {part.role} has {size} bytes, announced were {part.size_bytes}",
            hint="check the file and what was announced, then send it again",
        )
    digest = digest or sha256_of(fd)
    if part.sha256 is not None and digest != part.sha256:
        raise InvalidInputError(
            "image_checksum_mismatch",
            f"the {part.role} has the SHA-256 {digest}, announced was {part.sha256}",
            hint="the bytes differ from the original: check the file, then send it again",
        )
    recognised = recognise(fd, part.role)
    if part.format is not None and part.format is not format_of(recognised):
        raise InvalidInputError(
            "image_format_mismatch",
            f"the {part.role} is {format_of(recognised)}, announced was {part.format}",
            hint="leave the format out, it is recognised from the content",
        )
    return Verified(size_bytes=size, sha256=digest, recognised=recognised)


def verify_file(path: Path, kind: Format) -> Verified:
    """Return what a disk of our own making is. Raises InvalidInputError if it is not a `kind`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return verify(fd, Part(role=Role.DISK, origin=Origin.PATH, format=kind))
    finally:
        os.close(fd)


def recognise(fd: int, role: Role) -> Recognised:
    """Return what an open file is, from its content. Raises InvalidInputError if it is not fit for `role`."""
    size = os.fstat(fd).st_size
    head = _read(fd, 0, diskformats.HEAD_BYTES)
    if role is Role.KERNEL:
        return diskformats.recognise_kernel(head, size)
    if role is Role.INITRD:
        return diskformats.recognise_initrd(head, size)
    if role is Role.ISO:
        return diskformats.recognise_iso(head, size)
    tail = _read(fd, max(0, size - diskformats.TAIL_BYTES), diskformats.TAIL_BYTES)
    return diskformats.recognise_disk(head, tail, size)


def format_of(recognised: Recognised) -> Format:
    """Return the format as the API names it: kernels, initrds and ISOs are raw."""
    return Format.RAW if recognised.kind in {Kind.KERNEL, Kind.INITRD, Kind.ISO} else Format(recognised.kind.value)


def sha256_of(fd: int) -> str:
    """Return the checksum of an open file in hex."""
    digest, offset, buffer = hashlib.sha256(), 0, bytearray(_BLOCK)
    while count := os.preadv(fd, [buffer], offset):
        digest.update(memoryview(buffer)[:count])
        offset += count
    return digest.hexdigest()


def open_artifact(path: Path) -> int:
    """Return a descriptor of a finished artifact, open for reading. Raises NotFoundError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise NotFoundError(
            "artifact_missing", "the file of this image is not there", hint="delete the image and import it again"
        ) from error


def sync_file(path: Path) -> None:
    """Return when a file's content is on the disk for good."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk for good."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def disk_full(offset: int) -> ExhaustedError:
    """Return the error for a full disk."""
    return ExhaustedError(
        "image_store_full",
        f"the control plane has no room left for images, {format_size(offset)} of this one arrived",
        hint=f"free space, for example by deleting images, then go on from byte {offset}; or delete this image",
    )


def too_large(size: int, limit: int) -> TooLargeError:
    """Return the error for an artifact above the limit."""
    return TooLargeError(
        "image_too_large",
        f"{format_size(size)} or more, at most {format_size(limit)} are taken",
        hint="make the image smaller: qcow2, compressed",
    )


def _disk_error(error: OSError, offset: int) -> Exception:
    return disk_full(offset) if error.errno in _FULL else error


def _read(fd: int, offset: int, length: int) -> bytes:
    found = bytearray()
    while len(found) < length and (block := os.pread(fd, length - len(found), offset + len(found))):
        found += block
    return bytes(found)
