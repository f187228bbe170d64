"""A command that runs inside a guest: what is asked, what came of it, and the frames of a stream that carries it. Pure.

A frame is one byte that names its channel, and the data. Who wants the command sends an `ExecRequest` on CONTROL, then
STDIN until an empty frame says that there is no more; what comes back is STDOUT and STDERR, and last an `ExecResult`
on CONTROL.
"""

from enum import IntEnum
from typing import Annotated

import msgspec

from nacre.errors import InvalidInputError

MAX_WORDS = 256
MAX_COMMAND_BYTES = 64 << 10
MAX_STDIN_BYTES = 1 << 20
MAX_OUTPUT_BYTES = 8 << 20
DEFAULT_OUTPUT_BYTES = 1 << 20
MAX_TIMEOUT_S = 3600.0
DEFAULT_TIMEOUT_S = 60.0

Word = Annotated[str, msgspec.Meta(max_length=MAX_COMMAND_BYTES)]


class Channel(IntEnum):
    """What a frame carries."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    CONTROL = 3


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command to run. It is not a line for a shell: the first word is the program, the others are its arguments."""

    command: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=MAX_WORDS)]
    """The program and its arguments, such as `["systemctl", "status"]`. The program runs as the guest's agent: root."""
    environment: Annotated[dict[str, Word], msgspec.Meta(max_length=64)] = {}
    """Variables besides the agent's own."""
    stdin: bool = False
    """Whether frames of standard input follow. The command starts when all of it is there: up to 1 MiB."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_S)] = DEFAULT_TIMEOUT_S
    """When it runs for longer it is killed."""
    output_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_OUTPUT_BYTES)] = DEFAULT_OUTPUT_BYTES
    """How much of each of its two outputs is wanted; the rest is left out."""


class ExecResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended. Its outputs came before."""

    exit_code: int | None = None
    """None if it did not end by itself."""
    signal: int | None = None
    """What it was killed by."""
    timed_out: bool = False
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    code: str = ""
    """Set if the command could not be run, or if nothing is known of its end."""
    message: str = ""
    hint: str = ""


def frame(channel: Channel, data: bytes) -> bytes:
    """Return what goes through the stream."""
    return bytes((channel,)) + data


def unframe(data: bytes) -> tuple[Channel, bytes]:
    """Return the channel and the data of a frame. Raises InvalidInputError."""
    try:
        return Channel(data[0]), data[1:]
    except (IndexError, ValueError) as error:
        raise InvalidInputError(
            "invalid_frame",
            "a frame of the stream has no channel",
            hint="begin each with a byte: 0 for standard input, 3 for the request",
        ) from error


def decode_request(data: bytes) -> ExecRequest:
    """Return the request that a CONTROL frame carries. Raises InvalidInputError."""
    try:
        return check_request(msgspec.json.decode(data, type=ExecRequest))
    except msgspec.MsgspecError as error:
        raise InvalidInputError(
            "invalid_command", f"the request is not right: {error}", hint="send a list of words", field="command"
        ) from error


def decode_result(data: bytes) -> ExecResult:
    """Return the result that a CONTROL frame carries. Raises InvalidInputError."""
    try:
        return msgspec.json.decode(data, type=ExecResult)
    except msgspec.MsgspecError as error:
        raise InvalidInputError(
            "invalid_result", "the end of the command cannot be read", hint="update the program that shows this"
        ) from error


def check_request(request: ExecRequest) -> ExecRequest:
    """Return it if it can be run. Raises InvalidInputError."""
    words = (*request.command, *request.environment, *request.environment.values())
    if sum(len(word.encode()) for word in words) > MAX_COMMAND_BYTES or any("\0" in word for word in words):
        raise InvalidInputError(
            "invalid_command",
            f"the command has a NUL, or more than {MAX_COMMAND_BYTES >> 10} KiB",
            hint="pass what is long as standard input",
            field="command",
        )
    if not request.command[0]:
        raise InvalidInputError(
            "invalid_command", "the command has no program", hint="name one, such as /bin/ls", field="command[0]"
        )
    for name in request.environment:
        if not name or "=" in name:
            raise InvalidInputError(
                "invalid_environment",
                f"{name!r} is not the name of a variable",
                hint="use letters, digits and _",
                field="environment",
            )
    return request
