"""The files of a checkpoint, which Cloud Hypervisor writes and reads by their paths. Used by `driver` and `guest`.

A process that is a user of its own may not touch what is ours. So the folder that it saves to is its own meanwhile, and
what it reads is readable by its group from then on. Blocks.
"""

import contextlib
import json
import os
from collections.abc import Generator
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.cloud_hypervisor import paths
from nacre.agent.hypervisors.cloud_hypervisor.devices import Fields
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Confinement, Launch
from nacre.model.convergence import FailureClass

CONFIG = "config.json"
STATE = ("state.json", "memory-ranges")

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def saved(directory: Path) -> Fields:
    """Read the configuration in a checkpoint. Raises DriverError."""
    try:
        return msgspec.json.decode((directory / CONFIG).read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError) as error:
        raise DriverError(
            "checkpoint_unfit",
            "the checkpoint cannot be read",
            hint="start the machine without it, or from another one",
            failure_class=FailureClass.PERMANENT,
        ) from error


def lent(launch: Launch, directory: Path, body: Fields) -> Path:
    """Return a folder that has everything of a checkpoint, but the configuration of this life. Raises OSError."""
    folder = launch.run_directory / paths.RESTORING
    folder.mkdir(mode=0o750)
    (folder / CONFIG).write_text(json.dumps(body))
    for name in STATE:
        (folder / name).symlink_to(directory / name)
    if launch.confinement is not None:
        for path in (folder, folder / CONFIG, directory, *(directory / name for name in STATE)):
            _show(path, launch.confinement)
    return folder


@contextlib.contextmanager
def writable(directory: Path, pid: int) -> Generator[None]:
    """Let a process write to an empty folder of ours; what it has written is ours afterwards. Raises OSError."""
    facts = Path(f"/proc/{pid}").stat()
    if facts.st_uid == os.geteuid():
        yield
        return
    os.chown(directory, facts.st_uid, facts.st_gid)
    try:
        yield
    finally:
        os.chown(directory, os.geteuid(), os.getegid())  # first, so that nothing is put in place of what follows
        for path in directory.iterdir():
            file = os.open(path, _FILE)
            try:
                os.fchown(file, os.geteuid(), os.getegid())
                os.fchmod(file, 0o600)
            finally:
                os.close(file)


def _show(path: Path, to: Confinement) -> None:
    os.chown(path, -1, to.gid)
    path.chmod(0o750 if path.is_dir() else 0o640)
