"""The layers of a volume in a folder: which files it is made of, and which are of no use any more. Blocks; short.

A volume is a tree of qcow2 files, each the difference to the one below. One is written; all others never change as a
guest sees them, so snapshots are names for layers and clones share them as hard links. A raw volume is one file, and
one more for each of its snapshots, a copy: layers as well, none of which has another below. The manifest names the
layer that is written and those that snapshots stand for. Replacing it is what makes a change true: a file that cannot
be reached from it is rubbish, whoever was killed when.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.disks import facts_of, format_of
from nacre.agent.storage.reflink import reflinked
from nacre.lib.files import write_atomically
from nacre.model.convergence import FailureClass
from nacre.model.ids import SnapshotId, VolumeId
from nacre.model.volumes import DiskFormat

MANIFEST = "volume.json"
PARTIAL = ".partial"
_NFS = ".nfs"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot: a layer that stays."""

    id: SnapshotId
    layer: str
    size_bytes: int
    taken_at: datetime


class Switching(msgspec.Struct, frozen=True, kw_only=True):
    """A guest is being told to write to another layer; whether it does already, only the guest knows.

    Always carried through: a new layer shows what the one below has, so it may be written whether it was or not.
    """

    layer: str
    snapshot: SnapshotId | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume is made of."""

    volume: VolumeId
    active: str
    """The layer that is written."""
    snapshots: tuple[Kept, ...] = ()
    switching: Switching | None = None
    restore_nonce: int = 0
    generation: int = 0
    """The newest of the volume that was had here, in a pool that several nodes see (see `sharing`)."""

    @property
    def form(self) -> DiskFormat:
        """How the volume is kept."""
        return format_of(self.active)

    def snapshot(self, wanted: SnapshotId) -> Kept | None:
        """Return a snapshot."""
        return next((one for one in self.snapshots if one.id == wanted), None)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One file."""

    name: str
    size_bytes: int
    backing: str
    """As the file says it: a name for another layer, a path for an image, empty for none."""
    links: int
    used_bytes: int

    @property
    def below(self) -> str | None:
        """The layer below, None if there is none of this volume."""
        return self.backing if self.backing and "/" not in self.backing else None


def read(folder: Path) -> Manifest | None:
    """Return the manifest of a volume, None if there is no such volume. Raises DriverError if it is damaged."""
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise DriverError(
            "volume_damaged",
            "what the volume is made of cannot be read",
            hint=f"restore {MANIFEST} in the volume's folder on the node from a copy, or delete the volume",
            failure_class=FailureClass.BLOCKED,
        ) from error


def write(folder: Path, manifest: Manifest) -> None:
    """Make a manifest true, durably."""
    write_atomically(folder / MANIFEST, msgspec.json.encode(manifest))


def tree(folder: Path, manifest: Manifest) -> dict[str, Layer]:
    """Return every layer that is of use. Raises DriverError if one is missing."""
    found: dict[str, Layer] = {}
    for top in _tops(manifest):
        name: str | None = top
        while name is not None and name not in found:
            found[name] = layer_of(folder, name)
            name = found[name].below
    return found


def chain(layers: dict[str, Layer], top: str) -> list[str]:
    """Return the layers that a read of `top` goes through, the uppermost first. Pure."""
    found: list[str] = []
    name: str | None = top
    while name is not None:
        found.append(name)
        name = layers[name].below
    return found


def layer_of(folder: Path, name: str) -> Layer:
    """Read one layer. Raises DriverError if it is not there."""
    facts = facts_of(folder / name)
    if facts is None:
        raise DriverError(
            "volume_damaged",
            "a file that the volume is made of is missing",
            hint=f"put {name} back into the volume's folder on the node from a copy, or delete the volume",
            failure_class=FailureClass.BLOCKED,
        )
    status = (folder / name).stat()
    return Layer(
        name=name,
        size_bytes=facts.size_bytes,
        backing=facts.backing,
        links=status.st_nlink,
        used_bytes=status.st_blocks * 512,
    )


def to_merge(manifest: Manifest, layers: dict[str, Layer]) -> tuple[str, str] | None:
    """Return a layer that nobody needs as such and the one above that takes it in; None if there is none. Pure.

    What clones share is left alone, and so is the lowest: taking that in would copy all of it.
    """
    kept = {one.layer for one in manifest.snapshots} | {manifest.active}
    above: dict[str, list[str]] = {}
    for layer in layers.values():
        if layer.below is not None:
            above.setdefault(layer.below, []).append(layer.name)
    for name in sorted(layers):
        takers = above.get(name, [])
        if name in kept or layers[name].below is None or len(takers) != 1:
            continue
        if layers[name].links == layers[takers[0]].links == 1:
            return name, takers[0]
    return None


def sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what cannot be reached from the manifest, drafts of it included."""
    for path in left_over(folder, tree(folder, manifest)):
        path.unlink()


def left_over(folder: Path, layers: Collection[str]) -> list[Path]:
    """Return the files in a volume's folder that are none of its layers: who was interrupted has left them.

    Not those of NFS itself, which stand for a file that is deleted and open, and go when it is closed.
    """
    return [
        path
        for path in folder.iterdir()
        if path.name not in layers and path.name != MANIFEST and not path.name.startswith(_NFS)
    ]


def link(source: Path, target: Path, names: Iterable[str]) -> None:
    """Give layers a second home. They stay where they were."""
    for name in names:
        os.link(source / name, target / name)


def share(source: Path, target: Path, names: Iterable[str]) -> bool:
    """Copy layers by sharing blocks; False if the file system does not do that."""
    return all(reflinked(source / name, target / name) for name in names)


def _tops(manifest: Manifest) -> list[str]:
    tops = [manifest.active, *(one.layer for one in manifest.snapshots)]
    if manifest.switching is not None:
        tops.append(manifest.switching.layer)
    return tops
