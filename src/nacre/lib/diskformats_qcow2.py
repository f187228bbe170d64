"""The header of a qcow2 image. Used by `diskformats`. Pure. Source: QEMU docs/interop/qcow2.txt."""

from dataclasses import dataclass

from nacre.lib.diskformats_base import View, damaged, refers_outside, refuse

MAGIC = b"QFI\xfb"

_CORRUPT = 1 << 1
_EXTERNAL_DATA = 1 << 2
_KNOWN_INCOMPATIBLE = 0b11111  # dirty, corrupt, external data file, compression type, extended L2 entries
_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_MAX_EXTENSIONS = 64
_MAX_L1_BYTES = 32 << 20  # QEMU's own limit
_MAX_SNAPSHOTS = 65536


@dataclass(frozen=True, kw_only=True)
class Header:
    """What matters of a header that was accepted."""

    version: int
    virtual_bytes: int
    cluster_bytes: int


def check(view: View) -> Header:
    """Return the header of an image that is whole by itself. Raises InvalidInputError for every other one."""
    version = view.big(4, 4)
    if version not in {2, 3}:
        raise refuse(
            "image_unsupported",
            f"qcow version {version} is not supported",
            hint="convert it with: qemu-img convert -O qcow2",
        )
    if len(view.head) < (104 if version == 3 else 72):
        raise damaged("the header is cut off")
    if view.big(8, 8) or view.big(16, 4):
        raise refers_outside("it has a backing file")
    if view.big(32, 4):
        raise refuse("image_encrypted", "the image is encrypted", hint="decrypt it with qemu-img convert first")
    if version == 3:
        _check_features(view)
    return _check_geometry(view, version)


def _check_features(view: View) -> None:
    incompatible = view.big(72, 8)
    if incompatible & _EXTERNAL_DATA:
        raise refers_outside("its data is in an external file")
    if incompatible & ~_KNOWN_INCOMPATIBLE:
        raise refuse(
            "image_unsupported",
            f"the qcow2 image needs features that are not known here ({incompatible & ~_KNOWN_INCOMPATIBLE:#x})",
            hint="convert it with: qemu-img convert -O qcow2 -o compat=1.1",
        )
    if incompatible & _CORRUPT:
        raise damaged("it is marked corrupt")
    length = view.big(100, 4)
    if length < 104 or length % 8 or length > 1 << 16:
        raise damaged("the length of the header is absurd")
    _check_extensions(view, length)


def _check_extensions(view: View, offset: int) -> None:
    for _ in range(_MAX_EXTENSIONS):
        kind, length = view.big(offset, 4), view.big(offset + 4, 4)
        if kind == _EXTENSION_END or offset + 8 > len(view.head):
            return
        if kind == _EXTENSION_DATA_FILE:
            raise refers_outside("it names an external data file")
        if kind == _EXTENSION_BACKING_FORMAT:
            raise refers_outside("it names the format of a backing file")
        offset += 8 + (length + 7) // 8 * 8
    raise damaged("the header has no end")


def _check_geometry(view: View, version: int) -> Header:
    cluster_bits = view.big(20, 4)
    if not 9 <= cluster_bits <= 21:
        raise damaged("the size of its clusters is absurd")
    cluster = 1 << cluster_bits
    virtual = view.big(24, 8)
    l1_entries, l1_offset = view.big(36, 4), view.big(40, 8)
    extended = version == 3 and bool(view.big(72, 8) & 1 << 4)
    per_l1_entry = cluster * (cluster // (16 if extended else 8))
    if l1_entries * 8 > _MAX_L1_BYTES or l1_entries < -(-virtual // per_l1_entry):
        raise damaged("the disk size and the size of its table disagree")
    if l1_entries and (l1_offset % cluster or l1_offset + l1_entries * 8 > view.size):
        raise damaged("its table lies outside the file, the end is missing")
    refcounts, refcount_clusters = view.big(48, 8), view.big(56, 4)
    if refcounts % cluster or not cluster <= refcounts < view.size or refcount_clusters * cluster > 8 << 20:
        raise damaged("its reference counts lie outside the file")
    if view.big(60, 4) > _MAX_SNAPSHOTS:
        raise damaged("the number of its snapshots is absurd")
    if version == 3 and view.big(96, 4) > 6:
        raise damaged("its reference counts are of an absurd width")
    return Header(version=version, virtual_bytes=virtual, cluster_bytes=cluster)
