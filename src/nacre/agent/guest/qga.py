"""A client of the agent inside a guest: QEMU's guest agent protocol over the machine's channel.

JSON lines, one answer per command and no greeting. Nothing says which command an answer belongs to, so after anything
that went wrong both sides agree anew (`guest-sync-delimited`): what came before the byte 0xFF belongs to nobody.
The guest belongs to somebody else, who may lie or flood: everything that is read is bounded in size and in time.
https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Mapping
from typing import cast

from nacre.agent.hypervisors.doors import Door
from nacre.errors import ConflictError, NacreError, UnavailableError, UnsupportedError

ANSWER_S = 5.0
ANSWER_BYTES = 1 << 20
DISCARD_BYTES = 8 << 20
"""How much that belongs to nobody is read before a guest counts as flooding."""
_READ = 64 << 10
_DELIMITER = b"\xff"
_REFUSAL_S = 1.0
_MISSING = frozenset({"CommandNotFound", "CommandDisabled"})


class GuestAgent:
    """The agent of one guest. Commands go one after the other; each opens the channel if it is not open."""

    def __init__(self, door: Door) -> None:
        self.still = asyncio.Lock()
        """Held by who keeps the guest's file systems frozen: one at a time, or one would thaw what another holds."""
        self._door = door
        self._busy = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._buffer = bytearray()
        self._agreed = False

    async def ask(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float = ANSWER_S,
        most: int = ANSWER_BYTES,
    ) -> object:
        """Return what the agent answers, in `timeout` seconds all in all. Raises NacreError.

        An error that comes late says nothing about whether the command was carried out.
        """
        try:
            async with asyncio.timeout(timeout), self._busy:
                return await self._asked(command, arguments, most)
        except TimeoutError as error:
            raise silent() from error

    async def tell(self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float) -> None:
        """Give a command that has no answer when it succeeds, such as a shutdown. Raises NacreError if refused."""
        try:
            async with asyncio.timeout(timeout), self._busy:
                await self._agree()
                self._agreed = False
                await self._send(command, arguments)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REFUSAL_S):
                        _result(command, await self._line(ANSWER_BYTES))
        except TimeoutError as error:
            raise silent() from error
        except UnavailableError:
            if not self._agreed and self._writer is None:
                return  # the guest hung up: it leaves already
            raise

    def close(self) -> None:
        """Let go of the channel."""
        self._drop()

    async def _asked(self, command: str, arguments: Mapping[str, object] | None, most: int) -> object:
        await self._agree()
        self._agreed = False  # until the answer has come
        await self._send(command, arguments)
        answer = await self._line(most)
        self._agreed = True
        return _result(command, answer)

    async def _agree(self) -> None:
        """Make sure that the next answer is the answer to the next command."""
        if self._writer is None:
            await self._open()
        if self._agreed and not self._buffer:
            return
        number = secrets.randbelow(1 << 31)
        self._buffer.clear()
        await self._send("guest-sync-delimited", {"id": number}, lead=_DELIMITER)
        left = DISCARD_BYTES
        while True:
            left -= await self._skip_to_delimiter(left)
            if _says(await self._line(ANSWER_BYTES), number):
                self._agreed = True
                return

    async def _open(self) -> None:
        try:
            self._reader, self._writer = await self._door.open()
        except OSError as error:
            raise silent() from error
        self._buffer.clear()
        self._agreed = False

    async def _send(self, command: str, arguments: Mapping[str, object] | None, lead: bytes = b"") -> None:
        assert self._writer is not None
        message: dict[str, object] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        try:
            self._writer.write(lead + json.dumps(message).encode() + b"\n")
            await self._writer.drain()
        except OSError as error:
            self._drop()
            raise silent() from error

    async def _skip_to_delimiter(self, most: int) -> int:
        skipped = 0
        while True:
            place = self._buffer.find(_DELIMITER)
            if place >= 0:
                del self._buffer[: place + 1]
                return skipped + place + 1
            skipped += len(self._buffer)
            self._buffer.clear()
            if skipped > most:
                self._drop()
                raise garbled("it sends without end")
            await self._read()

    async def _line(self, most: int) -> bytes:
        searched = 0
        while True:
            place = self._buffer.find(b"\n", searched)
            if place >= 0:
                line = bytes(self._buffer[:place])
                del self._buffer[: place + 1]
                return line
            searched = len(self._buffer)
            if searched > most:
                self._drop()
                raise garbled("an answer of it is too long")
            await self._read()

    async def _read(self) -> None:
        assert self._reader is not None
        try:
            data = await self._reader.read(_READ)
        except OSError as error:
            self._drop()
            raise silent() from error
        if not data:
            self._drop()
            raise silent()
        self._buffer += data

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
        self._agreed = False


def _says(line: bytes, number: int) -> bool:
    """Whether this is the answer to the sync with this number; an older one is skipped."""
    with contextlib.suppress(ValueError, RecursionError):
        found: object = json.loads(line)
        return isinstance(found, dict) and cast("dict[str, object]", found).get("return") == number
    return False


def _result(command: str, line: bytes) -> object:
    try:
        answer: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise garbled("an answer of it is no JSON") from error
    if isinstance(answer, dict):
        fields = cast("dict[str, object]", answer)
        if "return" in fields:
            return fields["return"]
        failure = fields.get("error")
        if isinstance(failure, dict):
            raise _refusal(command, cast("dict[str, object]", failure))
    raise garbled("an answer of it is neither a result nor an error")


def _refusal(command: str, failure: Mapping[str, object]) -> NacreError:
    kind, said = str(failure.get("class", ""))[:60], plain(str(failure.get("desc", "")), 300)
    if kind in _MISSING:
        return UnsupportedError(
            "guest_agent_lacks_command",
            f"the agent in the guest does not offer {command}",
            hint="update qemu-guest-agent in the guest, or allow the command in its configuration",
        )
    return ConflictError(
        "guest_agent_refused",
        f"the agent in the guest refused: {said}",
        hint="look into the guest, for example with `nacre vm console`",
    )


def plain(text: str, most: int) -> str:
    """Return text of a guest so that it is harmless: printable, and not long."""
    return "".join(char if char.isprintable() else " " for char in text[:most])


def silent() -> UnavailableError:
    """No agent answers."""
    return UnavailableError(
        "guest_agent_silent",
        "no agent answers in the guest",
        hint="wait until the guest has booted; install and start qemu-guest-agent in it if there is none",
    )


def garbled(how: str) -> UnavailableError:
    """What answers is no agent, or a broken one."""
    return UnavailableError(
        "guest_agent_garbled",
        f"the agent in the guest cannot be understood: {how}",
        hint="restart qemu-guest-agent in the guest, or reboot it",
    )
