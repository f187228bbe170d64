import stat
import tomllib
from pathlib import Path

import pytest

from nacre.cli import profile
from nacre.cli.profile import Context, Profile
from nacre.errors import InvalidInputError, NotFoundError

AWKWARD = 'q"uote\\back\nline\ttab\x7fdel ü 😀'


def test_only_the_owner_can_read_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "nacre" / "config.toml"
    profile.save(path, Profile().put("local", Context(url="http://x", token="t")))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["config.toml"]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    written = Profile().put("a.b", Context(url="http://x", token=AWKWARD)).put("c", Context(url="u", token="", ca="f"))
    profile.save(path, written)
    assert profile.load(path) == written


def test_the_file_is_plain_toml() -> None:
    text = profile.render(Profile().put("local", Context(url="http://x", token="t", project="shop")))
    assert tomllib.loads(text)["contexts"]["local"] == {"url": "http://x", "token": "t", "project": "shop"}


def test_no_file_is_an_empty_profile(tmp_path: Path) -> None:
    assert profile.load(tmp_path / "none") == Profile()


@pytest.mark.parametrize("text", ["current =", "strange = 1", "[contexts.a]\nurl = 3\ntoken = 'x'", "\x00"])
def test_a_damaged_file_is_said_to_be_that(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=r"config\.toml"):
        profile.load(path)


def test_the_current_context_is_forgotten_with_its_context() -> None:
    known = Profile().put("a", Context(url="u", token="t")).put("b", Context(url="u", token="t"))
    assert known.without("b").current == ""
    assert known.without("a").current == "b"
    with pytest.raises(NotFoundError):
        known.use("c")


def test_one_variable_says_where_the_file_is(tmp_path: Path) -> None:
    assert profile.location({"NACRE_CONFIG": "/x/y.toml", "HOME": "/h"}) == Path("/x/y.toml")
    assert profile.location({"HOME": "/h"}) == Path("/h/.config/nacre/config.toml")
    assert profile.location({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == Path("/c/nacre/config.toml")
