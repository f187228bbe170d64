"""The join string survives the trip, and a bad one is refused without being repeated."""

import base64

import pytest

from nacre.errors import InvalidInputError
from nacre.protocol import join

GOOD = join.Join(gateway="cloud.example:7481, [::1]:7481", ca="ab" * 32, secret="hunter2")


def test_a_join_string_survives_the_trip() -> None:
    text = join.encode(GOOD)
    assert text.startswith("nacre-join-")
    assert join.decode(f"  {text}\n") == GOOD
    assert GOOD.gateways == ("cloud.example:7481", "[::1]:7481")


def test_a_join_string_hides_its_secret_when_shown() -> None:
    assert "hunter2" not in repr(GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nacre-join-",
        "nacre-join-%%%",
        "nacre-join-ünicode",
        join.encode(GOOD)[:-9],
        join.encode(GOOD).removeprefix("nacre-join-"),
        "nacre-join-" + base64.urlsafe_b64encode(b'{"gateway": "hunter2:1"}').decode(),
        join.encode(join.Join(gateway="a:1", ca="ab", secret="hunter2")),
        join.encode(join.Join(gateway=",", ca="ab" * 32, secret="hunter2")),
    ],
)
def test_a_bad_join_string_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        join.decode(text)
    assert refused.value.code == "invalid_join"
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
