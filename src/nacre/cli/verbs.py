"""One verb on several objects: all are tried, every failure is told, and the first decides the exit code.

Used by the noun files. Also asks before what cannot be undone.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from nacre.cli import exits
from nacre.cli.session import Session
from nacre.errors import InvalidInputError, NacreError

T = TypeVar("T")

AT_ONCE = 8


class FailuresToldError(NacreError):
    """Some objects failed and the terminal has said so already. Carries the exit code."""

    def __init__(self, first: NacreError) -> None:
        super().__init__(first.code, first.message, hint=first.hint)
        self.exit_code = exits.code_of(first)


async def on_each(refs: Sequence[str], act: Callable[[str], Awaitable[T]]) -> tuple[list[T], NacreError | None]:
    """Return what `act` gave for each of `refs`, in order, and the first failure. All failures are reported."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(ref: str) -> T | NacreError:
        async with gate:
            try:
                return await act(ref)
            except NacreError as error:
                return error

    answers = await asyncio.gather(*(one(ref) for ref in refs))
    done: list[T] = []
    first: NacreError | None = None
    for ref, answer in zip(refs, answers, strict=True):
        if isinstance(answer, NacreError):
            exits.report(answer, about=ref if len(refs) > 1 else "")
            first = first or answer
        else:
            done.append(answer)
    return done, first


def finish(first: NacreError | None) -> None:
    """Raise what makes the exit code of a failure that was reported."""
    if first is not None:
        raise FailuresToldError(first)


def confirm(session: Session, question: str, *, yes: bool) -> None:
    """Return if the user agrees. Where nobody can be asked only `--yes` agrees. Raises InvalidInputError."""
    if yes:
        return
    if not session.interactive:
        raise InvalidInputError(
            "not_confirmed", f"nobody is here to be asked: {question}", hint="say --yes if that is meant"
        )
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if input().strip().lower() not in {"y", "yes"}:
        raise InvalidInputError("not_confirmed", "nothing was changed", hint="answer y, or say --yes")
