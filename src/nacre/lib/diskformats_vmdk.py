"""The header of a VMDK image in one file. Used by `diskformats`. Pure. Source: VMware Virtual Disk Format 5.0.

A VMDK may be a text that names other files, any of them. Taken are only the two kinds that are one file with the
text inside: `monolithicSparse` (a disk of a desktop product) and `streamOptimized` (the disk in an OVA).
"""

import re
from dataclasses import dataclass

from nacre.lib.diskformats_base import SECTOR, View, damaged, refers_outside, refuse

_SPARSE = b"KDMV"
_ESX = b"COWD"
_TEXT = re.compile(rb"^\s*# *disk +descriptor *file", re.IGNORECASE)
_TYPES = {"monolithicsparse", "streamoptimized"}
_MAX_DESCRIPTOR = 128 * SECTOR
_NO_PARENT = "ffffffff"
_AT_END = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """What matters of a header that was accepted."""

    create_type: str
    virtual_bytes: int


def is_vmdk(view: View) -> bool:
    """Whether it is a VMDK of any sort, also of one that will be refused."""
    return view.has(0, _SPARSE) or view.has(0, _ESX) or _TEXT.match(view.head[:4096]) is not None


def check(view: View) -> Header:
    """Return the header of an image that is whole by itself. Raises InvalidInputError for every other one."""
    if view.has(0, _ESX):
        raise refuse(
            "image_unsupported",
            "this is a sparse extent of an ESX disk",
            hint="export the disk as an OVA, or convert it with qemu-img where its parts are",
        )
    if not view.has(0, _SPARSE):
        raise refers_outside("it is a vmdk descriptor, the data is in other files")
    _check_header(view)
    text = _descriptor(view)
    return Header(create_type=_check_descriptor(text), virtual_bytes=view.little(12, 8) * SECTOR)


def _check_header(view: View) -> None:
    if view.little(4, 4) not in {1, 2, 3}:
        raise refuse(
            "image_unsupported",
            f"vmdk version {view.little(4, 4)} is not supported",
            hint="convert it with: qemu-img convert -O qcow2",
        )
    capacity, grain, table_entries = view.little(12, 8), view.little(20, 8), view.little(44, 4)
    if capacity == 0:  # QEMU would then open what the text names
        raise refers_outside("it is a vmdk without data of its own")
    if grain & (grain - 1) or not 1 <= grain <= 1 << 17:
        raise damaged("the size of its grains is absurd")
    if not 1 <= table_entries <= 512:
        raise damaged("the size of its grain tables is absurd")
    directory = view.little(56, 8)
    if directory != _AT_END and directory * SECTOR >= view.size:
        raise damaged("its directory lies outside the file, the end is missing")


def _descriptor(view: View) -> str:
    start, length = view.little(28, 8) * SECTOR, view.little(36, 8) * SECTOR
    if start == 0 or length == 0:
        raise refers_outside("it is one part of a vmdk in several files")
    if length > _MAX_DESCRIPTOR or start + length > len(view.head):
        raise damaged("its descriptor is absurdly large or far away")
    return view.head[start : start + length].split(b"\x00", 1)[0].decode("latin-1")


def _check_descriptor(text: str) -> str:
    create_type, extents = "", 0
    for raw in text.splitlines():
        line = raw.strip()
        key, equals, value = line.partition("=")
        key, value = key.strip().lower(), value.strip().strip('"').lower()
        words = line.split()
        if words and words[0].upper() in {"RW", "RDONLY", "NOACCESS"}:
            extents += 1
            if len(words) < 3 or words[2].upper() != "SPARSE":
                raise refers_outside("an extent of it is in another file")
        elif equals and key == "createtype":
            create_type = value
        elif equals and key == "parentcid" and value != _NO_PARENT:
            raise refers_outside("it is a difference to a parent disk")
        elif equals and key.startswith("parentfilenamehint"):
            raise refers_outside("it names a parent disk")
    if create_type not in _TYPES:
        raise refers_outside(f"it is of the type {create_type[:40] or 'unknown'!r}, whose data is in other files")
    if extents != 1:
        raise refers_outside(f"it has {extents} extents instead of one")
    return create_type
