"""Open a file under one of the folders that an operator has allowed, and nothing that a link leads to outside of them.

Used to register images by path. Walks down from the folder by descriptors, refusing symbolic links at every step, so
there is no moment between a check and the opening in which the path could come to mean something else.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nacre.errors import InvalidInputError, UnavailableError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_under(roots: Sequence[Path], path: str, *, field: str | None = None) -> int:
    """Return a descriptor, open for reading, of the regular file at the absolute `path` under one of `roots`.

    The folders of `roots` themselves may be reached through links, what is below them may not. Raises NacreError;
    the messages tell nothing about what exists outside of `roots`.
    """
    root, names = _split(roots, path, field)
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(
            "image_root_missing", "the folder of images cannot be opened", hint="ask the operator of the control plane"
        ) from error
    try:
        for name in names[:-1]:
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        file = os.open(names[-1], _FILE, dir_fd=folder)
    except OSError as error:
        raise InvalidInputError(
            "image_path_unreadable",
            "there is no file at this path that can be read",
            hint="check the path on the host of the control plane; symbolic links are not followed",
            field=field,
        ) from error
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InvalidInputError("image_path_unreadable", "this is not a file", hint="give a regular file", field=field)
    return file


def _split(roots: Sequence[Path], path: str, field: str | None) -> tuple[Path, tuple[str, ...]]:
    """Return the root that `path` is under by its words, and the names from there on."""
    given = PurePosixPath(path)
    if "\x00" not in path and given.is_absolute() and ".." not in given.parts:
        for root in roots:
            if given.is_relative_to(root) and given != PurePosixPath(root):
                return root, given.relative_to(root).parts
    raise InvalidInputError(
        "image_path_not_allowed",
        "images cannot be registered from this path",
        hint="give an absolute path without '..' under one of the folders that the operator has allowed (image_roots), "
        "or upload the file",
        field=field,
    )
