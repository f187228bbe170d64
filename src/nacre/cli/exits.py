"""Exit codes, and how an error looks on a terminal: one line, and one with a hint. The only place that knows both."""

import sys

from nacre.errors import Kind, NacreError

OK = 0
ERROR = 1
USAGE = 2
NOT_FOUND = 3
DENIED = 4
CONFLICT = 5
TIMEOUT = 6
UNREACHABLE = 7
INTERRUPTED = 130
KILLED = 128
"""Plus the number of the signal, as shells say it."""

PROJECT_NOT_FOUND = "project_not_found"

DOCUMENTED = (
    "Exit codes: 0 ok, 1 error, 2 wrong usage or input, 3 not found, 4 denied or not logged in, "
    "5 conflict or precondition, 6 timeout, 7 unreachable."
)

_BY_KIND: dict[Kind, int] = {
    Kind.INVALID: USAGE,
    Kind.UNAUTHENTICATED: DENIED,
    Kind.FORBIDDEN: DENIED,
    Kind.NOT_FOUND: NOT_FOUND,
    Kind.CONFLICT: CONFLICT,
    Kind.PRECONDITION: CONFLICT,
    Kind.TIMEOUT: TIMEOUT,
    Kind.UNAVAILABLE: UNREACHABLE,
}


def code_of(error: NacreError) -> int:
    """Return the exit code that stands for an error."""
    return _BY_KIND.get(error.kind, ERROR)


def report(error: NacreError, *, about: str = "") -> None:
    """Say on stderr what is wrong and what to do about it."""
    lead = f"{about}: " if about else ""
    complain(f"{lead}{one_line(error.message)}", hint=one_line(_hint(error)))


def _hint(error: NacreError) -> str:
    """What to do about an error; more than the server knows where it is about what nobody has typed."""
    if error.code == PROJECT_NOT_FOUND and error.message.endswith(" default"):
        return f"{error.hint}; say --project NAME, or once and for all: nacre context use CONTEXT --project NAME"
    return error.hint


def complain(message: str, *, hint: str = "") -> None:
    """Say on stderr that something failed."""
    print(f"nacre: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def note(message: str) -> None:
    """Say something on stderr that is not a result."""
    print(message, file=sys.stderr)


def one_line(text: str) -> str:
    """Return text from elsewhere so that it cannot steer the terminal and stays on its line."""
    return "".join(char if char.isprintable() else " " for char in text)
