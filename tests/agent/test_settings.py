"""Settings: files, environment, flags; and what is wrong is said."""

from pathlib import Path

import pytest

from nacre.agent import settings
from nacre.agent.main import read_settings
from nacre.agent.settings import load
from nacre.errors import InvalidInputError


def written(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text)
    return path


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path):
    path = written(tmp_path, 'data_dir = "/a"\nregion = "here"\nlog_level = "error"\n[labels]\nrack = "1"\n')
    found = load(
        path, {"NACRE_AGENT_REGION": "there", "NACRE_AGENT_LOG_LEVEL": "debug", "PATH": "x"}, {"log_level": "warning"}
    )
    assert (found.data_dir, found.region, found.log_level) == ("/a", "there", "warning")
    assert found.labels == {"rack": "1"}


def test_lists_and_tables_can_be_given_as_text(tmp_path):
    flags = {"hypervisors": "qemu, fake", "labels": "rack=1, disk=ssd", "image_cache_bytes": "1024"}
    found = load(written(tmp_path, ""), {}, flags)
    assert found.hypervisors == ("qemu", "fake")
    assert found.labels == {"rack": "1", "disk": "ssd"}
    assert found.image_cache_bytes == 1024


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('data_dri = "/x"', "unknown_setting"),
        ("data_dir = 1", "invalid_setting"),
        ("image_cache_bytes = -1", "invalid_setting"),
        ("data_dir", "unreadable_settings"),
        ('log_level = "loud"', "invalid_log_level"),
        ('metrics_listen = "nowhere"', "invalid_address"),
        ('migration_listen = "nowhere"', "invalid_address"),
    ],
)
def test_what_is_wrong_is_said_with_a_hint(tmp_path, text, code):
    with pytest.raises(InvalidInputError) as caught:
        load(written(tmp_path, text), {}, {})
    assert caught.value.code == code
    assert caught.value.hint


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InvalidInputError):
        load(tmp_path / "none.toml", {}, {})


def test_without_a_named_file_the_local_one_overrides_that_of_the_system(tmp_path, monkeypatch):
    (tmp_path / "system.toml").write_text('region = "system"\nzone = "z1"\n')
    (tmp_path / "local.toml").write_text('region = "local"\n')
    monkeypatch.setattr(settings, "SYSTEM_FILE", tmp_path / "system.toml")
    monkeypatch.setattr(settings, "LOCAL_FILE", tmp_path / "local.toml")
    found = load(None, {}, {})
    assert (found.region, found.zone) == ("local", "z1")
    named = load(written(tmp_path, 'zone = "z2"'), {}, {})
    assert (named.region, named.zone) == ("", "z2")


def test_sockets_have_a_short_path_of_their_own_per_data_directory():
    long = load(None, {}, {"data_dir": "/var/" + "x" * 200})
    other = load(None, {}, {"data_dir": "/var/y"})
    assert long.run != other.run
    assert len(str(long.run)) < 60
    assert load(None, {}, {"run_dir": "/run/mine"}).run == Path("/run/mine")


def test_the_join_string_is_no_flag_because_everybody_could_read_it(capsys):
    with pytest.raises(SystemExit):
        read_settings(["--join", "nacre-join-secret"])
    assert "unrecognized arguments" in capsys.readouterr().err
