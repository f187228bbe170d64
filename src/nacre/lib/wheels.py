"""A wheel of what is installed: the same bytes for the same files, wherever and whenever it is made. Blocking."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from nacre.errors import UnavailableError

_EPOCH = (1980, 1, 1, 0, 0, 0)
_TAG = "py3-none-any"
_WHEEL = f"Wheel-Version: 1.0\nGenerator: nacre\nRoot-Is-Purelib: true\nTag: {_TAG}\n"
_METADATA = ("METADATA", "entry_points.txt")
_LICENSE = "licenses/LICENSE"
_LEFT_OUT = frozenset({"__pycache__"})


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A wheel in memory."""

    file_name: str
    content: bytes

    @property
    def sha256(self) -> str:
        """In hex."""
        return hashlib.sha256(self.content).hexdigest()


def build(name: str) -> Wheel:
    """Return a wheel of the installed distribution `name`, whose one package has its name.

    Pure Python only. It may be installed in place for development. Raises UnavailableError if it is not installed.
    """
    try:
        found = distribution(name)
    except PackageNotFoundError as error:
        raise UnavailableError(
            "not_installed", f"{name} runs from a tree that is not installed", hint="install it, with pip or uv"
        ) from error
    info = f"{name}-{found.version}.dist-info"
    files = {**dict(_package(name)), **dict(_metadata(found, info))}
    return Wheel(file_name=f"{name}-{found.version}-{_TAG}.whl", content=_zipped(files, f"{info}/RECORD"))


def _package(name: str) -> Iterator[tuple[str, bytes]]:
    spec = find_spec(name)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        root = Path(place)
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and not _LEFT_OUT & {*inside.parts} and path.suffix != ".pyc":
                yield f"{name}/{inside.as_posix()}", path.read_bytes()


def _metadata(found: Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    for name in (*_METADATA, _LICENSE):
        text = found.read_text(name)
        if text:
            yield f"{info}/{name}", text.encode()
    yield f"{info}/WHEEL", _WHEEL.encode()


def _zipped(files: dict[str, bytes], record: str) -> bytes:
    lines = [f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in sorted(files.items())]
    buffer = io.BytesIO()
    # Stored, not compressed: the bytes of compression differ from one zlib to the next.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in (*sorted(files.items()), (record, "".join([*lines, f"{record},,\n"]).encode())):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
