"""The shell on a guest's console: a command in, what it prints out."""

import asyncio
import itertools
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from websockets.sync.client import connect

from support.platform import Platform, eventually

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shell:
    """One connection to a console with a shell at its end. One at a time per guest."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()

    @classmethod
    async def open(cls, console: Path) -> Self:
        """Connect, and have the terminal neither echo nor wrap."""
        shell = cls(*await asyncio.open_unix_connection(console))
        await shell.run("stty -echo cols 1000")
        return shell

    async def run(self, command: str, timeout: float = 90) -> str:
        """Return what a command prints."""
        number = next(self._numbers)
        # Written in two parts, so that an echo of the command is no end of its output.
        self._writer.write(f"\necho be''gin{number}; {command}; echo e''nd{number}\n".encode())
        seen = ""
        async with asyncio.timeout(timeout):
            while f"end{number}" not in seen:
                data = await self._reader.read(65536)
                assert data, f"the console has ended: {seen}"
                seen += data.decode(errors="replace")
        inside = seen.partition(f"begin{number}")[2].partition(f"end{number}")[0]
        return _ESCAPES.sub("", inside).replace("\r", "").strip()

    async def until(self, command: str, expected: str, timeout: float = 90) -> str:
        """Run a command until it prints something."""
        async with asyncio.timeout(timeout):
            while expected not in (printed := await self.run(command)):
                await asyncio.sleep(0.2)
        return printed

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


class Console:
    """A shell in a guest, through the API."""

    def __init__(self, cloud: Platform, vm: str) -> None:
        url = cloud.url.replace("http", "ws") + f"/v1/vms/{vm}/console"
        self._open = ExitStack()
        headers = {"Authorization": f"Bearer {cloud.token}"}
        self._socket = self._open.enter_context(connect(url, additional_headers=headers))
        self._number = 0

    def run(self, command: str) -> str:
        """What a command prints."""
        self._number += 1
        self._socket.send(f"\necho be''gin{self._number}; {command}; echo e''nd{self._number}\n".encode())
        seen = ""
        while f"end{self._number}" not in seen:
            data = self._socket.recv(timeout=60)
            seen += data if isinstance(data, str) else data.decode(errors="replace")
        return seen.partition(f"begin{self._number}")[2].partition(f"end{self._number}")[0].strip()

    def until(self, command: str, expected: str) -> str:
        """Run a command until it prints something."""
        return str(eventually(lambda: expected in (said := self.run(command)) and said, what=command))

    def close(self) -> None:
        """Hang up."""
        self._open.close()
