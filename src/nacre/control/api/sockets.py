"""WebSockets that carry a stream to a machine: entering, refusing, bytes both ways, and ending. Used by their routes.

Refusals before a socket is open are HTTP answers with a problem; later ones are close codes.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, cast

from litestar import WebSocket
from litestar.datastructures import State
from litestar.exceptions import WebSocketDisconnect
from litestar.types import Message

from nacre.control.api import problems, scopes
from nacre.control.api.access import bearer, enter
from nacre.control.api.boundary import request_id_of
from nacre.control.api.calls import Call
from nacre.control.api.parts import Stream
from nacre.control.services import vms
from nacre.errors import NacreError, UnauthenticatedError, UnavailableError

SUBPROTOCOL = "token"
"""Browsers cannot set headers: they offer the subprotocols `token` and the secret itself."""
BINARY = "binary"
"""What viewers of screens offer besides."""
LOOK_AGAIN_S = 30.0
"""How often an open socket asks again whether its viewer still may see it."""

NORMAL, GOING_AWAY, NOT_ALLOWED, BROKEN = 1000, 1001, 1008, 1011

Socket = WebSocket[Any, Any, State]


@dataclass(frozen=True)
class Ended:
    """A socket is over, and how that is told to the viewer."""

    code: int
    reason: str = ""


async def entered(socket: Socket) -> Call:
    """Return the call of who opens the socket. Raises NacreError."""
    await socket.receive()  # websocket.connect
    return await enter(socket, socket.route_handler, bearer(socket) or _offered(list(socket.scope["subprotocols"])))


async def accept(socket: Socket) -> None:
    """Open the socket, with the subprotocol that was offered and is known."""
    offered = socket.scope["subprotocols"]
    chosen = next((name for name in (BINARY, SUBPROTOCOL) if name in offered), None)
    await socket.send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
    scopes.put(socket.scope, scopes.OPENED, True)


async def carry(socket: Socket, stream: Stream, call: Call, vm: str, *, over: str) -> Ended:
    """Move bytes both ways until one side ends. Return how; `over` is said when the machine has nothing more."""
    works: list[Coroutine[Any, Any, Ended]] = [
        _to_viewer(socket, stream, over),
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


async def close(socket: Socket, ended: Ended) -> None:
    """Say that it is over, if there still is somebody to say it to."""
    if socket.connection_state != "disconnect":
        await socket.close(ended.code, ended.reason[:120])


async def refuse(socket: Socket, error: NacreError) -> None:
    """Say no: before the socket is open with the same problem as any other route, later with a close code."""
    problem = problems.of_error(error, request_id_of(socket.scope))
    opened = scopes.take(socket.scope, scopes.OPENED) is True
    if opened or "websocket.http.response" not in str(scopes.take(socket.scope, "extensions")):
        await close(socket, Ended(NOT_ALLOWED, problem.detail))
        return
    body = problems.encode(problem)
    headers = {"Content-Type": problems.MEDIA_TYPE, "Content-Length": str(len(body)), **problems.headers(problem)}
    lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    start = {"type": "websocket.http.response.start", "status": problem.status, "headers": lines}
    await socket.send(cast("Message", start))
    await socket.send(cast("Message", {"type": "websocket.http.response.body", "body": body, "more_body": False}))


async def received(socket: Socket) -> bytes | None:
    """Return the next frame of the viewer; None when there is no more."""
    try:
        message = await socket.receive()
    except WebSocketDisconnect:
        return None
    if message["type"] != "websocket.receive":
        return None
    return message.get("bytes") or (message.get("text") or "").encode()


async def _to_viewer(socket: Socket, stream: Stream, over: str) -> Ended:
    try:
        async for chunk in stream:
            await socket.send_bytes(chunk)
    except UnavailableError as error:
        return Ended(BROKEN, error.message)
    except WebSocketDisconnect:
        pass
    return Ended(NORMAL, over)


async def _to_guest(socket: Socket, stream: Stream) -> Ended:
    try:
        while (data := await received(socket)) is not None:
            await stream.send(data)
    except UnavailableError as error:
        return Ended(BROKEN, error.message)
    return Ended(NORMAL)


async def _watch(call: Call, vm: str) -> Ended:
    """End when the program stops, or when the viewer may no longer see it."""
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


def _offered(subprotocols: list[str]) -> str | None:
    """Return the secret among the offered subprotocols: what comes besides `token` and `binary`."""
    if SUBPROTOCOL not in subprotocols:
        return None
    rest = [offer for offer in subprotocols if offer not in {SUBPROTOCOL, BINARY}]
    if len(rest) != 1:
        raise UnauthenticatedError(
            "token_missing", "there is no token beside the subprotocol", hint="offer `token` and the secret itself"
        )
    return rest[0]
