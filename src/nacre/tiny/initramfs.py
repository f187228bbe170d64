"""The archive that Linux unpacks as its first file system. Pure: entries in, bytes out, the same for the same input.

Format: cpio "newc", https://docs.kernel.org/driver-api/early-userspace/buffer-format.html, compressed by gzip.
"""

import stat
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_GZIP = 31  # zlib's way to say: with a gzip header, whose time stamp is then zero


@dataclass(frozen=True)
class Entry:
    """One file, directory, symbolic link or device. `mode` has the type bits too."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(content: bytes, *, executable: bool = False) -> Entry:
    """Return a regular file."""
    return Entry(stat.S_IFREG | (0o755 if executable else 0o644), content)


def link(target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int) -> Entry:
    """Return a character device."""
    return Entry(stat.S_IFCHR | 0o600, device=(major, minor))


def directory() -> Entry:
    """Return an (empty) directory; parents of files need not be given."""
    return Entry(stat.S_IFDIR | 0o755)


def pack(entries: Mapping[str, Entry]) -> bytes:
    """Return the compressed archive. Names are relative paths; order and owner do not depend on the input's."""
    every = {parent: directory() for name in entries for parent in _parents(name)} | dict(entries)
    archive = b"".join(_records(sorted(every.items())))
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    return packer.compress(archive) + packer.flush()


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _records(entries: Iterable[tuple[str, Entry]]) -> Iterable[bytes]:
    number = 0
    for number, (name, entry) in enumerate(entries, start=1):
        yield _record(number, name, entry)
    yield _record(0, "TRAILER!!!", Entry(0))


def _record(inode: int, name: str, entry: Entry) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (
        inode,
        entry.mode,
        0,  # owner
        0,  # group
        2 if stat.S_ISDIR(entry.mode) else 1,
        0,  # time of change
        len(entry.content),
        0,
        0,
        *entry.device,
        len(encoded),
        0,  # checksum, unused in this format
    )
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return _padded(head) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
