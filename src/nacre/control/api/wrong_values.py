"""What msgspec says of a value that is not what its type asks for, in words that say what would be right.

Used for bodies and query parameters. Pure: from a message and a type.
"""

import re
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

_CHOICE = re.compile(r"^Invalid enum value (?P<value>.*)$", re.DOTALL)
_PATTERN = re.compile(r"^Expected `str` matching regex ")
_EXPECTS = "expects"
"""Where the words for a pattern are: `Meta(pattern=…, extra={"expects": …})`."""
_LONGEST = 80


def said(message: str, kind: Any) -> tuple[str, str | None]:
    """Return what is wrong with a value that should have been a `kind`, and what would be right if that is known."""
    if choice := _CHOICE.match(message):
        return f"{choice['value'][:_LONGEST]} is none of its values", f"one of: {', '.join(choices(kind))}"
    if _PATTERN.match(message):
        words = expected(kind)
        return f"expected {words or 'another form'}", None
    return f"{message[:1].lower()}{message[1:]}", None


def choices(kind: Any) -> list[str]:
    """Return the values of a type that has few."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(one.value) for one in kind]
    origin = get_origin(kind)
    if origin is Literal:
        return [str(one) for one in get_args(kind)]
    if origin is Annotated:
        return choices(get_args(kind)[0])
    if origin in {Union, UnionType}:
        return [value for part in get_args(kind) for value in choices(part)]
    return []


def expected(kind: Any) -> str:
    """Return the words for the form that a text has to have; empty if there are none."""
    if get_origin(kind) is Annotated:
        of, *metas = get_args(kind)
        told = [(one.extra or {}).get(_EXPECTS, "") for one in metas if isinstance(one, msgspec.Meta)]
        return next((words for words in told if words), "") or expected(of)
    if get_origin(kind) in {Union, UnionType}:
        return next((words for part in get_args(kind) if (words := expected(part))), "")
    return ""
