"""One connection and the lease: asked for while something needs it, and not for long of who does not answer."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from nacre.agent import session as sessions
from nacre.agent.host import leases
from nacre.agent.hypervisors.guarding import read_lease
from nacre.agent.lease import Lease
from nacre.agent.outbox import Outbox
from nacre.agent.session import Session
from nacre.errors import UnavailableError
from nacre.lib.clock import SystemClock
from nacre.model.ids import NodeId
from nacre.model.vms import HaPolicy, VmIntent
from nacre.protocol import codec
from nacre.protocol.messages import (
    DesiredState,
    FromAgent,
    FromControl,
    NodeIntent,
    Observed,
    ObservedAck,
    Pull,
    Renew,
    Renewed,
    Wake,
    Welcome,
)
from support.intents import vm_intent
from support.linking import Host
from support.waiting import until

pytestmark = pytest.mark.anyio


class Control:
    """The other end of a connection, by hand. What is not `answers`ed is kept in `heard` all the same."""

    def __init__(self) -> None:
        self.heard: list[FromAgent] = []
        self.intent = NodeIntent()
        self.grants = True
        self.is_silent = False
        self._frames: asyncio.Queue[bytes] = asyncio.Queue()

    async def send(self, frame: bytes) -> None:
        message = codec.decode_from_agent(frame)
        self.heard.append(message)
        match message:
            case Pull():
                self.say(DesiredState(digest=codec.digest(self.intent), intent=self.intent))
            case Observed(sequence=sequence):
                self.say(ObservedAck(sequence=sequence))
            case Renew(sequence=sequence, tenure=tenure) if not self.is_silent:
                self.say(Renewed(sequence=sequence, granted=self.grants and tenure == self.intent.tenure))
            case _:
                pass

    async def recv(self) -> bytes:
        return await self._frames.get()

    def say(self, message: FromControl) -> None:
        self._frames.put_nowait(codec.encode(message))

    def renewals(self) -> list[Renew]:
        return [message for message in self.heard if isinstance(message, Renew)]

    def pulls(self) -> int:
        return sum(isinstance(message, Pull) for message in self.heard)


class Agent(Host):
    """The rest of an agent, which tells its lease what is on disk."""

    lease: Lease
    slow: asyncio.Event | None = None

    async def on_desired(self, state: DesiredState) -> None:
        if self.slow is not None:
            await self.slow.wait()
        await super().on_desired(state)
        if self.intent is not None:
            self.lease.told(self.intent)


class Scene:
    """A session between the two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = Control()
        self.agent = Agent()
        self.agent.lease = Lease(folder, SystemClock())
        self.running: asyncio.Task[None] | None = None

    def wants(self, *vms: VmIntent, tenure: int = 1) -> None:
        """What the control plane wants from the next pull on."""
        self.control.intent = NodeIntent(vms=vms, tenure=tenure)

    async def begin(self, *, lease_s: float = 30.0, renew_s: float = 0.05) -> None:
        nothing = SimpleNamespace(reconnected=lambda: None, request=lambda: None, refused=lambda _message: False)
        session = Session(
            self.control,  # type: ignore[arg-type]
            node=NodeId("node-1"),
            instance="run-1",
            reporter=self.agent,
            outbox=Outbox(),
            rotation=nothing,  # type: ignore[arg-type]
            clock=SystemClock(),
            random=lambda: 0.5,
            open_stream=lambda _request: None,
            lease=self.agent.lease,
        )
        self.control.say(
            Welcome(
                version=1,
                heartbeat_s=60,
                resync_s=600,
                server_time=datetime.now(UTC),
                lease_s=lease_s,
                renew_s=renew_s,
            )
        )
        await session.greet()
        self.running = asyncio.create_task(session.run())

    def left(self, vm: VmIntent) -> float:
        return read_lease(leases.file_of(self.folder, vm.id, vm.fence)) - SystemClock().boottime()

    async def ended(self) -> BaseException | None:
        assert self.running is not None
        await asyncio.wait({self.running}, timeout=5)
        return self.running.exception()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    yield made
    if made.running is not None:
        made.running.cancel()
        await asyncio.gather(made.running, return_exceptions=True)


def safe(fence: int = 1) -> VmIntent:
    return vm_intent(ha=HaPolicy.RESTART, fence=fence)


async def test_a_node_without_such_machines_asks_for_no_lease(scene):
    scene.wants(vm_intent())
    await scene.begin()
    await until(lambda: scene.agent.intent)
    scene.wants(vm_intent(), tenure=2)
    assert scene.control.renewals() == []


async def test_it_asks_at_once_when_one_comes_and_again_and_again(scene):
    one = safe()
    scene.wants(one)
    await scene.begin()
    await until(lambda: len(scene.control.renewals()) >= 4)
    assert {renewal.tenure for renewal in scene.control.renewals()} == {1}
    sequences = [renewal.sequence for renewal in scene.control.renewals()]
    assert sequences == sorted(set(sequences))
    assert 29 < scene.left(one) <= 30


async def test_a_control_plane_that_grants_no_leases_is_not_asked(scene):
    scene.wants(safe())
    await scene.begin(lease_s=0, renew_s=0)
    await until(lambda: scene.agent.intent)
    assert scene.control.renewals() == []


async def test_a_refused_lease_makes_it_pull_and_ask_for_the_tenure_that_it_finds(scene):
    one = safe()
    scene.wants(one)
    await scene.begin()
    await until(lambda: len(scene.control.renewals()) >= 2)
    pulls, asked = scene.control.pulls(), len(scene.control.renewals())
    scene.wants(one, tenure=7)
    await until(lambda: [renewal for renewal in scene.control.renewals() if renewal.tenure == 7])
    assert scene.control.pulls() == pulls + 1
    assert sum(renewal.tenure == 1 for renewal in scene.control.renewals()) <= asked + 2
    await until(lambda: 29 < scene.left(one) <= 30)


async def test_until_there_is_another_tenure_it_asks_no_more(scene):
    scene.wants(safe())
    scene.control.grants = False
    await scene.begin(renew_s=0.01)
    await until(lambda: scene.control.pulls() >= 2)
    await until(lambda: len(scene.agent.told) >= 2)
    assert len(scene.control.renewals()) == 1


async def test_a_control_plane_that_does_not_answer_is_given_up_sooner_the_first_time(scene, monkeypatch):
    monkeypatch.setattr(sessions, "RENEW_TIMEOUT_S", 0.1)
    scene.wants(safe())
    scene.control.is_silent = True
    await scene.begin()
    error = await scene.ended()
    assert isinstance(error, UnavailableError)
    assert error.code == "control_plane_silent"
    assert scene.agent.lease.silences == 1


async def test_whoever_was_silent_is_given_longer_until_it_answers(scene, monkeypatch):
    monkeypatch.setattr(sessions, "RENEW_TIMEOUT_S", 0.1)
    scene.wants(safe())
    scene.agent.lease.silences = 3
    scene.control.is_silent = True
    await scene.begin()
    await until(scene.control.renewals)
    await asyncio.wait({scene.running}, timeout=0.3)
    assert not scene.running.done()
    scene.control.say(Renewed(sequence=scene.control.renewals()[-1].sequence, granted=True))
    await until(lambda: scene.agent.lease.silences == 0)


async def test_a_disk_that_is_slow_does_not_cost_the_lease(scene, monkeypatch):
    monkeypatch.setattr(sessions, "RENEW_TIMEOUT_S", 0.2)
    one = safe()
    scene.wants(one)
    await scene.begin()
    await until(lambda: scene.left(one) > 29)
    scene.agent.slow = asyncio.Event()
    scene.wants(one, safe())
    scene.control.say(Wake())
    asked = len(scene.control.renewals())
    await until(lambda: len(scene.control.renewals()) > asked + 10)
    assert not scene.running.done()
    scene.agent.slow.set()
    await until(lambda: len(scene.agent.intent.vms) == 2)
