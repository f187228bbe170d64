"""Where a join string comes from: the settings, standard input, or a file that may be written later. Used by `main`."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from nacre.agent.settings import Settings
from nacre.protocol import join
from nacre.protocol.join import Join

FROM_STDIN = "-"
_POLL_S = 0.2

log = structlog.get_logger()


async def join_of(settings: Settings, enrolled: Callable[[], bool]) -> Join | None:
    """Return the join string that the settings give; waits for its file only while nothing is `enrolled`."""
    if settings.join:
        return join.decode(settings.join)
    if not settings.join_file:
        return None
    if settings.join_file == FROM_STDIN:
        return join.decode(await asyncio.to_thread(sys.stdin.readline))
    path = Path(settings.join_file)
    waited = False
    while not await asyncio.to_thread(path.exists):
        if enrolled():
            return None
        if not waited:
            waited = True
            log.info("join.awaited", file=str(path))
        await asyncio.sleep(_POLL_S)
    return join.decode(await asyncio.to_thread(path.read_text))
