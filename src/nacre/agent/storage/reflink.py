"""Copies by sharing blocks, where the file system does that; found out by trying. Used by drivers of pools. Blocks."""

import errno
import fcntl
import tempfile
from pathlib import Path

_FICLONE = 0x40049409
"""ioctl_ficlone(2); Linux. Elsewhere it is no request that a file knows."""
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EBADF, errno.ENOSYS})
"""What it says where a file system does not do that, or not between these two files."""


def can_reflink(folder: Path) -> bool:
    """Try it with two small files that are gone at once."""
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
        source.write(bytes(4096))
        source.flush()
        return _share(source.fileno(), target.fileno())


def reflinked(source: Path, target: Path) -> bool:
    """Make a new file that shares all blocks of another one; False, and no file, if that cannot be done there.

    It is of one instant also while somebody writes to `source`: clones are atomic with regard to writes
    (ioctl_ficlone(2)), and have what was written until then. So it is what a power cut would have left. Raises OSError.
    """
    done = False
    try:
        with source.open("rb") as original, target.open("xb") as copy:
            done = _share(original.fileno(), copy.fileno())
    finally:
        if not done:
            target.unlink(missing_ok=True)
    return done


def _share(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True
