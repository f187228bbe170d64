"""What a file really is, told by its content: disk images, kernels, initrds, and what is none of these.

Called by `control/services/image_files.py` on everything that comes in. Looks at the first megabyte and the last
sector only, allocates nothing that a header asks for, and never opens what a header names. Pure.

Refused here, because a hypervisor would follow it out of the file: backing files, external data files, parents of
differencing disks, extents in other files. Formats: qcow2 (QEMU docs/interop/qcow2.txt), VMDK (VMware Virtual Disk
Format 5.0), VHD (Microsoft Virtual Hard Disk Image Format Specification).
"""

from dataclasses import dataclass
from enum import StrEnum

from nacre.errors import InvalidInputError
from nacre.lib import diskformats_qcow2, diskformats_vhd, diskformats_vmdk
from nacre.lib.diskformats_base import SECTOR, View, refuse

HEAD_BYTES = 1 << 20
TAIL_BYTES = 512
MAX_VIRTUAL_BYTES = 64 << 40


class Kind(StrEnum):
    """What a file was recognised as."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vhd"
    KERNEL = "kernel"
    INITRD = "initrd"
    ISO = "iso"


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A file that may be used."""

    kind: Kind
    detail: str
    """For people: `qcow2 version 3`, `bzImage`, `gzip`."""
    virtual_bytes: int
    """What a guest sees; the size of the file for all but disks."""


def recognise_disk(head: bytes, tail: bytes, size: int, *, max_virtual: int = MAX_VIRTUAL_BYTES) -> Recognised:
    """Return what disk image this is. Raises InvalidInputError for everything that is none or is not safe to open.

    `head` is the first `HEAD_BYTES` (or all) of the file, `tail` its last `TAIL_BYTES` (or all).
    """
    view = View(head=head, tail=tail, size=size)
    if size <= 0:
        raise refuse("image_empty", "the file is empty", hint="send a disk image")
    found = (
        _qcow2(view) or _vmdk(view) or _vhd(view) or _raw(view)  # a fixed VHD looks like a raw disk with a footer
    )
    if found is None:
        raise _not_a_disk(view)
    if found.virtual_bytes <= 0 or found.virtual_bytes > max_virtual:
        raise refuse(
            "image_virtual_size",
            f"the image claims a disk of {found.virtual_bytes} bytes, allowed are 1 to {max_virtual}",
            hint="a size like that comes from a damaged or hostile header; make the image again",
        )
    return found


def recognise_kernel(head: bytes, size: int) -> Recognised:
    """Return what kernel this is: a bzImage, an ELF kernel (PVH, vmlinux), an arm64 Image or an EFI program."""
    view = View(head=head, tail=b"", size=size)
    setup = view.little(0x1F1, 1) or 4
    detail = ""
    if view.has(0x202, b"HdrS") and view.has(0x1FE, b"\x55\xaa") and size > (setup + 1) * SECTOR:
        detail = "bzImage"
    elif view.has(0, b"\x7fELF") and view.little(4, 1) in {1, 2} and view.little(0x10, 2) in {2, 3}:
        detail = "ELF"
    elif view.has(0x38, b"ARM\x64"):
        detail = "arm64 Image"
    elif view.has(0, b"MZ") and view.has(view.little(0x3C, 4), b"PE\x00\x00"):
        detail = "EFI program"
    if not detail:
        raise refuse(
            "not_a_kernel",
            f"this is not a kernel but {describe(head, b'', size)}",
            hint="give a bzImage (/boot/vmlinuz-…), an ELF vmlinux or an arm64 Image",
        )
    return Recognised(kind=Kind.KERNEL, detail=detail, virtual_bytes=size)


_DESCRIPTOR = 16 * 2048
_INITRDS = (
    (0, b"070701", "cpio"),
    (0, b"070702", "cpio"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"BZh", "bzip2"),
    (0, b"\x5d\x00\x00", "lzma"),
    (0, b"\x89LZO\x00\x0d\x0a\x1a\x0a", "lzo"),
    (0, b"\x02\x21\x4c\x18", "lz4"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
)


def recognise_initrd(head: bytes, size: int) -> Recognised:
    """Return what initrd this is: a cpio archive in the "new" format, plain or as the kernel can decompress it."""
    view = View(head=head, tail=b"", size=size)
    detail = next((name for offset, magic, name in _INITRDS if view.has(offset, magic)), "")
    if not detail or size < 32:
        raise refuse(
            "not_an_initrd",
            f"this is not an initrd but {describe(head, b'', size)}",
            hint="give a cpio archive (newc), plain or compressed with gzip, zstd, xz, lz4, lzma, lzo or bzip2",
        )
    return Recognised(kind=Kind.INITRD, detail=detail, virtual_bytes=size)


def recognise_iso(head: bytes, size: int) -> Recognised:
    """Return what medium this is: ISO 9660, by its volume descriptor (ECMA-119, 8.1), or UDF (ECMA-167, 2/9.1)."""
    view = View(head=head, tail=b"", size=size)
    kinds = ((b"CD001", "ISO 9660"), (b"BEA01", "UDF"))
    detail = next((name for magic, name in kinds if view.has(_DESCRIPTOR + 1, magic)), "")
    if not detail:
        raise refuse(
            "not_an_iso",
            f"this is not an ISO but {describe(head, b'', size)}",
            hint="give the image of a CD or DVD, such as an installer; disk images are imported as disks",
        )
    return Recognised(kind=Kind.ISO, detail=detail, virtual_bytes=size)


def _qcow2(view: View) -> Recognised | None:
    if not view.has(0, diskformats_qcow2.MAGIC):
        return None
    header = diskformats_qcow2.check(view)
    return Recognised(kind=Kind.QCOW2, detail=f"qcow2 version {header.version}", virtual_bytes=header.virtual_bytes)


def _vmdk(view: View) -> Recognised | None:
    if not diskformats_vmdk.is_vmdk(view):
        return None
    header = diskformats_vmdk.check(view)
    return Recognised(kind=Kind.VMDK, detail=f"vmdk {header.create_type}", virtual_bytes=header.virtual_bytes)


def _vhd(view: View) -> Recognised | None:
    if not diskformats_vhd.is_vhd(view):
        return None
    footer = diskformats_vhd.check(view)
    return Recognised(kind=Kind.VHD, detail=f"{footer.disk_type} vhd", virtual_bytes=footer.virtual_bytes)


_RAW_DISKS = (
    (512, b"EFI PART", "GPT"),
    (4096, b"EFI PART", "GPT"),
    (510, b"\x55\xaa", "boot sector"),
    (0x438, b"\x53\xef", "ext file system"),
    (0, b"XFSB", "XFS file system"),
    (0x10040, b"_BHRfS_M", "btrfs file system"),
    (0x8001, b"CD001", "ISO 9660"),
    (0, b"hsqs", "squashfs file system"),
    (0x400, b"\xe2\xe1\xf5\xe0", "EROFS file system"),
    (0x400, b"\x10\x20\xf5\xf2", "F2FS file system"),
    (512, b"LABELONE", "LVM volume"),
)


def _raw(view: View) -> Recognised | None:
    if _foreign(view):
        return None
    detail = next((name for offset, magic, name in _RAW_DISKS if view.has(offset, magic)), "")
    if not detail or (view.has(0x202, b"HdrS") and detail == "boot sector"):
        return None
    if view.size % SECTOR:
        raise refuse(
            "image_cut_off",
            f"a raw disk of {view.size} bytes does not end at a sector: the end is missing or something was added",
            hint="send the whole file; compare its size and checksum with the original",
        )
    return Recognised(kind=Kind.RAW, detail=detail, virtual_bytes=view.size)


_FOREIGN = (
    (0, b"vhdxfile", "a vhdx disk", "convert it with: qemu-img convert -O qcow2"),
    (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox vdi disk", "convert it with: qemu-img convert -O qcow2"),
    (0, b"QED\x00", "a qed disk", "convert it with: qemu-img convert -O qcow2"),
    (0, b"WithoutFreeSpace", "a Parallels disk", "convert it with: qemu-img convert -O qcow2"),
    (0, b"WithouFreSpacExt", "a Parallels disk", "convert it with: qemu-img convert -O qcow2"),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)", "decrypt it first"),
    (0, b"\x1f\x8b", "gzip data", "decompress it first"),
    (0, b"\xfd7zXZ\x00", "xz data", "decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data", "decompress it first"),
    (0, b"BZh", "bzip2 data", "decompress it first"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (257, b"ustar", "a tar archive (an OVA is one)", "unpack it and send the disk inside"),
    (0, b"\x7fELF", "an ELF program or kernel", "as a kernel it has the role kernel"),
    (0, b"070701", "a cpio archive", "as an initrd it has the role initrd"),
    (0, b"%PDF", "a PDF document", "send a disk image"),
)


def _foreign(view: View) -> tuple[str, str] | None:
    """Return what else the file is and what to do about it, if that is known."""
    for offset, magic, what, advice in _FOREIGN:
        if view.has(offset, magic):
            return what, advice
    start = view.head[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page or XML document", "take the link of the image itself, not of the page that describes it"
    return None


def _not_a_disk(view: View) -> InvalidInputError:
    foreign = _foreign(view)
    advice = foreign[1] if foreign else "give a raw, qcow2, vmdk or vhd disk with a partition table or file system"
    return refuse(
        "not_a_disk_image", f"this is not a disk image but {describe(view.head, view.tail, view.size)}", hint=advice
    )


def describe(head: bytes, tail: bytes, size: int) -> str:
    """Return a few words on what a file seems to be, for messages."""
    view = View(head=head, tail=tail, size=size)
    foreign = _foreign(view)
    if foreign:
        return foreign[0]
    if view.has(0x202, b"HdrS"):
        return "a Linux kernel"
    disks = ((0, diskformats_qcow2.MAGIC, "qcow2"), (0, b"KDMV", "vmdk"), (0, b"conectix", "vhd"))
    for offset, magic, name in disks:
        if view.has(offset, magic):
            return f"a {name} disk"
    detail = next((name for offset, magic, name in _RAW_DISKS if view.has(offset, magic)), "")
    if detail:
        return f"a raw disk ({detail})"
    if not head.strip(b"\x00"):
        return "empty: it begins with nothing but zeros"
    sample = head[:4096]
    if sample and all(byte in b"\t\r\n\x0c\x1b" or 32 <= byte < 127 for byte in sample):
        return "text"
    return "something unknown"
