"""Streams into guests: a machine that is off, one without a screen, frames that are none, input that is too much."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nacre.agent import guest_streams
from nacre.agent.guest.qga import GuestAgent
from nacre.agent.guest_streams import Command
from nacre.agent.hypervisors.doors import Door
from nacre.errors import ConflictError, NacreError, UnsupportedError
from nacre.model.commands import Channel, ExecRequest, ExecResult, frame, unframe
from nacre.model.hardware import DeviceOptions, Graphics
from nacre.model.vms import Phase
from support.guest_agent import FakeAgent, ended, serving
from support.guests import tiny_image
from support.intents import vm_intent
from support.machines import Bench
from support.node import Node

pytestmark = pytest.mark.anyio

REQUEST = ExecRequest(command=("cat",), stdin=True)


def result_of(data: bytes) -> ExecResult:
    channel, content = unframe(data)
    assert channel is Channel.CONTROL
    return msgspec.json.decode(content, type=ExecResult)


async def frames(command: Command, *sent: bytes) -> list[bytes]:
    for data in sent:
        await command.send(data)
    return [data async for data in command]


async def test_a_command_has_its_input_before_it_starts_and_large_outputs_come_in_pieces(tmp_path: Path) -> None:
    fake = FakeAgent(on_exec=lambda _given: ended(0, b"x" * 300_000))
    async with serving(fake, tmp_path / "ga") as socket:
        agent = GuestAgent(Door(socket, os.getpid()))
        request = frame(Channel.CONTROL, msgspec.json.encode(REQUEST))
        came = await frames(Command(agent), request, b"\0ab", b"\0c", b"\0")
        agent.close()
    assert b"".join(unframe(data)[1] for data in came[:-1]) == b"x" * 300_000
    assert len(came) == 4
    assert result_of(came[-1]) == ExecResult(exit_code=0)
    assert next(given for name, given in fake.asked if name == "guest-exec")["input-data"] == "YWJj"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([b"\x01out"], "invalid_command"),
        ([b""], "invalid_frame"),
        ([b"\x03not json"], "invalid_command"),
        ([frame(Channel.CONTROL, msgspec.json.encode(REQUEST)), b"\x02"], "invalid_frame"),
        ([frame(Channel.CONTROL, msgspec.json.encode(REQUEST)), *[b"\0" + b"x" * 200_000] * 6], "stdin_too_large"),
    ],
)
async def test_frames_that_make_no_sense_end_it_with_a_reason(tmp_path: Path, sent: list[bytes], code: str) -> None:
    fake = FakeAgent()
    async with serving(fake, tmp_path / "ga") as socket:
        agent = GuestAgent(Door(socket, os.getpid()))
        (came,) = await frames(Command(agent), *sent)
        agent.close()
    assert result_of(came).code == code
    assert "guest-exec" not in fake.commands


@pytest.mark.parametrize("opener", [guest_streams.command, guest_streams.screen])
async def test_a_machine_that_is_off_or_has_no_such_thing_says_so(opener: Any) -> None:
    with pytest.raises(ConflictError):
        async with opener(None):
            pass
    node = await Node().begin()
    try:
        intent = vm_intent()
        node.want(intent)
        await node.shows(intent.id, Phase.RUNNING)
        with pytest.raises(UnsupportedError) as refused:
            async with opener(node.executor.machines[intent.id]):
                pass
        assert refused.value.hint
    finally:
        await node.close()


@pytest.mark.host
async def test_a_real_screen_says_hello_and_serves_one_viewer_after_the_other(tmp_path: Path) -> None:
    from nacre.agent.hypervisors import registry

    bench, image = Bench(), tiny_image()
    driver = registry.load("qemu", tmp_path)
    try:
        launch = bench.launch(
            kernel=image.kernel,
            initrd=image.initrd,
            kernel_args=image.kernel_args,
            devices=DeviceOptions(graphics=Graphics.VNC),
        )
        guest = bench.keep(await driver.start(launch))
        machine: Any = type("Machine", (), {"guest": guest})
        for _viewer in range(2):
            async with guest_streams.screen(machine) as screen:
                said = aiter(screen)
                assert await anext(said) == b"RFB 003.008\n"
                await screen.send(b"RFB 003.008\n")
                assert 1 in (await anext(said))[1:]
        await guest.kill()
        with pytest.raises(NacreError):
            async with guest_streams.screen(machine):
                pass
    finally:
        await bench.close()
