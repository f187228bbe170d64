"""A machine's serial console (WebSocket) and the log of it.

Bytes go through as they are, scrollback first. The stream itself comes from the machine's node (`Streams`).
"""

import asyncio
from typing import Annotated

import msgspec
from litestar import Response, get, websocket
from litestar.di import NamedDependency
from litestar.params import FromPath

from nacre.control.api import sockets
from nacre.control.api.access import query_of
from nacre.control.api.calls import Call, TheCall
from nacre.control.api.queries import InProject, parse
from nacre.control.api.sockets import Socket
from nacre.control.services import vms
from nacre.errors import ConflictError, NacreError, TimeoutExpiredError
from nacre.model.ids import NodeId
from nacre.protocol.messages import StreamKind
from nacre.schema.vms import VmOut

SCROLLBACK_BYTES = 64 << 10
MAX_LOG_BYTES = 8 << 20
LOG_TIMEOUT_S = 30.0


class LogParams(InProject, frozen=True, kw_only=True):
    """How much of a log is wanted."""

    tail_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_LOG_BYTES)] = SCROLLBACK_BYTES
    """Only so many bytes from the end."""


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
    try:
        call = await sockets.entered(socket)
        params = parse(InProject, query_of(socket))
        machine, node = await _placed(call, vm, params.project)
        async with call.parts.streams.open(machine.id, node, StreamKind.CONSOLE, SCROLLBACK_BYTES) as stream:
            await sockets.accept(socket)
            ended = await sockets.carry(socket, stream, call, machine.id, over="the machine's console has ended")
        await sockets.close(socket, ended)
    except NacreError as error:
        await sockets.refuse(socket, error)


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


ROUTES = (show_log, open_console)
