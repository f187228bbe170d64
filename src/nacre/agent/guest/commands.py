"""Run a command inside a guest through its agent. The agent hands over the output when the command has ended."""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from nacre.agent.guest.qga import GuestAgent, garbled
from nacre.errors import NacreError
from nacre.model.commands import ExecRequest, ExecResult

FIRST_LOOK_S = 0.05
LONGEST_LOOK_S = 1.0
MOST_ANSWER = 48 << 20
"""The agent holds up to 16 MiB of each output, which base64 makes a third longer."""
_PATIENCE = 5
_KILL = "/bin/kill"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a command has printed, and how it ended."""

    stdout: bytes = b""
    stderr: bytes = b""
    result: ExecResult


async def run(agent: GuestAgent, request: ExecRequest, stdin: bytes = b"") -> Finished:
    """Run it and return when it has ended, or was killed because it took too long. Raises NacreError.

    Cancelling leaves the command to itself.
    """
    arguments: dict[str, object] = {
        "path": request.command[0],
        "arg": list(request.command[1:]),
        "capture-output": True,
    }
    if request.environment:
        arguments["env"] = [f"{name}={value}" for name, value in request.environment.items()]
    if stdin:
        arguments["input-data"] = base64.b64encode(stdin).decode()
    begun = await agent.ask("guest-exec", arguments)
    pid = cast("Mapping[str, object]", begun).get("pid") if isinstance(begun, dict) else None
    if not isinstance(pid, int):
        raise garbled("it started a command and did not say which")
    try:
        async with asyncio.timeout(request.timeout_s):
            return _finished(request, await _end(agent, pid))
    except TimeoutError:
        await _kill(agent, pid)
        return Finished(result=ExecResult(timed_out=True))


async def _end(agent: GuestAgent, pid: int) -> Mapping[str, object]:
    """Look until the command has ended, less often as it lasts. A look that fails now and then is made again."""
    pause, failures = FIRST_LOOK_S, 0
    while True:
        try:
            said = await agent.ask("guest-exec-status", {"pid": pid}, most=MOST_ANSWER)
            failures = 0
        except NacreError as error:
            failures += 1
            if not error.retryable or failures == _PATIENCE:
                raise
            said = None
        if isinstance(said, dict):
            status = cast("dict[str, object]", said)
            if status.get("exited") is True:
                return status
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_LOOK_S)


async def _kill(agent: GuestAgent, pid: int) -> None:
    """End a command that takes too long; a guest without kill(1) keeps it."""
    with contextlib.suppress(NacreError):
        await agent.ask("guest-exec", {"path": _KILL, "arg": ["-KILL", str(pid)]})


def _finished(request: ExecRequest, status: Mapping[str, object]) -> Finished:
    stdout, more_out = _output(status, "out", request.output_bytes)
    stderr, more_err = _output(status, "err", request.output_bytes)
    return Finished(
        stdout=stdout,
        stderr=stderr,
        result=ExecResult(
            exit_code=_number(status.get("exitcode")),
            signal=_number(status.get("signal")),
            stdout_truncated=more_out,
            stderr_truncated=more_err,
        ),
    )


def _output(status: Mapping[str, object], name: str, most: int) -> tuple[bytes, bool]:
    try:
        data = base64.b64decode(str(status.get(f"{name}-data", "")))
    except binascii.Error as error:
        raise garbled("the output of a command is no base64") from error
    return data[:most], status.get(f"{name}-truncated") is True or len(data) > most


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
