"""Commands in guests over the API: recorded ones, ones with streams, who may, and what is told of them."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from nacre.agent.guest.qga import GuestAgent
from nacre.agent.guest_streams import Command
from nacre.agent.hypervisors.doors import Door
from nacre.client.api import Nacre
from nacre.errors import ConflictError
from nacre.lib.clock import ManualClock
from nacre.model.commands import Channel, ExecRequest, ExecResult, frame, unframe
from nacre.protocol.messages import StreamKind
from support.api import Api, obedient_node, tiny_image
from support.guest_agent import FakeAgent, ended, serving
from support.local_streams import LocalStreams

pytestmark = pytest.mark.anyio

SECRET = "open-sesame-4711"


@pytest.fixture
def fake() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def machine(served: Api, fake: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Api]:
    """An API with a machine `web` that runs, and a guest in it that is a fake agent."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncGenerator[Command]:
        agent = GuestAgent(Door(tmp_path / "ga", os.getpid()))
        try:
            yield Command(agent)
        finally:
            agent.close()

    monkeypatch.setattr(served.streams, "open", LocalStreams({StreamKind.EXEC: opened}).open)
    await tiny_image(served)
    async with obedient_node(served.parts.requests.db), serving(fake, tmp_path / "ga"):
        await served.make("POST", "/v1/vms", {"name": "web", "image": "tiny"}, params={"wait": 20}, timeout=30)
        yield served


async def test_a_command_is_run_and_recorded_without_its_arguments(machine: Api, fake: FakeAgent) -> None:
    fake.on_exec = lambda _given: ended(3, b"out\xff", b"err")
    body = {"command": ["/bin/tool", SECRET], "environment": {"KEY": SECRET}, "stdin": SECRET}
    done = await machine.make("POST", "/v1/vms/web/exec", body)
    assert (done["state"], done["exit_code"], done["stdout"], done["stderr"]) == ("ended", 3, "out\ufffd", "err")
    assert done["program"] == "/bin/tool"
    assert await machine.make("GET", f"/v1/vms/web/commands/{done['id']}") == done
    assert (await machine.make("GET", "/v1/vms/web/commands"))["items"] == [done]
    told = await machine.make("GET", "/v1/events")
    assert [one["details"] for one in told["items"] if one["type"] == "vm.exec"] == [{"program": "/bin/tool"}]
    assert SECRET not in json.dumps([told, done])


async def test_with_the_same_key_it_runs_once(machine: Api, fake: FakeAgent) -> None:
    first = await machine.make("POST", "/v1/vms/web/exec", {"command": ["id"]}, headers={"Idempotency-Key": "k"})
    again = await machine.make("POST", "/v1/vms/web/exec", {"command": ["id"]}, headers={"Idempotency-Key": "k"})
    assert again == first
    assert fake.commands.count("guest-exec") == 1


async def test_one_that_cannot_be_run_has_failed_with_the_reason(machine: Api, fake: FakeAgent) -> None:
    fake.raw = {"guest-exec": b'{"error": {"class": "GenericError", "desc": "no such file"}}\n'}
    done = await machine.make("POST", "/v1/vms/web/exec", {"command": ["nothing"]})
    assert (done["state"], done["code"], done["exit_code"]) == ("failed", "guest_agent_refused", None)


async def test_a_node_that_refuses_is_a_problem_and_on_record(machine: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def refusing() -> AsyncGenerator[Command]:
        raise ConflictError("vm_not_running", "the machine is off", hint="start it")
        yield

    monkeypatch.setattr(machine.streams, "open", LocalStreams({StreamKind.EXEC: refusing}).open)
    async with machine.client() as client:
        answer = await client.post("/v1/vms/web/exec", json={"command": ["id"]})
    assert (answer.status_code, answer.json()["code"]) == (503, "vm_not_running")
    (recorded,) = (await machine.make("GET", "/v1/vms/web/commands"))["items"]
    assert (recorded["state"], recorded["code"]) == ("failed", "vm_not_running")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"command": []}, "command"),
        ({"command": [""]}, "command[0]"),
        ({"command": ["x" * 70_000]}, "command"),
        ({"command": ["id"], "environment": {"A=B": "c"}}, "environment"),
        ({"command": ["id"], "timeout_s": 0}, "timeout_s"),
    ],
)
async def test_what_cannot_be_a_command_is_refused(machine: Api, body: dict[str, object], field: str) -> None:
    async with machine.client() as client:
        answer = await client.post("/v1/vms/web/exec", json=body)
    assert answer.status_code in {400, 422}
    assert field.partition("[")[0] in (answer.json()["field"] or answer.json()["detail"])


async def test_who_may_only_operate_may_not_run_commands(machine: Api) -> None:
    token = await machine.user("ann", role="operator", project="default")
    async with machine.client(token) as client:
        answers = [
            await client.post("/v1/vms/web/exec", json={"command": ["id"]}),
            await client.get("/v1/vms/web/commands"),
        ]
    assert [answer.status_code for answer in answers] == [403, 403]
    with pytest.raises(InvalidStatus) as refused:
        async with socket(machine, token):
            pass
    assert refused.value.response.status_code == 403


async def test_a_command_whose_runner_is_gone_is_not_running_for_ever(
    machine: Api, fake: FakeAgent, clock: ManualClock
) -> None:
    fake.on_exec = lambda _given: {"exited": False}
    task = asyncio.create_task(machine.make("POST", "/v1/vms/web/exec", {"command": ["id"], "timeout_s": 300}))
    while not (items := (await machine.make("GET", "/v1/vms/web/commands"))["items"]):
        await asyncio.sleep(0.01)
    assert items[0]["state"] == "running"
    clock.advance(timedelta(minutes=10).total_seconds())
    (lost,) = (await machine.make("GET", "/v1/vms/web/commands"))["items"]
    assert (lost["state"], lost["code"]) == ("failed", "command_lost")
    fake.running[100] = ended(0)
    await task


def socket(api: Api, token: str | None = None) -> connect:
    headers = {"Authorization": f"Bearer {api.token if token is None else token}"}
    address = api.url.replace("http", "ws", 1) + "/v1/vms/web/exec"
    return connect(address, additional_headers=headers, proxy=None, compression=None)


async def test_frames_go_both_ways_and_the_result_is_the_last(machine: Api, fake: FakeAgent) -> None:
    fake.on_exec = lambda given: ended(0, b"got " + given["input-data"].encode(), b"err")
    async with socket(machine) as opened:
        await opened.send(frame(Channel.CONTROL, msgspec.json.encode(ExecRequest(command=("cat",), stdin=True))))
        await opened.send(frame(Channel.STDIN, b"abc"))
        await opened.send(frame(Channel.STDIN, b""))
        frames = [unframe(data) async for data in opened if isinstance(data, bytes)]
    assert frames[0] == (Channel.STDOUT, b"got YWJj")
    assert frames[1] == (Channel.STDERR, b"err")
    assert msgspec.json.decode(frames[2][1], type=ExecResult) == ExecResult(exit_code=0)
    assert len(frames) == 3


@pytest.mark.parametrize("first", [b"", b"\x00hello", b"\x09", b"\x03{}", b'\x03{"command": ["x"], "more": 1}'])
async def test_what_is_no_request_is_answered_by_a_result_that_says_so(machine: Api, first: bytes) -> None:
    async with socket(machine) as opened:
        await opened.send(first)
        data = await asyncio.wait_for(opened.recv(), 20)
        assert isinstance(data, bytes)
        assert msgspec.json.decode(unframe(data)[1], type=ExecResult).code.startswith("invalid_")


async def test_the_client_of_the_project_works_with_this_api(machine: Api, fake: FakeAgent) -> None:
    fake.on_exec = lambda _given: ended(5, b"out")
    async with Nacre(machine.url, machine.token) as nacre:
        async with nacre.command("web", ExecRequest(command=("id",))) as running:
            assert [found async for found in running.outputs()] == [(Channel.STDOUT, b"out")]
            assert running.result == ExecResult(exit_code=5)
        assert await nacre.vms.commands("web") == []
