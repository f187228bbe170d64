"""The footer of a VHD image. Used by `diskformats`. Pure. Source: Microsoft VHD Image Format Specification 1.0.

A dynamic disk has a copy of its footer at the front, a fixed one is a raw disk with the footer behind it.
"""

from dataclasses import dataclass

from nacre.lib.diskformats_base import SECTOR, View, damaged, refers_outside, refuse

_COOKIE = b"conectix"
_SPARSE_COOKIE = b"cxsparse"
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_CHECKSUM = 64


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What matters of a footer that was accepted."""

    disk_type: str
    virtual_bytes: int


def is_vhd(view: View) -> bool:
    """Whether it is a VHD of any sort, also of one that will be refused."""
    return view.has(0, _COOKIE) or view.tail[-SECTOR:].startswith(_COOKIE)


def check(view: View) -> Footer:
    """Return the footer of an image that is whole by itself. Raises InvalidInputError for every other one."""
    dynamic = view.has(0, _COOKIE)
    footer = view.head[:SECTOR] if dynamic else view.tail[-SECTOR:]
    if len(footer) < SECTOR or not _adds_up(footer, _CHECKSUM):
        raise damaged("the checksum of its footer is wrong")
    kind, virtual = int.from_bytes(footer[60:64], "big"), int.from_bytes(footer[48:56], "big")
    if kind == _DIFFERENCING:
        raise refers_outside("it is a difference to a parent disk")
    if kind == _FIXED:
        if virtual % SECTOR or virtual + SECTOR > view.size:
            raise damaged("the end is missing")
        return Footer(disk_type="fixed", virtual_bytes=virtual)
    if kind != _DYNAMIC or not dynamic:
        raise refuse(
            "image_unsupported", f"vhd type {kind} is not supported", hint="convert it with: qemu-img convert -O qcow2"
        )
    _check_dynamic(view, footer)
    return Footer(disk_type="dynamic", virtual_bytes=virtual)


def _check_dynamic(view: View, footer: bytes) -> None:
    at = int.from_bytes(footer[16:24], "big")
    header = view.head[at : at + 1024]
    if len(header) < 1024 or not header.startswith(_SPARSE_COOKIE) or not _adds_up(header, 36):
        raise damaged("its second header is missing or wrong")
    if any(header[40:56]) or any(header[64:576]):
        raise refers_outside("it names a parent disk")
    table = int.from_bytes(header[16:24], "big")
    entries, block = int.from_bytes(header[28:32], "big"), int.from_bytes(header[32:36], "big")
    if block < SECTOR or block & (block - 1) or block > 256 << 20:
        raise damaged("the size of its blocks is absurd")
    if table + entries * 4 > view.size:
        raise damaged("its table lies outside the file, the end is missing")
    if entries * block < int.from_bytes(footer[48:56], "big"):
        raise damaged("its table is smaller than the disk")


def _adds_up(header: bytes, at: int) -> bool:
    total = sum(header) - sum(header[at : at + 4])
    return ~total & 0xFFFFFFFF == int.from_bytes(header[at : at + 4], "big")
