"""A machine's serial console (WebSocket) and the log of it.

Bytes go through as they are, scrollback first. The stream itself comes from the machine's node (`Streams`).
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
import structlog
from litestar import Response, WebSocket, get, websocket
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath
from litestar.types import Message

from nacre.control.api import problems, scopes
from nacre.control.api.access import bearer, enter, query_of
from nacre.control.api.boundary import request_id_of
from nacre.control.api.calls import Call, TheCall
from nacre.control.api.parts import Stream
from nacre.control.api.queries import InProject, parse
from nacre.control.services import vms
from nacre.errors import ConflictError, NacreError, TimeoutExpiredError, UnauthenticatedError, UnavailableError
from nacre.model.ids import NodeId
from nacre.protocol.messages import StreamKind
from nacre.schema.vms import VmOut

log = structlog.get_logger()

SUBPROTOCOL = "token"
"""Browsers cannot set headers: they offer the subprotocols `token` and the secret itself."""
SCROLLBACK_BYTES = 64 << 10
MAX_LOG_BYTES = 8 << 20
LOG_TIMEOUT_S = 30.0
LOOK_AGAIN_S = 30.0
"""How often an open console asks again whether its viewer still may see it."""

NORMAL, GOING_AWAY, NOT_ALLOWED, BROKEN = 1000, 1001, 1008, 1011

Socket = WebSocket[Any, Any, State]


class LogParams(InProject, frozen=True, kw_only=True):
    """How much of a log is wanted."""

    tail_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_LOG_BYTES)] = SCROLLBACK_BYTES
    """Only so many bytes from the end."""


@dataclass(frozen=True)
class Ended:
    """A console is over, and how that is told to the viewer."""

    code: int
    reason: str = ""


@get("/v1/vms/{vm:str}/log", opt={"action": "vm:log", "produces": "text/plain", "reaches_nodes": True})
async def show_log(call: TheCall, vm: FromPath[str], params: NamedDependency[LogParams]) -> Response[bytes]:
    """Show what a machine printed on its serial console, as plain text."""
    machine, node = await _placed(call, vm, params.project)
    log_stream = call.parts.streams.open(machine.id, node, StreamKind.CONSOLE_LOG, params.tail_bytes)
    try:
        async with asyncio.timeout(LOG_TIMEOUT_S), log_stream as stream:
            text = b"".join([chunk async for chunk in stream])
    except TimeoutError as error:
        raise TimeoutExpiredError(
            "log_timeout", "the node did not send the log in time", hint="ask for less with tail_bytes, or try again"
        ) from error
    return Response(text, media_type="text/plain")


@websocket("/v1/vms/{vm:str}/console", opt={"action": "vm:console"})
async def open_console(socket: Socket, vm: FromPath[str]) -> None:
    """Carry a console. Refusals before it opens are HTTP answers; later ones are close codes."""
    await socket.receive()  # websocket.connect
    offered = list(socket.scope["subprotocols"])
    try:
        call = await enter(socket, socket.route_handler, bearer(socket) or _offered(offered))
        params = parse(InProject, query_of(socket))
        machine, node = await _placed(call, vm, params.project)
        async with call.parts.streams.open(machine.id, node, StreamKind.CONSOLE, SCROLLBACK_BYTES) as stream:
            await _accept(socket, SUBPROTOCOL if SUBPROTOCOL in offered else None)
            ended = await _carry(socket, stream, call, machine.id)
        await _close(socket, ended)
    except NacreError as error:
        await _refuse(socket, error)


async def _placed(call: Call, vm: str, project: str) -> tuple[VmOut, NodeId]:
    """Return a machine and its node. Raises ConflictError if it has none."""
    machine = await call.context.read(lambda rd, caller: vms.show(rd, caller, vm, project=project))
    if machine.node is None:
        raise ConflictError(
            "vm_not_placed",
            f"{machine.name} is on no node yet, so it has no console",
            hint="start it, and look at its conditions if it stays pending",
        )
    return machine, machine.node.id


async def _carry(socket: Socket, stream: Stream, call: Call, vm: str) -> Ended:
    """Move bytes both ways until one side ends. Return how."""
    works: list[Coroutine[Any, Any, Ended]] = [
        _to_viewer(socket, stream),
        _to_guest(socket, stream),
        _watch(call, vm),
    ]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _to_viewer(socket: Socket, stream: Stream) -> Ended:
    try:
        async for chunk in stream:
            await socket.send_bytes(chunk)
    except UnavailableError as error:
        return Ended(BROKEN, error.message)
    except WebSocketDisconnect:
        pass
    return Ended(NORMAL, "the machine's console has ended")


async def _to_guest(socket: Socket, stream: Stream) -> Ended:
    try:
        while True:
            message = await socket.receive()
            if message["type"] != "websocket.receive":
                return Ended(NORMAL)
            await stream.send(message.get("bytes") or (message.get("text") or "").encode())
    except UnavailableError as error:
        return Ended(BROKEN, error.message)
    except WebSocketDisconnect:
        return Ended(NORMAL)


async def _watch(call: Call, vm: str) -> Ended:
    """End the console when the program stops, or when its viewer may no longer see it."""
    requests = call.parts.requests
    while True:
        try:
            async with asyncio.timeout(LOOK_AGAIN_S):
                await requests.stopping.wait()
            return Ended(GOING_AWAY, "the control plane stops; connect again")
        except TimeoutError:
            pass
        try:
            await call.refresh()
            await call.context.read(lambda rd, caller: vms.show(rd, caller, vm))
        except NacreError as error:
            return Ended(NOT_ALLOWED, error.message)


async def _accept(socket: Socket, subprotocol: str | None) -> None:
    await socket.send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})


async def _close(socket: Socket, ended: Ended) -> None:
    if socket.connection_state != "disconnect":
        await socket.close(ended.code, ended.reason[:120])


async def _refuse(socket: Socket, error: NacreError) -> None:
    """Say no before the console is open, with the same problem as any other route."""
    problem = problems.of_error(error, request_id_of(socket.scope))
    if "websocket.http.response" not in str(scopes.take(socket.scope, "extensions")):
        await socket.close(NOT_ALLOWED, problem.detail[:120])
        return
    body = problems.encode(problem)
    headers = {"Content-Type": problems.MEDIA_TYPE, "Content-Length": str(len(body)), **problems.headers(problem)}
    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    start = {"type": "websocket.http.response.start", "status": problem.status, "headers": lines}
    await socket.send(cast("Message", start))
    await socket.send(cast("Message", {"type": "websocket.http.response.body", "body": body, "more_body": False}))


def _offered(subprotocols: list[str]) -> str | None:
    """Return the secret among the offered subprotocols: what comes after `token`."""
    if SUBPROTOCOL not in subprotocols:
        return None
    rest = [offer for offer in subprotocols if offer != SUBPROTOCOL]
    if len(rest) != 1:
        raise UnauthenticatedError(
            "token_missing", "there is no token beside the subprotocol", hint="offer `token` and the secret itself"
        )
    return rest[0]


ROUTES = (show_log, open_console)
