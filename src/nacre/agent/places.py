"""The agent's folders: made, checked, and held by one agent at a time. Used by `main` and `guests`."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Generator
from pathlib import Path

from nacre.agent.host import leases
from nacre.agent.settings import Settings
from nacre.errors import ConflictError, InvalidInputError

FOLDERS = ("vms", "images", "identity", "copies")


def prepare(settings: Settings) -> None:
    """Make the folders, for their owner only. Raises InvalidInputError."""
    try:
        for folder in (settings.data, *(settings.data / name for name in FOLDERS)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.run_base.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(settings.run_base)
        settings.run.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            "unusable_directory",
            f"{error.filename}: {error.strerror}",
            hint="give folders that the agent may write to with --data-dir and --run-dir",
            field="data_dir",
        ) from error


@contextlib.contextmanager
def held(settings: Settings) -> Generator[None]:
    """Keep every other agent off the data directory. Raises ConflictError if one has it."""
    descriptor = os.open(settings.data / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                "already_running",
                f"an agent runs on {settings.data} already",
                hint="stop that one, or give this one another folder with --data-dir",
                field="data_dir",
            ) from error
        yield
    finally:
        with contextlib.suppress(OSError):
            leases.clear(settings.run)
            settings.run.rmdir()  # unless guests run on in it
        os.close(descriptor)


def _check_owner(folder: Path) -> None:
    """Sockets in a folder that others may write to could be swapped for theirs."""
    facts = folder.stat(follow_symlinks=False)
    mine = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()
    if not mine or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidInputError(
            "unsafe_directory",
            f"{folder} belongs to somebody else or can be written to by others",
            hint="give a folder of your own with --run-dir",
            field="run_dir",
        )
