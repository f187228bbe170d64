"""The agent's memory of volumes: one small file per volume. Written before what it announces. Used by the executor."""

from pathlib import Path

import msgspec
import structlog

from nacre.lib.files import sync_folder, write_atomically
from nacre.model.consistency import Consistency
from nacre.model.ids import ImageId, SnapshotId, VolumeId
from nacre.model.volumes import VolumeIntent

log = structlog.get_logger()

_SUFFIX = ".json"


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that must outlive the agent about one volume, besides what lies in its pool."""

    id: VolumeId
    intent: VolumeIntent
    """The newest that was accepted."""
    made: bool = False
    """It has been there: if it is not any more, that is a loss, and not to be made good by a blank one."""
    untouched: bool = False
    """Nothing of it was ever begun in its pool, here or elsewhere: to delete it nobody needs to look there."""
    consistency: dict[SnapshotId, Consistency] = {}
    """Of its snapshots. One that is missing was taken by an agent that ended just then: `crash` is true of all."""
    base: ImageId | None = None
    """The image under its lowest layer, which the node must keep."""
    deleted: bool = False
    """Nothing is left of it but this, until the desired state no longer names it."""


class VolumeRecords:
    """The records of one agent. Blocking; each call is short."""

    def __init__(self, folder: Path) -> None:
        """`folder` exists."""
        self._folder = folder / "volume-records"

    def load_all(self) -> dict[VolumeId, VolumeRecord]:
        """Return every record, without drafts that were never finished. A damaged one is set aside and reported."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        found: dict[VolumeId, VolumeRecord] = {}
        for draft in self._folder.glob(f".*{_SUFFIX}-*"):
            draft.unlink()
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=VolumeRecord)
            except msgspec.MsgspecError:
                log.exception("volume_record.damaged", volume=path.stem, next="the volume is left as it is")
                path.replace(path.with_suffix(".damaged"))
                continue
            found[record.id] = record
        return found

    def save(self, record: VolumeRecord) -> None:
        """Replace a record; durable when it returns. Raises OSError."""
        write_atomically(self._path(record.id), msgspec.json.encode(record))

    def remove(self, volume: VolumeId) -> None:
        """Forget a volume."""
        self._path(volume).unlink(missing_ok=True)
        sync_folder(self._folder)

    def _path(self, volume: VolumeId) -> Path:
        return self._folder / f"{volume}{_SUFFIX}"
