"""What a run of the command line in this process leaves behind. The fixtures are in tests/cli/conftest.py."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """Exit code and output of one command."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]
