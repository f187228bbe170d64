"""Files in a folder that a process which is not trusted can write to, reached without following any link. Blocks.

A Firecracker that its guest has broken out of owns the root of its jail and may put links there, to have the agent
open, cut or hand over a file of the host. So folders are held open, links are refused at every step, and only regular
files are opened. Used by `places`.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@contextlib.contextmanager
def held(path: Path, *names: str) -> Generator[int]:
    """Give a descriptor of a folder below `path`, itself no link either. Raises OSError."""
    folder = os.open(path, _FOLDER)
    try:
        for name in names:
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def opened(folder: int, name: str, flags: int = os.O_RDONLY) -> Generator[int]:
    """Give a descriptor of a regular file in a folder. Raises OSError."""
    file = os.open(name, flags | _FILE, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "this is no file")
        yield file
    finally:
        os.close(file)


def take(folder: int, name: str, target: Path) -> None:
    """Move a regular file out of a folder and own it. Raises OSError."""
    with opened(folder, name) as file:
        try:
            os.rename(name, target, src_dir_fd=folder)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(file, target)
            os.unlink(name, dir_fd=folder)
    # What was renamed may be another one than what was looked at. Nobody else writes to where it is now.
    with held(target.parent) as ours, opened(ours, target.name) as file:
        os.fchown(file, os.geteuid(), os.getegid())
        os.fchmod(file, 0o600)


def _copy(file: int, target: Path) -> None:
    size = os.fstat(file).st_size
    with target.open("xb") as copy:
        at = 0
        while at < size:
            done = os.copy_file_range(file, copy.fileno(), min(size - at, 1 << 30), at)
            if not done:
                break
            at += done
        copy.truncate(size)
