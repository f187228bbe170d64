"""Users of hypervisors: numbers that nobody else has, and files that only their owner may use."""

import os
import stat
from pathlib import Path

import pytest

from nacre.agent.host import users
from nacre.agent.host.users import Users
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.settings import UserRange
from nacre.model.ids import VmId

NUMBERS = UserRange(first=900_000, last=900_002)
ONE, TWO, THREE = VmId("vm-1"), VmId("vm-2"), VmId("vm-3")
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_machine_has_a_number_of_its_own_and_keeps_it() -> None:
    known = Users(NUMBERS, ())
    assert known.group == 900_000
    assert (known.take(ONE), known.take(TWO), known.take(ONE)) == (900_001, 900_002, 900_001)
    with pytest.raises(DriverError) as caught:
        known.take(THREE)
    assert caught.value.code == "users_exhausted"
    assert "confine_users" in caught.value.hint
    known.give_back(ONE)
    assert known.take(THREE) == 900_001


def test_a_number_on_record_is_not_given_to_another() -> None:
    known = Users(NUMBERS, ())
    known.remember(TWO, 900_001)
    known.remember(THREE, 0)
    assert known.take(ONE) == 900_002
    assert known.take(TWO) == 900_001


def test_what_is_in_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    closed.chmod(0o700)
    assert f"{closed}" in users.obstacle(closed / "data")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in users.obstacle(closed / "data")


def test_without_setpriv_nothing_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "setpriv" in users.obstacle(tmp_path)


@root
def test_what_is_shared_is_read_by_the_group_and_reached_by_name_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    image = data / "images/img-1/disk"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x")
    for path in (image, image.parent, data / "images", data):
        path.chmod(0o600 if path == image else 0o700)
    known = Users(NUMBERS, (data,))
    known.share(image)
    known.share(image)
    assert (image.stat().st_gid, mode(image)) == (900_000, 0o640)
    for folder in (image.parent, data / "images", data):
        assert (folder.stat().st_gid, mode(folder)) == (900_000, 0o710)
    assert mode(tmp_path) == 0o700


@root
def test_files_outside_of_our_folders_are_not_touched(tmp_path: Path) -> None:
    firmware = tmp_path / "firmware"
    firmware.write_bytes(b"x")
    firmware.chmod(0o600)
    Users(NUMBERS, (tmp_path / "data",)).share(firmware)
    assert (firmware.stat().st_gid, mode(firmware)) == (os.getegid(), 0o600)


@root
def test_a_machine_reaches_its_own_folder_and_cannot_change_what_is_in_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    place = data / "vms/vm-1"
    place.mkdir(parents=True, mode=0o700)
    disk = place / "root.qcow2"
    disk.write_bytes(b"x")
    known = Users(NUMBERS, (data,))
    known.enter(place, 900_001)
    known.own(disk, 900_001)
    assert (place.stat().st_uid, place.stat().st_gid, mode(place)) == (0, 900_001, 0o710)
    assert (disk.stat().st_uid, disk.stat().st_gid) == (900_001, 900_001)


def test_the_accelerators_group_is_that_of_its_device(tmp_path: Path) -> None:
    assert users.kvm_group(tmp_path / "missing") == ()
    device = tmp_path / "kvm"
    device.write_bytes(b"")
    device.chmod(0o660)
    group = device.stat().st_gid
    assert users.kvm_group(device) == ((group,) if group else ())
