"""Folders: for their owner, and for one agent at a time."""

import pytest

from nacre.agent import places
from nacre.agent.settings import load
from nacre.errors import ConflictError, InvalidInputError


def test_folders_are_made_for_their_owner_only_and_held_by_one(tmp_path):
    settings = load(None, {}, {"data_dir": str(tmp_path / "data"), "run_dir": str(tmp_path / "run")})
    places.prepare(settings)
    assert settings.data.stat().st_mode & 0o777 == 0o700
    with places.held(settings), pytest.raises(ConflictError), places.held(settings):
        pass
    with places.held(settings):
        pass


def test_a_folder_for_sockets_that_others_may_write_to_is_refused(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    run.chmod(0o777)
    settings = load(None, {}, {"data_dir": str(tmp_path / "data"), "run_dir": str(run)})
    with pytest.raises(InvalidInputError) as caught:
        places.prepare(settings)
    assert caught.value.code == "unsafe_directory"
    run.rmdir()
    (tmp_path / "elsewhere").mkdir()
    run.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInputError):
        places.prepare(settings)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    settings = load(None, {}, {"data_dir": str(tmp_path / "file" / "data"), "run_dir": str(tmp_path / "run")})
    with pytest.raises(InvalidInputError) as caught:
        places.prepare(settings)
    assert caught.value.code == "unusable_directory"
