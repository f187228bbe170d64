"""Volumes of pools that several nodes see: who changes one has it alone, and nobody does who was told to of before.

The control plane gives a volume to one node at a time, and each time as a newer generation of it. A node that is cut
off does not hear that it has lost one: it goes on with what it knew. So the newest generation by which a volume was
ever changed or handed to a machine is noted beside it, and who knows of an older one only is refused.
"""

import fcntl
import os
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass
from nacre.model.ids import VolumeId

_LOCK = ".lock-"


class ElsewhereError(DriverError):
    """Another node looks after a volume by now."""

    def __init__(self, volume: VolumeId, generation: int) -> None:
        """`generation` is the newest of the volume that is noted."""
        super().__init__(
            "volume_elsewhere",
            f"volume {volume} was given to another node meanwhile",
            hint="this node leaves it alone until it is told of the volume again; does it reach the control plane?",
            failure_class=FailureClass.WAITING,
        )
        self.generation = generation


def check(volume: VolumeId, noted: int, generation: int) -> None:
    """Raise ElsewhereError if a volume was changed by a newer generation than the one that a node knows. Pure."""
    if noted > generation:
        raise ElsewhereError(volume, noted)


class Lock:
    """Has a volume of a folder alone among all processes of all nodes that see it. Blocks, as the file system does.

    It is free again when whoever has it ends, however that happens.
    """

    def __init__(self, root: Path, volume: VolumeId) -> None:
        self._path = root / f"{_LOCK}{volume}"
        self._volume = volume
        self._opened = -1

    def take(self) -> None:
        """Take it. Raises DriverError: `volume_busy` if somebody else has it, `pool_without_locks`."""
        self._opened = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy(self._volume) from error
        except OSError as error:
            raise DriverError(
                "pool_without_locks",
                f"the pool's file system does not lock files: {error.strerror}",
                hint="mount it with locks (NFS: version 4, or with a lock service), or do not call the pool shared",
                failure_class=FailureClass.BLOCKED,
            ) from error
        if not self._is_there():  # it was removed with the volume just now
            raise _busy(self._volume)

    def leave(self) -> None:
        """Leave it to others. May be repeated."""
        opened, self._opened = self._opened, -1
        if opened >= 0:
            os.close(opened)

    def _is_there(self) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(self._opened).st_ino
        except FileNotFoundError:
            return False


def forget(root: Path, volume: VolumeId) -> None:
    """Remove what locks a volume that is no more, or was never made. The lock is held."""
    (root / f"{_LOCK}{volume}").unlink(missing_ok=True)


def _busy(volume: VolumeId) -> DriverError:
    return DriverError(
        "volume_busy",
        f"volume {volume} is being changed by another node",
        hint="it is tried again by itself when that is done",
        failure_class=FailureClass.WAITING,
    )
