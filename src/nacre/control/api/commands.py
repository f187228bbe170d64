"""Commands in guests: one that is recorded (POST), its record, and one with its streams (WebSocket).

A command runs on the machine's node, through the agent in the guest. What goes through the stream is in
`model.commands`; the socket carries the same frames.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec
from litestar import Response, get, post, websocket
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api import sockets
from nacre.control.api.access import query_of
from nacre.control.api.calls import OK, Call, TheCall
from nacre.control.api.parts import Stream
from nacre.control.api.queries import InProject, parse
from nacre.control.api.sockets import Socket
from nacre.control.auth.principals import Caller
from nacre.control.request import Tx
from nacre.control.services import vm_commands
from nacre.control.services.vm_access import Placed
from nacre.errors import InvalidInputError, NacreError, NotFoundError, TimeoutExpiredError, UnavailableError
from nacre.model.commands import (
    Channel,
    ExecRequest,
    ExecResult,
    check_request,
    decode_request,
    decode_result,
    frame,
    unframe,
)
from nacre.model.ids import CommandId
from nacre.protocol.messages import StreamKind
from nacre.schema.common import Page
from nacre.schema.guests import CommandOut, VmExec

FIRST_FRAME_S = 30.0
_PATIENCE_S = 60.0
"""How much longer than the command may take its answer is waited for."""
_STDIN_FRAME = 128 << 10


@post(
    "/v1/vms/{vm:str}/exec",
    opt={"action": "vm:exec", "reaches_nodes": True},
    status_code=OK,
)
async def exec_in_vm(
    call: TheCall, vm: FromPath[str], data: JSONBody[VmExec], params: NamedDependency[InProject]
) -> Response[CommandOut]:
    """Run a command in a guest and wait for its end. Its outputs are recorded; its arguments are not.

    A command that fails is no error here: look at `exit_code`. With the same Idempotency-Key it runs once.
    """
    request = check_request(
        ExecRequest(
            command=data.command,
            environment=data.environment,
            stdin=bool(data.stdin),
            timeout_s=data.timeout_s,
            output_bytes=data.output_bytes,
        )
    )
    fresh: list[Placed] = []

    async def begin(tx: Tx, caller: Caller) -> CommandOut:
        found, command = await vm_commands.begin(
            tx, caller, vm, request.command[0], request.timeout_s, project=params.project
        )
        fresh.append(found)
        return command

    begun = await call.context.change(begin, CommandOut)
    if not fresh:  # it was sent before: here is what came of it
        return await call.read(lambda rd, caller: vm_commands.show(rd, caller, begun.vm, begun.id))
    try:
        result, stdout, stderr = await _run(call, fresh[0], request, data.stdin.encode())
    except asyncio.CancelledError:
        await asyncio.shield(_ended(call, begun.id, _failed(_interrupted()), b"", b""))
        raise
    except NacreError as error:
        await _ended(call, begun.id, _failed(error), b"", b"")
        raise
    return Response(await _ended(call, begun.id, result, stdout, stderr), status_code=OK)


@get("/v1/vms/{vm:str}/commands", opt={"action": "vm:exec"})
async def list_commands(
    call: TheCall, vm: FromPath[str], params: NamedDependency[InProject]
) -> Response[Page[CommandOut]]:
    """List the recorded commands of a machine, the newest first. The newest hundred are kept."""
    return await call.read(lambda rd, caller: vm_commands.list_(rd, caller, vm, project=params.project))


@get("/v1/vms/{vm:str}/commands/{command:str}", opt={"action": "vm:exec"})
async def show_command(
    call: TheCall, vm: FromPath[str], command: FromPath[str], params: NamedDependency[InProject]
) -> Response[CommandOut]:
    """Show a recorded command with what it printed."""
    return await call.read(lambda rd, caller: vm_commands.show(rd, caller, vm, command, project=params.project))


@websocket("/v1/vms/{vm:str}/exec", opt={"action": "vm:exec"})
async def open_command(socket: Socket, vm: FromPath[str]) -> None:
    """Carry a command. Refusals before it opens are HTTP answers; later ones are the result of the command."""
    try:
        call = await sockets.entered(socket)
        params = parse(InProject, query_of(socket))
        await call.context.read(lambda rd, caller: vm_commands.may(rd, caller, vm, project=params.project))
        await sockets.accept(socket)
    except NacreError as error:
        await sockets.refuse(socket, error)
        return
    try:
        ended = await _carry(socket, call, vm, params.project)
    except NacreError as error:
        await socket.send_bytes(frame(Channel.CONTROL, msgspec.json.encode(_failed(error))))
        ended = sockets.Ended(sockets.NORMAL)
    await sockets.close(socket, ended)


async def _carry(socket: Socket, call: Call, vm: str, project: str) -> sockets.Ended:
    request = await _first(socket)
    if request is None:
        return sockets.Ended(sockets.NORMAL)
    found = await call.context.change(
        lambda tx, caller: vm_commands.announce(tx, caller, vm, request.command[0], project=project), Placed
    )
    async with call.parts.streams.open(found.vm.id, found.node, StreamKind.EXEC) as stream:
        await stream.send(frame(Channel.CONTROL, msgspec.json.encode(request)))
        return await sockets.carry(socket, stream, call, found.vm.id, over="the command has ended")


async def _first(socket: Socket) -> ExecRequest | None:
    """Return what is to be run; None if the viewer has left. Raises InvalidInputError."""
    try:
        async with asyncio.timeout(FIRST_FRAME_S):
            data = await sockets.received(socket)
    except TimeoutError as error:
        raise TimeoutExpiredError(
            "command_missing", "no command was sent", hint="send the request as the first frame"
        ) from error
    if data is None:
        return None
    channel, content = unframe(data)
    if channel is not Channel.CONTROL:
        raise InvalidInputError("invalid_command", "the first frame is no request", hint="send the request first")
    return decode_request(content)


async def _run(call: Call, found: Placed, request: ExecRequest, stdin: bytes) -> tuple[ExecResult, bytes, bytes]:
    """Run a command on its node and return how it ended and what it printed. Raises NacreError."""
    try:
        async with asyncio.timeout(request.timeout_s + _PATIENCE_S):
            async with call.parts.streams.open(found.vm.id, found.node, StreamKind.EXEC) as stream:
                await stream.send(frame(Channel.CONTROL, msgspec.json.encode(request)))
                if stdin:
                    for data in (*_pieces(stdin), b""):
                        await stream.send(frame(Channel.STDIN, data))
                return await _collected(stream, request.output_bytes)
    except TimeoutError as error:
        raise TimeoutExpiredError(
            "command_unknown",
            "the node did not say how the command ended",
            hint="look in the guest for what it has done",
        ) from error


def _pieces(data: bytes) -> list[bytes]:
    return [data[start : start + _STDIN_FRAME] for start in range(0, len(data), _STDIN_FRAME)]


async def _collected(frames: AsyncIterator[bytes] | Stream, most: int) -> tuple[ExecResult, bytes, bytes]:
    outputs = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
    try:
        async for data in frames:
            channel, content = unframe(data)
            if channel is Channel.CONTROL:
                result = decode_result(content)
                return result, bytes(outputs[Channel.STDOUT]), bytes(outputs[Channel.STDERR])
            if channel in outputs:
                outputs[channel] += content[: most - len(outputs[channel])]
    except InvalidInputError as error:
        raise _broken() from error
    raise _broken()


def _broken() -> UnavailableError:
    return UnavailableError(
        "stream_broken", "the connection to the node broke", hint="look in the guest for what the command has done"
    )


async def _ended(call: Call, command: CommandId, result: ExecResult, stdout: bytes, stderr: bytes) -> CommandOut:
    """Write how it ended, in a transaction of its own: the key of the request stands for its beginning."""
    context = call.parts.requests.begin(call.caller, None)
    try:
        return await context.change(
            lambda tx, caller: vm_commands.finish(tx, caller, command, result, stdout, stderr), CommandOut
        )
    except NotFoundError as error:
        raise UnavailableError(
            "vm_gone", "the machine was deleted while the command ran", hint="there is nothing left to look at"
        ) from error


def _failed(error: NacreError) -> ExecResult:
    return ExecResult(code=error.code, message=error.message, hint=error.hint)


def _interrupted() -> NacreError:
    return UnavailableError(
        "command_unknown", "whoever asked for the command has left", hint="look in the guest for what it has done"
    )


ROUTES = (exec_in_vm, list_commands, show_command, open_command)
