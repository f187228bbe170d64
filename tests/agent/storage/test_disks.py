"""One disk in one file: its format is told by its name, whatever a guest has written into it."""

import errno
import fcntl

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage import reflink
from nacre.agent.storage.base import BaseDisk
from nacre.agent.storage.disks import DiskFiles, facts_of, format_of
from nacre.agent.storage.reflink import can_reflink, reflinked
from nacre.model.images import Format
from nacre.model.units import MIB
from nacre.model.volumes import DiskFormat
from support.filesystems import with_reflinks

pytestmark = [pytest.mark.anyio, pytest.mark.host]


@pytest.fixture
def files():
    return DiskFiles("qemu-img")


def test_the_name_says_the_format():
    assert [format_of(name) for name in ("root.raw", "0a1b.raw", "root.qcow2")] == [
        DiskFormat.RAW,
        DiskFormat.RAW,
        DiskFormat.QCOW2,
    ]


async def test_a_raw_disk_into_which_a_guest_has_written_another_format_stays_raw(files, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * MIB)
    disk, copy = tmp_path / "a.raw", tmp_path / "b.raw"
    await files.over_image(tmp_path / "bait.qcow2", BaseDisk(path=secret, format=Format.RAW), None)
    disk.write_bytes((tmp_path / "bait.qcow2").read_bytes().ljust(MIB, b"\0"))
    assert facts_of(disk).backing == ""
    assert facts_of(disk).size_bytes == disk.stat().st_size
    await files.copy(disk, copy, DiskFormat.RAW)
    assert copy.read_bytes() == disk.read_bytes()
    await files.copy(disk, tmp_path / "c.qcow2", DiskFormat.QCOW2)
    await files.copy(tmp_path / "c.qcow2", tmp_path / "d.raw", DiskFormat.RAW)
    assert (tmp_path / "d.raw").read_bytes() == disk.read_bytes()


async def test_a_disk_that_is_not_there_is_none(files, tmp_path):
    assert facts_of(tmp_path / "a.raw") is None
    assert facts_of(tmp_path / "a.qcow2") is None
    with pytest.raises(FileNotFoundError):
        await files.grow(tmp_path / "a.raw", DiskFormat.RAW, MIB)


def test_where_blocks_are_not_shared_there_is_no_copy_left(tmp_path):
    if can_reflink(tmp_path):
        pytest.skip("the file system of the tests has reflinks")
    (tmp_path / "a").write_bytes(b"a")
    assert not reflinked(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_goes_wrong_otherwise_is_no_reason_to_copy(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reflink.fcntl, "ioctl", full)
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(OSError, match="No space"):
        reflinked(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert fcntl.ioctl is full


async def test_a_live_copy_is_made_or_refused_with_what_to_do(files, tmp_path):
    disk = tmp_path / "a.raw"
    await files.blank(disk, DiskFormat.RAW, MIB)
    if not can_reflink(tmp_path):
        with pytest.raises(DriverError) as caught:
            await files.copy_live(disk, tmp_path / "b.raw")
        assert caught.value.code == "live_copy_unsupported"
        assert "XFS" in caught.value.hint
    with with_reflinks(tmp_path) as place:
        disk = place / "a.raw"
        await files.of_image(disk, DiskFormat.RAW, BaseDisk(path=tmp_path / "a.raw", format=Format.RAW), 2 * MIB)
        await files.copy_live(disk, place / "b.raw")
        assert (place / "b.raw").stat().st_size == 2 * MIB
