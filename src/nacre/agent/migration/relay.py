"""Bytes both ways between a hypervisor's unix socket and a connection to another agent. Used by `dial` and `listener`.

Nothing is read faster than the other side takes it, and what was read when one side ends is written before the other
one is told. Decides nothing.
"""

import asyncio

from nacre.agent.migration import frames

CHUNK = 256 << 10

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def relay(one: Ends, other: Ends) -> None:
    """Return when both directions have ended, with both connections closed.

    A side that is done is told to the other one by closing: of a machine's memory nothing comes back, and who reads
    disks asks no more. A connection that breaks closes both at once.
    """
    tasks = {
        asyncio.create_task(_pump(one[0], other[1])),
        asyncio.create_task(_pump(other[0], one[1])),
    }
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(frames.close(one[1]), frames.close(other[1]))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        return  # both sides hear of it by the end of the connection
