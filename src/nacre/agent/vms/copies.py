"""What machines left behind that have moved away: their folders, set aside under `copies/<machine>.<token>`.

Used by `retire` and the executor. Kept until the control plane says that a copy is to be discarded; what is in the
folder and looks like no copy of ours is left alone.
"""

import re
import shutil
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from nacre.agent.records import Record
from nacre.agent.vms.host import Host
from nacre.lib.files import sync_folder, write_atomically
from nacre.model.copies import CopyObserved, CopyRef
from nacre.model.ids import ImageId, VmId

_NOTE = "machine.json"
_GOING = ".discarded"
_NAME = re.compile(r"(?P<vm>vm-[0-9a-z]{26})\.(?P<fence>\d{1,10})", re.ASCII)

log = structlog.get_logger()


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator who looks into the folder should know, and we after a restart."""

    fence: int
    set_aside_at: datetime
    record: Record


class Copies:
    """The copies of one node. Its methods block for as long as the disk takes, except `observed` and those that ask."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._folder = host.copies
        self._here: dict[CopyRef, CopyObserved] = {}
        self._images: dict[CopyRef, ImageId | None] = {}

    def load(self) -> None:
        """Find out what is there, and finish what a discard began."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for place in sorted(self._folder.iterdir()):
            if place.name.startswith(".") and place.name.endswith(_GOING):
                shutil.rmtree(place)
            elif (ref := _ref(place)) is not None:
                self._found(ref, place)
            else:
                log.warning("copy.unknown", name=place.name, next="it is left alone")

    def place(self, vm: VmId, fence: int) -> Path:
        """Where the copy of a placement is, or would be."""
        return self._folder / f"{vm}.{fence}"

    def note(self, place: Path, record: Record, fence: int) -> None:
        """Write down in a machine's folder what it was, before it is moved. Durable. Raises OSError."""
        note = Note(fence=fence, set_aside_at=self._host.clock.now(), record=record)
        write_atomically(place / _NOTE, msgspec.json.format(msgspec.json.encode(note)))

    def take(self, place: Path, vm: VmId, fence: int) -> None:
        """Move a machine's folder here. Durable. Raises OSError."""
        kept = self.place(vm, fence)
        place.rename(kept)
        sync_folder(self._folder)
        sync_folder(place.parent)
        self._found(CopyRef(id=vm, fence=fence), kept)

    def discard(self, vm: VmId, fence: int) -> None:
        """Delete a copy. May be repeated. Raises OSError."""
        place = self.place(vm, fence)
        going = self._folder / f".{place.name}{_GOING}"
        if place.exists():
            place.rename(going)  # so that half a copy is never taken for a whole one
            sync_folder(self._folder)
        if going.exists():
            shutil.rmtree(going)
        self._here.pop(CopyRef(id=vm, fence=fence), None)
        self._images.pop(CopyRef(id=vm, fence=fence), None)

    def fences(self, vm: VmId) -> frozenset[int]:
        """Name the placements of a machine that there are copies of."""
        return frozenset(ref.fence for ref in self._here if ref.id == vm)

    def images(self) -> Collection[ImageId] | None:
        """Name the images that lie under disks of copies; None if that is not known of all."""
        known = set(self._images.values())
        return None if None in known else {image for image in known if image is not None}

    def observed(self, gone: Iterable[CopyRef] = ()) -> tuple[CopyObserved, ...]:
        """Return every copy, and that there is none of those that are `gone`."""
        missing = [CopyObserved(id=ref.id, fence=ref.fence, exists=False) for ref in gone if ref not in self._here]
        return (*(self._here[ref] for ref in sorted(self._here, key=_order)), *missing)

    def _found(self, ref: CopyRef, place: Path) -> None:
        try:
            note = msgspec.json.decode((place / _NOTE).read_bytes(), type=Note)
        except (OSError, msgspec.MsgspecError):
            note = None  # the disks count, not what we wrote about them
        intent = note.record.intent if note is not None else None
        self._images[ref] = intent.image.id if intent is not None else None
        self._here[ref] = CopyObserved(
            id=ref.id,
            fence=ref.fence,
            exists=True,
            size_bytes=_size(place),
            since=note.set_aside_at if note is not None else None,
        )


def _ref(place: Path) -> CopyRef | None:
    match = _NAME.fullmatch(place.name)
    return CopyRef(id=VmId(match["vm"]), fence=int(match["fence"])) if match and place.is_dir() else None


def _order(ref: CopyRef) -> tuple[VmId, int]:
    return ref.id, ref.fence


def _size(place: Path) -> int:
    """What the files take on the disk, holes aside."""
    return sum(path.lstat().st_blocks * 512 for path in place.rglob("*"))
