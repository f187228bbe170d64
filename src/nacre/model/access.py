"""Who may do what: roles, where they are bound, and how a token narrows its owner. Pure words; Cedar decides."""

import re
from enum import StrEnum
from fnmatch import fnmatchcase

from nacre.errors import InvalidInputError


class Role(StrEnum):
    """Each includes the ones before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    EDITOR = "editor"
    ADMIN = "admin"


PLATFORM = "platform"
"""The scope of a grant or token that is not bound to one project."""

_PATTERN = re.compile(r"^(\*|[a-z-]+):(\*|[a-z-]+)$")


def check_action_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return `patterns` if each is `noun:verb` with `*` allowed for either. Raises InvalidInputError."""
    for index, pattern in enumerate(patterns):
        if not _PATTERN.fullmatch(pattern):
            raise InvalidInputError(
                "invalid_action_pattern",
                f"{pattern!r} is not an action pattern",
                hint="write noun:verb, with * for any: vm:*, *:view, image:create",
                field=f"actions[{index}]",
            )
    return patterns


def action_allowed(patterns: tuple[str, ...], action: str) -> bool:
    """Whether a token with these patterns may be used for `action` (`vm:start`)."""
    return any(fnmatchcase(action, pattern) for pattern in patterns)
