"""The socket on which a running simulation takes orders: one line each, answered with one line of JSON.

status              how many nodes there are, joined, linked, silent and off
silence K|NAME...   nodes fall silent without hanging up, as if they froze: K of them by chance, or those named
kill K|NAME...      nodes lose their power, and their machines with it
resume [NAME...]    silent nodes speak again, killed ones start; without names, all of them
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

from nacre.errors import InvalidInputError, NacreError

VERBS = ("status", "silence", "kill", "resume")
Answer = dict[str, object]
Obey = Callable[[str, Sequence[str]], Answer]


@contextlib.asynccontextmanager
async def taken(socket: Path, obey: Obey) -> AsyncGenerator[None]:
    """Listen until the block ends. `obey` raises NacreError for what cannot be done."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.LimitOverrunError, ValueError):
            while line := await reader.readline():
                writer.write(json.dumps(_obeyed(line.decode(errors="replace"), obey)).encode() + b"\n")
                await writer.drain()
        writer.close()

    await asyncio.to_thread(socket.unlink, missing_ok=True)
    server = await asyncio.start_unix_server(talk, socket)
    try:
        yield
    finally:
        server.close()
        await asyncio.to_thread(socket.unlink, missing_ok=True)


def _obeyed(line: str, obey: Obey) -> Answer:
    verb, *words = line.split() or [""]
    try:
        if verb not in VERBS:
            raise InvalidInputError(
                "unknown_order", f"{verb!r} is not an order", hint=f"orders are: {', '.join(VERBS)}"
            )
        return {"ok": True, **obey(verb, words)}
    except NacreError as error:
        return {"ok": False, "code": error.code, "message": error.message, "hint": error.hint}
