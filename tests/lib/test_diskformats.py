"""What a file is, told by its content. Real images by qemu-img, hostile ones by hand and by hypothesis."""

import contextlib
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.errors import InvalidInputError
from nacre.lib import diskformats
from nacre.lib.diskformats import HEAD_BYTES, TAIL_BYTES, Kind, Recognised
from support.images import converted, initrd, kernel, qemu_img, raw_disk

MIB = 1 << 20


def look(content: bytes) -> Recognised:
    return diskformats.recognise_disk(content[:HEAD_BYTES], content[-TAIL_BYTES:], len(content))


def refused(content: bytes) -> str:
    with pytest.raises(InvalidInputError) as error:
        look(content)
    assert error.value.hint
    return error.value.code


def patched(content: bytes, offset: int, new: bytes) -> bytes:
    return content[:offset] + new + content[offset + len(new) :]


@pytest.fixture(scope="module")
def qcow2(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return converted(tmp_path_factory.mktemp("qcow2"), "qcow2", raw_disk(2 * MIB)).read_bytes()


@pytest.fixture(scope="module")
def vmdk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return converted(tmp_path_factory.mktemp("vmdk"), "vmdk", raw_disk(2 * MIB)).read_bytes()


@pytest.fixture(scope="module")
def vhd(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return converted(tmp_path_factory.mktemp("vhd"), "vpc", raw_disk(2 * MIB), "-o", "force_size=on").read_bytes()


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("qcow2", [], Kind.QCOW2),
        ("qcow2", ["-c"], Kind.QCOW2),
        ("qcow2", ["-o", "compat=0.10"], Kind.QCOW2),
        ("qcow2", ["-c", "-o", "compression_type=zstd"], Kind.QCOW2),
        ("qcow2", ["-o", "extended_l2=on,cluster_size=128k"], Kind.QCOW2),
        ("qcow2", ["-o", "lazy_refcounts=on,cluster_size=512"], Kind.QCOW2),
        ("qcow2", ["-o", "cluster_size=2M,preallocation=metadata"], Kind.QCOW2),
        ("vmdk", [], Kind.VMDK),
        ("vmdk", ["-o", "subformat=streamOptimized"], Kind.VMDK),
        ("vpc", ["-o", "force_size=on"], Kind.VHD),
        ("vpc", ["-o", "force_size=on,subformat=fixed"], Kind.VHD),
        ("raw", [], Kind.RAW),
    ],
)
def test_what_qemu_img_makes_is_recognised(tmp_path: Path, kind: str, options: list[str], expected: Kind) -> None:
    content = converted(tmp_path, kind, raw_disk(3 * MIB), *options).read_bytes()
    found = look(content)
    assert (found.kind, found.virtual_bytes) == (expected, 3 * MIB)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vmdk", ["-o", "subformat=monolithicFlat"]),
        ("vmdk", ["-o", "subformat=twoGbMaxExtentSparse"]),
        ("vmdk", ["-o", "subformat=twoGbMaxExtentFlat"]),
    ],
)
def test_a_vmdk_whose_data_is_in_other_files_is_refused(tmp_path: Path, kind: str, options: list[str]) -> None:
    main = converted(tmp_path, kind, raw_disk(MIB), *options)
    for path in (main, *tmp_path.glob("image-s*.vmdk")):
        assert refused(path.read_bytes()) in {"image_refers_outside", "not_a_disk_image"}


def test_an_extent_of_a_split_vmdk_is_refused(tmp_path: Path) -> None:
    converted(tmp_path, "vmdk", raw_disk(MIB), "-o", "subformat=twoGbMaxExtentSparse")
    extent = next(tmp_path.glob("image-s*.vmdk"))
    assert refused(extent.read_bytes()) == "image_refers_outside"


@pytest.mark.parametrize("kind", ["qcow2", "vmdk"])
def test_a_difference_to_another_disk_is_refused(tmp_path: Path, kind: str) -> None:
    base = converted(tmp_path, kind, raw_disk(MIB))
    qemu_img("create", "-f", kind, "-b", str(base), "-F", kind, str(tmp_path / "overlay"))
    assert refused((tmp_path / "overlay").read_bytes()) == "image_refers_outside"


def test_a_differencing_vhd_is_refused(vhd: bytes) -> None:
    footer = bytearray(vhd[:512])
    footer[60:64] = (4).to_bytes(4, "big")
    footer[64:68] = bytes(4)
    footer[64:68] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
    assert refused(bytes(footer) + vhd[512:]) == "image_refers_outside"


def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data.raw"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data}", str(tmp_path / "image"), "1M")
    assert refused((tmp_path / "image").read_bytes()) == "image_refers_outside"


def test_an_external_data_file_without_its_flag_is_refused_too(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data.raw'}", str(tmp_path / "image"), "1M")
    content = patched((tmp_path / "image").read_bytes(), 72, bytes(8))
    assert refused(content) == "image_refers_outside"


@pytest.mark.parametrize(
    ("offset", "new", "code"),
    [
        (4, struct.pack(">I", 1), "image_unsupported"),  # version 1
        (4, struct.pack(">I", 4), "image_unsupported"),  # a future version
        (8, struct.pack(">Q", 64), "image_refers_outside"),  # a backing file by offset
        (16, struct.pack(">I", 8), "image_refers_outside"),  # by length
        (20, struct.pack(">I", 63), "image_damaged"),  # cluster bits
        (24, struct.pack(">Q", 1 << 62), "image_damaged"),  # a size beyond its table
        (24, struct.pack(">Q", 0), "image_virtual_size"),
        (32, struct.pack(">I", 2), "image_encrypted"),
        (36, struct.pack(">I", 0xFFFFFFFF), "image_damaged"),  # entries of the table
        (40, struct.pack(">Q", 1 << 60), "image_damaged"),  # where the table is
        (48, struct.pack(">Q", 1 << 60), "image_damaged"),  # where the counts are
        (60, struct.pack(">I", 0xFFFFFFFF), "image_damaged"),  # snapshots
        (72, struct.pack(">Q", 1 << 1), "image_damaged"),  # marked corrupt
        (72, struct.pack(">Q", 1 << 2), "image_refers_outside"),  # external data
        (72, struct.pack(">Q", 1 << 5), "image_unsupported"),  # a feature of the future
        (72, struct.pack(">Q", 1 << 63), "image_unsupported"),
        (96, struct.pack(">I", 60), "image_damaged"),  # width of counts
        (100, struct.pack(">I", 7), "image_damaged"),  # length of the header
    ],
)
def test_a_hostile_qcow2_header_is_refused(qcow2: bytes, offset: int, new: bytes, code: str) -> None:
    assert refused(patched(qcow2, offset, new)) == code


def test_an_absurd_virtual_size_is_refused(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", str(tmp_path / "image"), "100T")
    assert refused((tmp_path / "image").read_bytes()) == "image_virtual_size"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"parentCID=ffffffff", b"parentCID=fffffff0"),
        (b'createType="monolithicSparse"', b'createType="monolithicFlat"  '),
        (b"RW 4096 SPARSE", b"RW 4096 FLAT  "),
        (b"# Extent description", b'RW 9 FLAT "/etc/passwd"'),
    ],
)
def test_a_hostile_vmdk_descriptor_is_refused(vmdk: bytes, old: bytes, new: bytes) -> None:
    at = vmdk.index(old)
    assert refused(patched(vmdk, at, new)) == "image_refers_outside"


@pytest.mark.parametrize(
    ("offset", "new", "code"),
    [
        (4, struct.pack("<I", 9), "image_unsupported"),
        (12, struct.pack("<Q", 0), "image_refers_outside"),  # QEMU would read the descriptor's files
        (12, struct.pack("<Q", 1 << 60), "image_virtual_size"),
        (20, struct.pack("<Q", 3), "image_damaged"),
        (28, struct.pack("<Q", 0), "image_refers_outside"),
        (28, struct.pack("<Q", 1 << 60), "image_damaged"),
        (36, struct.pack("<Q", 1 << 40), "image_damaged"),
        (44, struct.pack("<I", 1 << 30), "image_damaged"),
        (56, struct.pack("<Q", 1 << 50), "image_damaged"),
    ],
)
def test_a_hostile_vmdk_header_is_refused(vmdk: bytes, offset: int, new: bytes, code: str) -> None:
    assert refused(patched(vmdk, offset, new)) == code


def test_a_vhd_whose_checksum_is_wrong_is_refused(vhd: bytes) -> None:
    assert refused(patched(vhd, 48, struct.pack(">Q", 1 << 60))) == "image_damaged"
    assert refused(patched(vhd, 512 + 28, struct.pack(">I", 1 << 30))) == "image_damaged"


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vpc"])
def test_an_image_without_its_end_is_never_taken_for_a_raw_disk(tmp_path: Path, kind: str) -> None:
    content = converted(tmp_path, kind, raw_disk(2 * MIB)).read_bytes()
    for length in (4, 20, 100, 512, 600, 4096, 65536):
        try:
            assert look(content[:length]).kind is not Kind.RAW
        except InvalidInputError as error:
            assert error.code != "not_a_disk_image" or length < 8  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!doctype html>\n<html>", "web page"),
        (b"\x1f\x8b\x08" + bytes(4096), "gzip"),
        (b"\xfd7zXZ\x00" + bytes(4096), "xz"),
        (b"PK\x03\x04" + bytes(4096), "zip"),
        (bytes(257) + b"ustar" + bytes(4096), "tar"),
        (b"vhdxfile" + bytes(4096), "vhdx"),
        (bytes(64) + b"\x7f\x10\xda\xbe" + bytes(4096), "VirtualBox"),
        (b"LUKS\xba\xbe" + bytes(4096), "encrypted"),
        (kernel(), "kernel"),
        (b"#!/bin/sh\necho hello\n", "text"),
        (bytes(4096), "zeros"),
        (b"\xff\xfe" * 4096, "unknown"),
    ],
)
def test_what_is_no_disk_is_called_by_its_name(content: bytes, words: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        look(content)
    assert error.value.code == "not_a_disk_image"
    assert words in error.value.message


def test_file_systems_and_partition_tables_are_raw_disks(tmp_path: Path) -> None:
    ext4 = tmp_path / "ext4"
    ext4.write_bytes(bytes(MIB))
    subprocess.run(["/sbin/mke2fs", "-q", "-F", str(ext4)], check=True)
    gpt = bytearray(MIB)
    gpt[512:520] = b"EFI PART"
    iso = bytearray(MIB)
    iso[0x8001:0x8006] = b"CD001"
    for content in (ext4.read_bytes(), bytes(gpt), bytes(iso), raw_disk()):
        assert look(content).kind is Kind.RAW


def test_a_raw_disk_that_does_not_end_at_a_sector_is_refused() -> None:
    assert refused(raw_disk() + b"x") == "image_cut_off"


def test_kernels_are_recognised() -> None:
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + bytes(100)
    arm = bytes(0x38) + b"ARM\x64" + bytes(100)
    for content, detail in ((kernel(), "bzImage"), (elf, "ELF"), (arm, "arm64 Image")):
        assert diskformats.recognise_kernel(content[:HEAD_BYTES], len(content)).detail == detail
    for content in (raw_disk(), initrd(), b"", b"MZ", b"text", kernel()[:1024]):
        with pytest.raises(InvalidInputError):
            diskformats.recognise_kernel(content, len(content))


def test_the_kernel_of_this_host_is_recognised() -> None:
    for path in Path("/boot").glob("vmlinuz-*"):
        content = path.read_bytes()
        assert diskformats.recognise_kernel(content[:HEAD_BYTES], len(content)).kind is Kind.KERNEL


def test_initrds_are_recognised() -> None:
    for magic in (b"070701", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"\x02\x21\x4c\x18"):
        assert diskformats.recognise_initrd(magic + bytes(100), 200).kind is Kind.INITRD
    for content in (raw_disk(), kernel(), b"", b"text", b"070701"):
        with pytest.raises(InvalidInputError):
            diskformats.recognise_initrd(content, len(content))


_MAGICS = st.sampled_from(
    [b"", b"QFI\xfb", b"KDMV", b"COWD", b"conectix", b"# Disk DescriptorFile\n", b"\x7fELF", b"MZ"]
)


@settings(max_examples=400, deadline=500)
@given(magic=_MAGICS, rest=st.binary(max_size=4096), tail=st.binary(max_size=512), size=st.integers(0, 1 << 65))
def test_no_content_makes_it_crash_or_hang(magic: bytes, rest: bytes, tail: bytes, size: int) -> None:
    head = magic + rest
    for recognise in (
        lambda: diskformats.recognise_disk(head, tail, size),
        lambda: diskformats.recognise_kernel(head, size),
        lambda: diskformats.recognise_initrd(head, size),
    ):
        with contextlib.suppress(InvalidInputError):
            assert recognise().virtual_bytes >= 0
    assert diskformats.describe(head, tail, size)


@settings(max_examples=300, deadline=500)
@given(which=st.sampled_from(["qcow2", "vmdk", "vhd"]), at=st.integers(0, 2047), new=st.binary(min_size=1, max_size=16))
def test_a_real_header_with_any_bytes_changed_is_taken_or_refused_and_never_crashes(
    qcow2: bytes, vmdk: bytes, vhd: bytes, which: str, at: int, new: bytes
) -> None:
    content = patched({"qcow2": qcow2, "vmdk": vmdk, "vhd": vhd}[which], at, new)
    try:
        found = look(content)
    except InvalidInputError:
        return
    assert 0 < found.virtual_bytes <= diskformats.MAX_VIRTUAL_BYTES


@settings(max_examples=60)
@given(which=st.sampled_from(["qcow2", "vmdk"]), at=st.integers(4, 1100), new=st.binary(min_size=1, max_size=8))
def test_what_is_taken_refers_to_no_other_file_in_the_eyes_of_qemu_either(
    tmp_path_factory: pytest.TempPathFactory, qcow2: bytes, vmdk: bytes, which: str, at: int, new: bytes
) -> None:
    content = patched({"qcow2": qcow2, "vmdk": vmdk}[which], at, new)
    try:
        look(content)
    except InvalidInputError:
        return
    path = tmp_path_factory.mktemp("taken") / "image"
    path.write_bytes(content)
    command = ["qemu-img", "info", "-f", which, "--output=json", str(path)]
    info = subprocess.run(command, check=False, capture_output=True, timeout=20).stdout
    assert b"backing-filename" not in info
    assert b"data-file" not in info
