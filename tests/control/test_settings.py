"""Settings: a file, then the environment, then flags; a mistake is named."""

from pathlib import Path

import pytest

from nacre.control.settings import Settings, load
from nacre.errors import InvalidInputError


def refused(path: Path | None = None, environment: dict[str, str] | None = None, **flags: str) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as error:
        load(path, environment or {}, {"data_dir": "/d", **flags})
    assert error.value.hint
    return error.value


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "control.toml"
    file.write_text('data_dir = "/file"\nlisten = "127.0.0.1:1"\nheartbeat_s = 2\nimage_roots = ["/a", "/b"]\n')
    environment = {"NACRE_CONTROL_LISTEN": "127.0.0.1:2", "NACRE_CONTROL_HEARTBEAT_S": "3", "OTHER": "x"}
    settings = load(file, environment, {"listen": "127.0.0.1:3"})
    assert settings.data_dir == "/file"
    assert settings.listen == "127.0.0.1:3"
    assert settings.heartbeat_s == 3.0
    assert settings.image_roots == ("/a", "/b")


def test_lists_are_written_with_commas_outside_of_the_file() -> None:
    settings = load(None, {"NACRE_CONTROL_FETCH_ALLOW": "10.0.0.0/8,fd00::/8"}, {"data_dir": "/d", "image_roots": "/a"})
    assert settings.fetch_allow == ("10.0.0.0/8", "fd00::/8")
    assert settings.image_roots == ("/a",)


def test_what_is_not_set_follows_from_the_data_directory() -> None:
    settings = load(None, {}, {"data_dir": "/d"})
    assert settings.database_url == "sqlite:////d/nacre.db"
    assert settings.claim_path == Path("/d/claim")
    assert settings.gateway_address == settings.gateway_listen
    assert settings.join_address == settings.gateway_listen


def test_join_strings_may_list_the_gateways_of_all_replicas() -> None:
    settings = load(None, {}, {"data_dir": "/d", "join_gateways": "a:7481,b:7481", "gateway_advertise": "a:7481"})
    assert settings.join_address == "a:7481,b:7481"


def test_an_unknown_setting_is_refused_with_the_right_spelling(tmp_path: Path) -> None:
    file = tmp_path / "control.toml"
    file.write_text('lissten = "x"\n')
    error = refused(file)
    assert (error.code, error.field, error.hint) == ("unknown_setting", "lissten", "did you mean listen?")
    assert refused(environment={"NACRE_CONTROL_COLOUR": "x"}).field == "colour"


def test_a_data_directory_is_needed() -> None:
    with pytest.raises(InvalidInputError, match="data_dir"):
        load(None, {}, {})


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"heartbeat_s": "six"}, "invalid_setting"),
        ({"heartbeat_s": "0"}, "invalid_setting"),
        ({"heartbeat_s": "10"}, "offline_too_early"),
        ({"lease_s": "15"}, "lease_too_short"),
        ({"renew_s": "7.1"}, "lease_too_short"),
        ({"failover_per_s": "0"}, "invalid_setting"),
        ({"failover_max_share": "1.1"}, "invalid_setting"),
        ({"listen": "7480"}, "invalid_address"),
        ({"listen": ":7480"}, "invalid_address"),
        ({"listen": "127.0.0.1:99999"}, "invalid_address"),
        ({"gateway_advertise": "here"}, "invalid_address"),
        ({"join_gateways": "a:1,b"}, "invalid_address"),
        ({"fetch_allow": "10.0.0.1/8"}, "invalid_network"),
        ({"api_url": "cloud.example"}, "invalid_url"),
        ({"api_url": "https://cloud.example/"}, "invalid_url"),
        ({"api_url": "http://x'; id; '"}, "invalid_url"),
        ({"ca_key_file": "/key"}, "half_a_root"),
        ({"log_level": "loud"}, "invalid_log_level"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(flags: dict[str, str], code: str) -> None:
    assert refused(**flags).code == code


@pytest.mark.parametrize("url", ["https://cloud.example", "http://10.0.0.1:7480", "http://[::1]:7480/nacre"])
def test_the_address_of_the_api_may_be_set(url: str) -> None:
    assert load(None, {}, {"data_dir": "/d", "api_url": url}).api_url == url


def test_a_file_that_is_not_there_or_not_toml_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing").code == "unreadable_settings"
    bad = tmp_path / "bad.toml"
    bad.write_text("listen: x\n")
    assert refused(bad).code == "unreadable_settings"


def test_every_setting_can_be_given_as_text() -> None:
    for name in Settings.__struct_fields__:
        assert name == name.lower()
