"""The logs of one machine: what QEMU says, and what consoles print. Made ready and read by `driver`."""

import os
from pathlib import Path

from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.qemu.command_line import VIRTIO_CONSOLE_LOG
from nacre.model.hardware import ConsoleMode

_LIMIT = 256 << 10
_SILENT = {ConsoleMode.OFF, ConsoleMode.NULL}


def shorten(path: Path) -> int:
    """Keep the end of a log that has grown over many lives, and return its size. Nothing writes to it now."""
    if not path.exists():
        return 0
    if path.stat().st_size > _LIMIT:
        path.write_bytes(path.read_bytes()[-_LIMIT // 4 :])
    return path.stat().st_size


def since(path: Path, begin: int) -> str:
    """Return what a log holds from `begin` on."""
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(_LIMIT).decode(errors="replace")


def give(launch: Launch) -> None:
    """Give the process's user what it could not make itself: a log in a folder that stays ours. Raises OSError."""
    if launch.confinement is None or launch.devices.console in _SILENT:
        return
    path = launch.directory / VIRTIO_CONSOLE_LOG
    path.touch(mode=0o600)
    os.chown(path, launch.confinement.uid, launch.confinement.gid, follow_symlinks=False)
