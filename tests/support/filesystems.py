"""A file system that copies by sharing blocks, for as long as a block lasts."""

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SIZE = 400 << 20  # sparse; mkfs.xfs takes no less than 300 MiB


@contextmanager
def with_reflinks(folder: Path) -> Generator[Path]:
    """Mount an XFS from a file in `folder`. Skips where that cannot be."""
    image, place = folder / "xfs.img", folder / "xfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(_SIZE)
    for words in (["mkfs.xfs", "-q", image], ["mount", "-o", "loop", image, place]):
        try:
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
            pytest.skip(f"no file system with reflinks: {words[0]}: {said}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True, timeout=300)
        image.unlink()
