"""Disks in a directory: overlays, their sizes, and what an interruption leaves."""

import json
import subprocess

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.base import BaseDisk
from nacre.agent.storage.directory import DirectoryStorage
from nacre.agent.storage.headers import read_header
from nacre.model.convergence import FailureClass
from nacre.model.images import Format
from nacre.model.units import MIB
from nacre.model.volumes import DiskFormat

pytestmark = [pytest.mark.anyio, pytest.mark.host]


@pytest.fixture
def storage():
    return DirectoryStorage()


@pytest.fixture
def directory(tmp_path):
    made = tmp_path / "vm"
    made.mkdir()
    return made


@pytest.fixture(params=list(Format))
def base(request, tmp_path):
    """An 8 MiB image with a word in it, in each format; its name has what trips careless quoting."""
    raw = tmp_path / "a, b:c.raw"
    raw.write_bytes(b"image" + bytes(8 * MIB - 5))
    if request.param is Format.RAW:
        return BaseDisk(path=raw, format=Format.RAW)
    path = tmp_path / f"a, b:c.{request.param}"
    name = "vpc" if request.param is Format.VHD else request.param.value
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", name, str(raw), str(path)], check=True)
    return BaseDisk(path=path, format=request.param)


@pytest.fixture
def raw_base(tmp_path):
    path = tmp_path / "base.raw"
    path.write_bytes(b"image" + bytes(8 * MIB - 5))
    return BaseDisk(path=path, format=Format.RAW)


def info(path):
    done = subprocess.run(["qemu-img", "info", "--output=json", str(path)], capture_output=True, check=True)
    return json.loads(done.stdout)


def content(path):
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-r", "-c", "read -v 0 5", str(path)], capture_output=True, text=True, check=True
    )
    return done.stdout


def write(path, word):
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P {ord(word)} 0 512", str(path)], check=True)


async def test_a_disk_is_an_overlay_that_names_its_base_and_its_format(storage, directory, base):
    disk = await storage.ensure(directory, "root", base=base, size_bytes=64 * MIB)
    assert (disk.id, disk.format, disk.path) == ("root", "qcow2", directory / "root.qcow2")
    facts = info(disk.path)
    assert facts["virtual-size"] == 64 * MIB
    assert facts["backing-filename"] == str(base.path)
    assert facts["backing-filename-format"] == ("vpc" if base.format is Format.VHD else base.format.value)
    assert "image" in content(disk.path)
    assert disk.path.stat().st_size < MIB
    assert [path.name for path in directory.iterdir()] == ["root.qcow2"]


async def test_without_a_size_a_disk_is_as_large_as_its_image(storage, directory, raw_base):
    disk = await storage.ensure(directory, "root", base=raw_base, size_bytes=None)
    assert read_header(disk.path).size_bytes == 8 * MIB


async def test_a_disk_without_an_image_is_blank(storage, directory):
    disk = await storage.ensure(directory, "root", base=None, size_bytes=16 * MIB)
    assert info(disk.path)["virtual-size"] == 16 * MIB
    assert "backing-filename" not in info(disk.path)


async def test_repeating_keeps_the_content_and_growing_grows_and_nothing_shrinks(storage, directory, raw_base):
    disk = await storage.ensure(directory, "root", base=raw_base, size_bytes=16 * MIB)
    write(disk.path, "X")
    for asked, has in ((16, 16), (32, 32), (16, 32), (None, 32)):
        size = asked and asked * MIB
        disk = await storage.ensure(directory, "root", base=raw_base, size_bytes=size)
        assert info(disk.path)["virtual-size"] == has * MIB
        assert "XXXXX" in content(disk.path)


async def test_what_an_interrupted_try_left_is_replaced(storage, directory, raw_base):
    (directory / "root.qcow2.partial").write_bytes(b"half")
    await storage.ensure(directory, "root", base=raw_base, size_bytes=None)
    assert [path.name for path in directory.iterdir()] == ["root.qcow2"]


@pytest.mark.parametrize("base", [Format.RAW, Format.QCOW2], indirect=True, ids=str)
async def test_a_disk_smaller_than_its_image_is_refused_for_good(storage, directory, base):
    with pytest.raises(DriverError) as caught:
        await storage.ensure(directory, "root", base=base, size_bytes=4 * MIB)
    assert caught.value.code == "disk_smaller_than_image"
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert list(directory.iterdir()) == []


async def test_the_disk_of_another_image_is_left_alone(storage, directory, raw_base, tmp_path):
    disk = await storage.ensure(directory, "root", base=raw_base, size_bytes=None)
    write(disk.path, "X")
    other = tmp_path / "other.raw"
    other.write_bytes(bytes(8 * MIB))
    with pytest.raises(DriverError) as caught:
        await storage.ensure(directory, "root", base=BaseDisk(path=other, format=Format.RAW), size_bytes=None)
    assert caught.value.code == "disk_of_another_image"
    assert "XXXXX" in content(disk.path)


async def test_a_missing_image_is_an_error_that_names_no_path_and_leaves_nothing(storage, directory, tmp_path):
    missing = BaseDisk(path=tmp_path / "nothing", format=Format.RAW)
    with pytest.raises(DriverError) as caught:
        await storage.ensure(directory, "root", base=missing, size_bytes=16 * MIB)
    assert str(tmp_path) not in caught.value.message + caught.value.hint
    assert list(directory.iterdir()) == []


async def test_a_file_that_is_no_disk_is_not_overwritten(storage, directory, raw_base):
    (directory / "root.qcow2").write_bytes(b"precious")
    with pytest.raises(DriverError) as caught:
        await storage.ensure(directory, "root", base=raw_base, size_bytes=None)
    assert caught.value.code == "disk_damaged"
    assert (directory / "root.qcow2").read_bytes() == b"precious"


async def test_without_qemu_img_an_operator_is_told(directory, raw_base):
    storage = DirectoryStorage(qemu_img="/nowhere/qemu-img")
    with pytest.raises(DriverError) as caught:
        await storage.ensure(directory, "root", base=raw_base, size_bytes=None)
    assert caught.value.code == "storage_unavailable"
    assert caught.value.failure_class is FailureClass.BLOCKED


async def test_removing_may_be_repeated_and_takes_leftovers_along(storage, directory, raw_base):
    await storage.ensure(directory, "root", base=raw_base, size_bytes=None)
    (directory / "root.qcow2.partial").touch()
    for _ in range(2):
        await storage.remove(directory, "root")
        assert list(directory.iterdir()) == []
    assert raw_base.path.exists()


async def test_a_raw_disk_is_a_copy_that_needs_its_image_no_more(storage, directory, base):
    disk = await storage.ensure(directory, "root", base=base, size_bytes=64 * MIB, form=DiskFormat.RAW)
    assert (disk.id, disk.format, disk.path) == ("root", "raw", directory / "root.raw")
    assert disk.path.stat().st_size == 64 * MIB
    assert disk.path.stat().st_blocks * 512 <= 8 * MIB
    base.path.unlink()
    with disk.path.open("r+b") as file:
        assert file.read(5) == b"image"
        file.seek(0)
        file.write(b"XXXXX")
    for asked, has in ((None, 64), (16, 64), (128, 128)):
        size = asked and asked * MIB
        disk = await storage.ensure(directory, "root", base=base, size_bytes=size, form=DiskFormat.RAW)
        assert disk.path.stat().st_size == has * MIB
    assert disk.path.read_bytes()[:5] == b"XXXXX"
    assert [path.name for path in directory.iterdir()] == ["root.raw"]
    assert await storage.sizes(directory) == {"root": 128 * MIB}
    await storage.remove(directory, "root")
    assert not list(directory.iterdir())


async def test_a_disk_that_is_there_stays_as_it_is_kept(storage, directory, raw_base):
    for form, other in (tuple(DiskFormat), tuple(reversed(DiskFormat))):
        await storage.ensure(directory, form.value, base=raw_base, size_bytes=None, form=form)
        disk = await storage.ensure(directory, form.value, base=raw_base, size_bytes=16 * MIB, form=other)
        assert (disk.format, disk.path.name) == (form.value, f"{form}.{form}")


async def test_a_blank_raw_disk_takes_no_room_and_what_an_interruption_left_is_replaced(storage, directory):
    (directory / "root.raw.partial").write_bytes(b"half")
    disk = await storage.ensure(directory, "root", base=None, size_bytes=16 * MIB, form=DiskFormat.RAW)
    assert (disk.path.stat().st_size, disk.path.stat().st_blocks) == (16 * MIB, 0)
    assert [path.name for path in directory.iterdir()] == ["root.raw"]
