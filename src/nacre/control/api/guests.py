"""What a machine shows of itself while it runs: its screen (WebSocket), and what it uses (JSON, server-sent events).

All of it comes from the machine's node when it is asked for; nothing of it is in the database.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Response, get, websocket
from litestar.background_tasks import BackgroundTask
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream as Streamed

from nacre.control.api import sockets
from nacre.control.api.access import query_of
from nacre.control.api.calls import OK, Call, TheCall
from nacre.control.api.events import MEDIA_TYPE
from nacre.control.api.parts import Stream
from nacre.control.api.queries import InProject, parse
from nacre.control.api.sockets import Socket
from nacre.control.services.vm_access import Placed, placed
from nacre.errors import (
    InvalidInputError,
    NacreError,
    TimeoutExpiredError,
    UnauthenticatedError,
    UnavailableError,
)
from nacre.model.metrics import MetricSeries, MetricsQuery, MetricsVerb
from nacre.protocol.messages import StreamKind

ANSWER_S = 20.0
HEARTBEAT_S = 15.0


class MetricsRange(InProject, frozen=True, kw_only=True, rename={"begin": "from", "end": "to", "step_s": "step"}):
    """Which time is wanted."""

    begin: datetime | None = None
    """RFC 3339; an hour before `to` if not given. Two weeks are kept."""
    end: datetime | None = None
    """RFC 3339; now if not given."""
    step_s: Annotated[int, msgspec.Meta(ge=1, le=86400)] | None = None
    """Seconds between points; as fine as there is if not given, which is 10 for the last hour."""


@websocket("/v1/vms/{vm:str}/display", opt={"action": "vm:display"})
async def open_display(socket: Socket, vm: FromPath[str]) -> None:
    """Carry a screen: RFB in binary frames. Refusals before it opens are HTTP answers; later ones are close codes."""
    try:
        call = await sockets.entered(socket)
        params = parse(InProject, query_of(socket))
        found = await _placed(call, vm, StreamKind.DISPLAY, params.project)
        async with call.parts.streams.open(found.vm.id, found.node, StreamKind.DISPLAY) as stream:
            await sockets.accept(socket)
            ended = await sockets.carry(socket, stream, call, found.vm.id, over="the machine's screen has gone dark")
        await sockets.close(socket, ended)
    except NacreError as error:
        await sockets.refuse(socket, error)


@get("/v1/vms/{vm:str}/metrics", opt={"action": "vm:metrics", "reaches_nodes": True})
async def show_metrics(
    call: TheCall, vm: FromPath[str], params: NamedDependency[MetricsRange]
) -> Response[MetricSeries]:
    """Show what a machine used, as its node has measured it: the last hour unless another time is asked for."""
    query = MetricsQuery(begin=_aware(params.begin, "from"), end=_aware(params.end, "to"), step_s=params.step_s)
    if query.begin is not None and query.end is not None and query.begin >= query.end:
        raise InvalidInputError("invalid_range", "`from` is not before `to`", hint="exchange them", field="from")
    found = await _placed(call, vm, StreamKind.METRICS, params.project)
    try:
        async with (
            asyncio.timeout(ANSWER_S),
            call.parts.streams.open(found.vm.id, found.node, StreamKind.METRICS) as stream,
        ):
            await stream.send(msgspec.json.encode(query))
            content = b"".join([data async for data in stream])
    except TimeoutError as error:
        raise TimeoutExpiredError(
            "metrics_timeout", "the node did not send what it has measured in time", hint="try again, for less"
        ) from error
    try:
        return Response(msgspec.json.decode(content, type=MetricSeries), status_code=OK)
    except msgspec.MsgspecError as error:
        raise UnavailableError("stream_broken", "the answer of the node was cut short", hint="try again") from error


@get(
    "/v1/vms/{vm:str}/metrics/live",
    opt={"action": "vm:metrics", "produces": MEDIA_TYPE, "reaches_nodes": True},
)
async def follow_metrics(call: TheCall, vm: FromPath[str], params: NamedDependency[InProject]) -> Streamed:
    """Follow what a machine uses, a point every ten seconds, as server-sent events."""
    found = await _placed(call, vm, StreamKind.METRICS, params.project)
    stack = AsyncExitStack()
    try:
        stream = await stack.enter_async_context(call.parts.streams.open(found.vm.id, found.node, StreamKind.METRICS))
        await stream.send(msgspec.json.encode(MetricsQuery(verb=MetricsVerb.FOLLOW)))
    except BaseException:
        await stack.aclose()
        raise
    return Streamed(
        _points(call, stack, stream),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        background=BackgroundTask(stack.aclose),
    )


async def _points(call: Call, stack: AsyncExitStack, stream: Stream) -> AsyncGenerator[bytes]:
    """Yield points as events until the stream, the program or the caller's token ends."""
    frames = aiter(stream)
    waiting: asyncio.Future[bytes] | None = None
    try:
        yield b": these are metrics\n\n"
        while not call.parts.requests.stopping.is_set():
            waiting = waiting or asyncio.ensure_future(anext(frames))
            done, _ = await asyncio.wait({waiting}, timeout=HEARTBEAT_S)
            if done:
                yield b"data: %s\n\n" % waiting.result()
                waiting = None
                continue
            yield b": still here\n\n"
            await call.refresh()
    except (StopAsyncIteration, UnavailableError, UnauthenticatedError):
        return  # whoever follows connects again and is told why
    finally:
        if waiting is not None:
            waiting.cancel()
        await stack.aclose()


async def _placed(call: Call, vm: str, kind: StreamKind, project: str) -> Placed:
    return await call.context.read(lambda rd, caller: placed(rd, caller, vm, kind=kind, project=project))


def _aware(moment: datetime | None, field: str) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise InvalidInputError(
            "invalid_parameter", f"{field} has no time zone", hint="write Z or +02:00 behind it", field=field
        )
    return moment


ROUTES = (open_display, show_metrics, follow_metrics)
