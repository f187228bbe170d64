"""The checkpoints of a machine as they lie in its folder: `checkpoints/<id>`, whole or not at all. Blocks; short.

A checkpoint is begun under another name and renamed when everything of it is there, the parts in disks included: what
has its name is a checkpoint, or says why there is none. Used by the recipes and, when an agent begins, by the executor.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from nacre.agent.storage.disks import sync
from nacre.lib.files import sync_folder, write_atomically
from nacre.model.checkpoints import CheckpointObserved
from nacre.model.ids import CheckpointId, VolumeId
from nacre.model.vms import RunInfo

STATE = "state"
"""The folder of memory and devices in that of a checkpoint."""
_FOLDER = "checkpoints"
_FILE = "checkpoint.json"
_NEW = ".new-"
_GONE = ".gone-"

log = structlog.get_logger()


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a checkpoint besides its content."""

    seen: CheckpointObserved
    volumes: tuple[VolumeId, ...] = ()
    """Those that have a part of it."""
    root: bool = False
    """Whether the root disk has."""
    run: RunInfo | None = None
    """The life whose memory it has; None without memory."""
    hypervisor: str = ""
    """What that life ran under."""
    seeded: bool = False
    """Whether that life had a medium for its cloud-init."""


@dataclass
class Checkpoints:
    """What there is of one machine's."""

    kept: dict[CheckpointId, Kept] = field(default_factory=dict[CheckpointId, Kept])
    begun: set[CheckpointId] = field(default_factory=set[CheckpointId])
    """Those that an agent was killed over."""
    mergeable: bool = False
    """The root disk has layers that nobody needs."""
    unread: bool = False
    """The machine's folder was not there when they were looked for."""

    def observed(self) -> tuple[CheckpointObserved, ...]:
        """Return what there is to tell."""
        return tuple(self.kept[name].seen for name in sorted(self.kept))


def load(place: Path) -> Checkpoints:
    """Return the checkpoints in a machine's folder, and finish removing those that were being removed."""
    found = Checkpoints(unread=not place.is_dir())
    for path in _listed(place / _FOLDER):
        if path.name.startswith(_GONE):
            shutil.rmtree(path)
        elif path.name.startswith(_NEW):
            found.begun.add(CheckpointId(path.name.removeprefix(_NEW)))
        elif (kept := _read(path)) is not None:
            found.kept[kept.seen.id] = kept
    return found


def read(place: Path, checkpoint: CheckpointId) -> Kept | None:
    """Return one checkpoint of the machine whose folder that is."""
    return _read(place / _FOLDER / checkpoint)


def folder_of(place: Path, checkpoint: CheckpointId) -> Path:
    """Where a checkpoint is that is finished."""
    return place / _FOLDER / checkpoint


def begin(place: Path, checkpoint: CheckpointId) -> Path:
    """Return an empty folder for what is to become a checkpoint. Raises OSError."""
    draft = place / _FOLDER / f"{_NEW}{checkpoint}"
    if draft.exists():
        shutil.rmtree(draft)
    draft.mkdir(mode=0o700, parents=True)
    sync_folder(draft.parent)
    return draft


def finish(place: Path, kept: Kept) -> None:
    """Make a checkpoint true, durably: what lies in its draft, and what is known of it. Raises OSError.

    Takes as long as the disk needs for the memory that was saved.
    """
    draft = place / _FOLDER / f"{_NEW}{kept.seen.id}"
    for path in (draft / STATE).rglob("*"):  # as the hypervisor has left it: perhaps in memory only
        sync(path)
    write_atomically(draft / _FILE, msgspec.json.encode(kept))
    draft.rename(folder_of(place, kept.seen.id))
    sync_folder(draft.parent)


def remove(place: Path, checkpoint: CheckpointId) -> None:
    """Leave nothing of a checkpoint here. May be repeated. Raises OSError."""
    folder = place / _FOLDER
    gone = folder / f"{_GONE}{checkpoint}"
    for path in (folder / checkpoint, folder / f"{_NEW}{checkpoint}"):
        if gone.exists():
            shutil.rmtree(gone)
        if path.exists():
            path.rename(gone)
            sync_folder(folder)
    if gone.exists():
        shutil.rmtree(gone)
    if not any(True for _ in _listed(folder)) and folder.exists():
        folder.rmdir()


def _listed(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()


def _read(folder: Path) -> Kept | None:
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Kept)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        log.exception("checkpoint.damaged", checkpoint=folder.name, next="it is left as it is, and of no use")
        return None
