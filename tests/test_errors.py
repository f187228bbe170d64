"""Every kind of error has words, and every kind has its place at the edges."""

import pytest

from nacre import errors
from nacre.errors import Kind, NacreError

CLASSES = [
    member
    for member in vars(errors).values()
    if isinstance(member, type) and issubclass(member, NacreError) and member is not NacreError
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_carries_a_code_a_message_and_a_hint(cls: type[NacreError]) -> None:
    error = cls("some_code", "it is wrong", hint="do this", field="a.b")
    assert (error.code, error.message, error.hint, error.field) == ("some_code", "it is wrong", "do this", "a.b")
    assert str(error) == "it is wrong"


def test_no_two_classes_share_a_kind() -> None:
    assert len({cls.kind for cls in CLASSES}) == len(CLASSES)
    assert {cls.kind for cls in CLASSES} == set(Kind) - {Kind.INTERNAL}


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    assert {cls.kind for cls in CLASSES if cls.retryable} == {Kind.EXHAUSTED, Kind.UNAVAILABLE, Kind.TIMEOUT}
