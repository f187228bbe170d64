"""Settings out of files, variables and flags, for any program."""

from pathlib import Path

import msgspec
import pytest

from nacre.errors import InvalidInputError
from nacre.lib import configuration
from nacre.lib.configuration import check_log_level, listed, split_address


class Kitchen(msgspec.Struct, kw_only=True):
    """The settings of a program that cooks."""

    dish: str
    guests: int = 1
    courses: tuple[str, ...] = ()


def load(*files: Path, environment: dict[str, str] | None = None, **flags: str) -> Kitchen:
    return configuration.load(
        Kitchen,
        files=files,
        environment=environment or {},
        prefix="COOK_",
        flags=flags,
        parse=lambda name, text: listed(text) if name == "courses" else text,
        example='dish = "soup"',
    )


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_later_files_win_then_variables_then_flags(tmp_path: Path) -> None:
    first = written(tmp_path / "a.toml", 'dish = "a"\nguests = 1\ncourses = ["x"]\n')
    second = written(tmp_path / "b.toml", 'dish = "b"\nguests = 2\n')
    made = load(first, second, environment={"COOK_DISH": "c", "COOK_GUESTS": "3", "DISH": "z"}, dish="d")
    assert (made.dish, made.guests, made.courses) == ("d", 3, ("x",))


def test_text_is_parsed_by_name() -> None:
    assert load(dish="a, b", courses="a, b,").courses == ("a", "b")
    assert load(dish="a, b").dish == "a, b"


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("dich = 1", "unknown_setting", "did you mean dish?"),
        ("xyz = 1", "unknown_setting", "settings are: dish, guests, courses"),
        ("guests = 1", "invalid_setting", "see the configuration reference for names and types"),
        ("dish", "unreadable_settings", 'write lines such as dish = "soup"'),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, code: str, hint: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        load(written(tmp_path / "a.toml", text))
    assert (error.value.code, error.value.hint) == (code, hint)


def test_a_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nothing\.toml"):
        load(tmp_path / "nothing.toml")


def test_addresses_of_both_families_are_split() -> None:
    assert split_address("127.0.0.1:7480", field="listen") == ("127.0.0.1", 7480)
    assert split_address("[::1]:7480", field="listen") == ("::1", 7480)
    for wrong in ("7480", ":7480", "host:", "host:70000", "host:٣"):
        with pytest.raises(InvalidInputError) as error:
            split_address(wrong, field="listen")
        assert error.value.field == "listen"


def test_only_known_log_levels_are_taken() -> None:
    check_log_level("debug")
    with pytest.raises(InvalidInputError):
        check_log_level("loud")
