"""Commands in a guest: their outputs within bounds, their end, and those that do not end."""

import base64
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.agent.guest import commands
from nacre.agent.guest.qga import GuestAgent
from nacre.agent.hypervisors.doors import Door
from nacre.errors import UnavailableError
from nacre.model.commands import ExecRequest, ExecResult
from support.guest_agent import FakeAgent, ended, serving

pytestmark = pytest.mark.anyio

REQUEST = ExecRequest(command=("printenv", "A"), environment={"A": "b"})


@pytest.fixture
def fake() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def agent(fake: FakeAgent, tmp_path: Path, anyio_backend: str) -> AsyncGenerator[GuestAgent]:
    async with serving(fake, tmp_path / "ga") as socket:
        client = GuestAgent(Door(socket, os.getpid()))
        yield client
        client.close()


async def test_a_command_is_passed_on_and_its_end_comes_back(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.on_exec = lambda given: ended(3, base64.b64decode(given["input-data"]), b"oh")
    done = await commands.run(agent, REQUEST, b"\0in")
    assert (done.stdout, done.stderr) == (b"\0in", b"oh")
    assert done.result == ExecResult(exit_code=3)
    asked = next(arguments for name, arguments in fake.asked if name == "guest-exec")
    assert (asked["path"], asked["arg"], asked["env"], asked["capture-output"]) == ("printenv", ["A"], ["A=b"], True)


async def test_output_is_cut_and_that_is_said(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.on_exec = lambda _given: ended(0, b"x" * 100, b"y", **{"err-truncated": True})
    done = await commands.run(agent, ExecRequest(command=("yes",), output_bytes=10))
    assert done.stdout == b"x" * 10
    assert (done.result.stdout_truncated, done.result.stderr_truncated) == (True, True)


async def test_a_signal_is_no_exit_code(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.on_exec = lambda _given: {"exited": True, "signal": 9}
    assert (await commands.run(agent, REQUEST)).result == ExecResult(signal=9)


async def test_what_takes_too_long_is_killed(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.on_exec = lambda _given: {"exited": False}
    done = await commands.run(agent, ExecRequest(command=("sleep", "600"), timeout_s=0.1))
    assert done.result.timed_out
    kill = [arguments for name, arguments in fake.asked if name == "guest-exec"][-1]
    assert (kill["path"], kill["arg"]) == ("/bin/kill", ["-KILL", "100"])


async def test_an_agent_that_says_nonsense_is_an_error(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.raw = {"guest-exec": b'{"return": {"pid": "many"}}\n'}
    with pytest.raises(UnavailableError):
        await commands.run(agent, REQUEST)
    fake.raw = {}
    fake.on_exec = lambda _given: {"exited": True, "exitcode": "zero", "out-data": "a"}
    with pytest.raises(UnavailableError):
        await commands.run(agent, REQUEST)
