"""Whether a file system copies by sharing blocks, found out by trying. Used by drivers of pools. Blocks; short."""

import fcntl
import tempfile
from pathlib import Path

_FICLONE = 0x40049409
"""ioctl_ficlone(2); Linux. Elsewhere it is no request that a file knows."""


def can_reflink(folder: Path) -> bool:
    """Try it with two small files that are gone at once."""
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
        source.write(bytes(4096))
        source.flush()
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError:
            return False
        return True
