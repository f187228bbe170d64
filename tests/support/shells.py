"""The shell on a guest's console: a command in, what it prints out."""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from support.patience import within

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
Look = Callable[[], Awaitable[str]]


class Shell:
    """One connection to a console with a shell at its end. One at a time per guest."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, look: Look | None = None) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._look = look

    @classmethod
    async def open(cls, console: Path, look: Look | None = None) -> Self:
        """Connect, and have the terminal neither echo nor wrap. `look` says how a guest is that does not answer."""
        shell = cls(*await asyncio.open_unix_connection(console), look)
        await shell.run("stty -echo cols 1000")
        return shell

    async def run(self, command: str, timeout: float = 90) -> str:
        """Return what a command prints."""
        number = next(self._numbers)
        # Written in two parts, so that an echo of the command is no end of its output.
        self._writer.write(f"\necho be''gin{number}; {command}; echo e''nd{number}\n".encode())
        seen = ""
        try:
            async with within(timeout):
                while f"end{number}" not in seen:
                    data = await self._reader.read(65536)
                    assert data, f"the console has ended: {seen}"
                    seen += data.decode(errors="replace")
        except TimeoutError:
            how = "" if self._look is None else await self._look()
            raise AssertionError(f"no end of {command!r} ({number}) in {timeout:g} s: {seen!r}\n{how}") from None
        inside = seen.partition(f"begin{number}")[2].partition(f"end{number}")[0]
        return _ESCAPES.sub("", inside).replace("\r", "").strip()

    async def until(self, command: str, expected: str, timeout: float = 90) -> str:
        """Run a command until it prints something."""
        async with within(timeout):
            while expected not in (printed := await self.run(command)):
                await asyncio.sleep(0.2)
        return printed

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
