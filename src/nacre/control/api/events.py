"""/v1/events: the list, and the stream that follows it (server-sent events, resumable from any cursor).

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.response import Stream

from nacre.control.api.access import bearer
from nacre.control.api.calls import Call, TheCall
from nacre.control.api.queries import ALL_PROJECTS, Params
from nacre.control.services import events
from nacre.control.wake import EVENTS
from nacre.errors import InvalidInputError, NacreError
from nacre.schema.common import DEFAULT_PAGE, MAX_PAGE, Page
from nacre.schema.events import EventOut

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
BATCH = 200
MAX_CURSOR = (1 << 63) - 1
Cursor = Annotated[int, msgspec.Meta(ge=0, le=MAX_CURSOR)]


class EventFilters(Params, frozen=True, kw_only=True):
    """Which events are wanted."""

    after: Cursor | None = None
    """Only events behind this cursor. In a stream without it: from now on."""
    project: str | None = None
    """Name or id of a project; all that the caller may see if not given."""
    noun: str | None = None
    """Only events about this kind of object."""
    object: str | None = None
    """Only events about the object with this id."""
    type: str | None = None
    """Only events of this type, such as `vm.started`."""


class EventPage(EventFilters, frozen=True, kw_only=True):
    """Which events are wanted, and how many."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    """How many items at most."""
    before: Cursor | None = None
    """Only events before this cursor, the newest first."""
    cursor: str | None = None
    """`next` of the part before."""
    sort: str | None = None


@get("/v1/events", opt={"action": "event:list"})
async def list_events(
    call: TheCall, request: Request[Any, Any, Any], params: NamedDependency[EventPage]
) -> Response[Page[EventOut]] | Stream:
    """List events, the oldest first. With `Accept: text/event-stream` this is the stream."""
    if MEDIA_TYPE in request.headers.get("accept", ""):
        return await _stream(call, request, params)
    raise NotImplementedError


@get("/v1/events/stream", opt={"action": "event:list", "produces": MEDIA_TYPE})
async def stream_events(
    call: TheCall, request: Request[Any, Any, Any], params: NamedDependency[EventFilters]
) -> Stream:
    """Follow events as they happen. `id` is the cursor: `Last-Event-ID` or `after` resumes without a gap."""
    return await _stream(call, request, params)


ROUTES = (list_events, stream_events)
