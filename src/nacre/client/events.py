"""Events through the API: the list, and a stream that goes on where it broke off."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx2
import msgspec

from nacre.client import problems
from nacre.client.collection import EVERYTHING, Collection, Query
from nacre.client.transport import Params, Transport
from nacre.errors import NacreError
from nacre.schema.common import DEFAULT_PAGE, MAX_PAGE, Page
from nacre.schema.events import EventOut

MAX_CURSOR = (1 << 63) - 1
SILENCE_S = 60.0
"""A stream that says nothing for so long, not even a comment, is taken for dead and opened anew."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0

Gap = Callable[[NacreError], None]
"""Told why the stream broke, each time, before it is opened again."""


def _quiet(_: NacreError) -> None:
    """Tell nobody."""


class Events(Collection[EventOut]):
    """`/v1/events`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/events", EventOut, Page[EventOut])

    async def latest(self, query: Query = EVERYTHING) -> list[EventOut]:
        """Return the newest events that match, the oldest of them first. `limit` of the query says how many."""
        left, before, found = query.limit or DEFAULT_PAGE, MAX_CURSOR, list[EventOut]()
        while left > 0:
            params = [*query.params(), ("before", str(before)), ("limit", str(min(left, MAX_PAGE)))]
            page = await self._transport.read(self._path, self._page, params=params)
            if not page.items:
                break
            found += sorted(page.items, key=lambda event: -event.cursor)
            before, left = found[-1].cursor, left - len(page.items)
        return found[::-1]

    async def since(self, after: int, query: Query = EVERYTHING) -> list[EventOut]:
        """Return the events after a cursor, the oldest first, at most `limit` of the query."""
        left, found = query.limit or DEFAULT_PAGE, list[EventOut]()
        while left > 0:
            params = [*query.params(), ("after", str(after)), ("limit", str(min(left, MAX_PAGE)))]
            page = await self._transport.read(self._path, self._page, params=params)
            if not page.items:
                break
            found += page.items
            after, left = found[-1].cursor, left - len(page.items)
        return found

    async def follow(
        self, query: Query = EVERYTHING, *, after: int | None = None, gap: Gap = _quiet
    ) -> AsyncIterator[EventOut]:
        """Yield events as they happen, each once and in order, for ever.

        `after` is the cursor of the last event already known; without it the stream starts now. A lost connection is
        opened again from the last event; an answer that says no (401, 404) is raised.
        """
        pause = FIRST_PAUSE_S
        while True:
            try:
                async for event in self._stream(query.params(), after):
                    pause = FIRST_PAUSE_S
                    if after is None or event.cursor > after:
                        after = event.cursor
                        yield event
                failure = problems.unreachable(self._transport.url, "the stream ended")
            except NacreError as error:
                if not error.retryable:
                    raise
                failure = error
            gap(failure)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _stream(self, params: Params, after: int | None) -> AsyncIterator[EventOut]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        async with self._transport.open_stream(
            self._path, params=params, headers=headers, silence_s=SILENCE_S
        ) as response:
            async for message in httpx2.EventSource(response):
                if not message.data:
                    continue
                try:
                    yield msgspec.json.decode(message.data, type=EventOut)
                except msgspec.MsgspecError as error:
                    raise problems.undecodable(self._transport.url, error) from error
