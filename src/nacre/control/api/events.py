"""/v1/events: the list, and the stream that follows it (server-sent events, resumable from any cursor).

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.response import Stream

from nacre.control.api.calls import Call, TheCall
from nacre.control.api.queries import ALL_PROJECTS, Params, ProjectName
from nacre.control.auth.principals import Caller
from nacre.control.request import Read, Reading
from nacre.control.services import events
from nacre.control.wake import EVENTS
from nacre.errors import InvalidInputError, UnauthenticatedError
from nacre.schema.common import DEFAULT_PAGE, MAX_PAGE, Page
from nacre.schema.events import EventOut

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
BATCH = 200
Cursor = Annotated[int, msgspec.Meta(ge=0, le=events.MAX_CURSOR)]


class EventFilters(Params, frozen=True, kw_only=True):
    """Which events are wanted."""

    after: Cursor | None = None
    """Only events behind this cursor. In a stream without it: from now on."""
    project: ProjectName | None = None
    """Name or id of a project; all that the caller may see if not given."""
    noun: str | None = None
    """Only events about this kind of object."""
    object: str | None = None
    """Only events about the object with this id, or about those that had this name then."""
    type: str | None = None
    """Only events of this type, such as `vm.started`."""


class EventPage(EventFilters, frozen=True, kw_only=True):
    """Which events are wanted, and how many."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    """How many items at most."""
    before: Cursor | None = None
    """Only events before this cursor. Without `after`, the latest of them."""
    cursor: Cursor | None = None
    """`next` of the part before."""


@get("/v1/events", opt={"action": "event:list"})
async def list_events(
    call: TheCall, request: Request[Any, Any, Any], params: NamedDependency[EventPage]
) -> Response[Page[EventOut]] | Stream:
    """List events, the oldest first. Without `after` the latest ones; with `Accept: text/event-stream`, the stream."""
    if MEDIA_TYPE in request.headers.get("accept", ""):
        return await _stream(call, request, params)
    after = params.cursor if params.cursor is not None else params.after
    found = await call.context.read(_reading(params, after=after, before=params.before, limit=params.limit))
    more = after is not None and len(found) == params.limit
    return Response(Page(items=found, next=str(found[-1].cursor) if more else None))


@get("/v1/events/stream", opt={"action": "event:list", "produces": MEDIA_TYPE})
async def stream_events(
    call: TheCall, request: Request[Any, Any, Any], params: NamedDependency[EventFilters]
) -> Stream:
    """Follow events as they happen. `id` is the cursor: `Last-Event-ID` or `after` resumes without a gap."""
    return await _stream(call, request, params)


async def _stream(call: Call, request: Request[Any, Any, Any], params: EventFilters) -> Stream:
    """Begin a stream. What can be refused is refused here, while there still is a status to say it with."""
    after = _resume_from(request, params)
    allowed = _reading(params, after=events.MAX_CURSOR, limit=1)

    async def begin(rd: Read, caller: Caller) -> int:
        await allowed(rd, caller)
        return await events.latest(rd) if after is None else after

    cursor = await call.context.read(begin)
    lines = _follow(call, cursor, params)
    return Stream(lines, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})


async def _follow(call: Call, cursor: int, params: EventFilters) -> AsyncGenerator[bytes]:
    """Yield events for ever. Ends when the program stops or the token is no longer good: the client comes back."""
    requests = call.parts.requests
    with requests.db.wakes.listen(EVENTS) as bell:
        yield b": these are events\n\n"
        while not requests.stopping.is_set():
            found = await call.context.read(_reading(params, after=cursor, limit=BATCH))
            for event in found:
                cursor = event.cursor
                yield _encode(event)
            if len(found) == BATCH or await bell.wait(HEARTBEAT_S):
                continue
            yield b": still here\n\n"
            try:
                await call.refresh()
            except UnauthenticatedError:
                return


def _encode(event: EventOut) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (event.cursor, msgspec.json.encode(event))


def _resume_from(request: Request[Any, Any, Any], params: EventFilters) -> int | None:
    last = request.headers.get("last-event-id")
    if last is None:
        return params.after
    if not last.isascii() or not last.isdigit() or int(last) > events.MAX_CURSOR:
        raise InvalidInputError(
            "invalid_cursor",
            f"Last-Event-ID {last[:40]!r} is not a cursor",
            hint="send the id of the last event that was received",
            field="Last-Event-ID",
        )
    return int(last)


def _reading(
    params: EventFilters, *, after: int | None, before: int | None = None, limit: int
) -> Reading[list[EventOut]]:
    async def read(rd: Read, caller: Caller) -> list[EventOut]:
        return await events.list_events(
            rd,
            caller,
            after=after,
            before=before,
            limit=limit,
            noun=params.noun,
            object=params.object,
            type=params.type,
            project=None if params.project == ALL_PROJECTS else params.project,
        )

    return read


ROUTES = (list_events, stream_events)
