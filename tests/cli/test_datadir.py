import os
import stat
import tomllib
from pathlib import Path

import pytest

from nacre.cli.datadir import Child, DataDir, Running, default_root
from nacre.errors import ConflictError, InvalidInputError
from nacre.lib import processes


def myself() -> Child:
    return Child(pid=os.getpid(), start_time=processes.start_time(os.getpid()) or 0)


@pytest.mark.parametrize(("user", "outer"), [(0, 0o711), (1000, 0o700)])
def test_only_the_owner_can_look_into_the_folders_and_users_of_machines_pass_through_those_of_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, outer: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    data = DataDir(tmp_path / "a" / "b")
    earlier = os.umask(0o077)
    try:
        data.prepare()
        data.prepare()
    finally:
        os.umask(earlier)
    assert stat.S_IMODE(data.root.stat().st_mode) == outer
    for folder in (data.folder("control"), data.folder("agent")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    DataDir(tmp_path / "mine").prepare()
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError):
        DataDir(tmp_path / "file").prepare()


def test_one_at_a_time_and_the_second_is_told_who_is_first(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    held = data.lock()
    data.write_running(Running(boot_id=processes.boot_id(), supervisor=myself(), url="http://x"))
    with pytest.raises(ConflictError, match=rf"pid {os.getpid()}"):
        data.lock()
    os.close(held)
    os.close(data.lock())


def test_who_ran_before_the_host_booted_is_forgotten(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.write_running(Running(boot_id="another boot", supervisor=myself(), url="http://x"))
    assert data.running() is None
    data.record.write_text("{damaged")
    assert data.running() is None


def test_a_configuration_is_plain_toml_that_only_its_owner_reads(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.write_config("agent", {"data_dir": 'odd "path"\\ü'})
    assert tomllib.loads(data.config("agent").read_text()) == {"data_dir": 'odd "path"\\ü'}
    assert stat.S_IMODE(data.config("agent").stat().st_mode) == 0o600


def test_users_keep_data_in_their_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_root({"XDG_DATA_HOME": "/d"}) == Path("/d/nacre")
    assert default_root({}) == Path.home() / ".local/share/nacre"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root({}) == Path("/var/lib/nacre")
