"""Who has a volume open: nobody, a guest, or nobody knows. While its machine is between two nodes, nobody knows."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from nacre.agent.guest.qga import GuestAgent
from nacre.agent.guest.watch import GuestWatch
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.doors import Door
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.records import Arriving, Record, RecordStore, Run, Sending
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.agent.volume_users import MOVING, held_still, user_of
from nacre.lib.clock import ManualClock
from nacre.model.consistency import Consistency
from nacre.model.convergence import FailureClass
from nacre.model.ids import RunId, StreamId, VolumeId
from nacre.model.vms import ExitReason, RunInfo
from nacre.model.volumes import VolumeAttachment
from support.guest_agent import FakeAgent, serving
from support.intents import vm_intent

DATA, OTHER = VolumeId("vol-1"), VolumeId("vol-2")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
INFO = RunInfo(
    id=RunId("run-1"),
    started_at=NOW,
    accelerator="",
    accelerator_reason="",
    cpus=1,
    memory_bytes=1,
    volumes=(DATA,),
)
STREAM = StreamId("str-1")


@dataclass
class Somebody:
    """A guest."""


@pytest.fixture
def machine(tmp_path) -> Machine:
    """One that runs with the volume."""
    intent = vm_intent(volumes=(VolumeAttachment(volume=DATA),))
    run = Run(info=INFO, hypervisor="fake", handle={})
    record = Record(id=intent.id, intent=intent, run=run, found_at=NOW)
    made = Machine(record, RecordStore(tmp_path), ManualClock(), lambda: 0.0, changed=lambda _: None)
    made.guest = cast("Guest", Somebody())
    made.presence = Presence.RUNNING
    return made


def ended(machine: Machine) -> None:
    """Its process is gone."""
    info = msgspec.structs.replace(INFO, exited_at=NOW, exit_reason=ExitReason.CRASHED)
    machine.note(run=Run(info=info, hypervisor="fake", handle={}))
    machine.guest, machine.presence = None, Presence.NONE


def refusal(machine: Machine) -> DriverError:
    with pytest.raises(DriverError) as caught:
        user_of([machine], DATA)
    assert caught.value.failure_class is FailureClass.WAITING
    assert caught.value.hint
    return caught.value


def test_it_is_the_guest_that_has_it_open_or_nobody(machine):
    assert user_of([machine], DATA) is machine.guest
    assert user_of([machine], OTHER) is None
    ended(machine)
    assert user_of([machine], DATA) is None


@pytest.mark.parametrize(
    "between",
    [
        {"sending": Sending(stream=STREAM)},
        {"sending": Sending(stream=STREAM, sent=True)},
        {"arriving": Arriving(stream=STREAM)},
        {"arriving": Arriving(stream=STREAM, received=True)},
    ],
    ids=str,
)
@pytest.mark.parametrize("presence", list(Presence))
@pytest.mark.parametrize("has_ended", [False, True])
def test_between_two_nodes_nobody_knows_whatever_has_become_of_the_process(machine, between, presence, has_ended):
    if has_ended:
        ended(machine)
    machine.note(**between)
    machine.presence = presence
    assert refusal(machine).code == MOVING
    assert user_of([machine], OTHER) is None


async def stillness(machine: Machine, volume: VolumeId = DATA) -> Consistency:
    async with held_still([machine], volume) as found:
        return found


@pytest.mark.anyio
async def test_the_guest_that_has_it_open_holds_its_file_systems_still(machine, tmp_path):
    fake = FakeAgent()
    async with serving(fake, tmp_path / "ga") as socket:
        agent = GuestAgent(Door(socket, os.getpid()))
        machine.inside = cast("GuestWatch", SimpleNamespace(agent=agent, answering=True))
        async with held_still([machine], DATA) as found:
            assert found is Consistency.FILESYSTEM
            assert fake.frozen
        assert not fake.frozen
        asked = len(fake.asked)
        assert await stillness(machine, OTHER) is Consistency.FILESYSTEM, "nobody has that open"
        assert len(fake.asked) == asked
        fake.offered = ("guest-sync-delimited",)
        assert await stillness(machine) is Consistency.CRASH, "this one cannot"
        machine.inside.answering = False
        assert await stillness(machine) is Consistency.CRASH
        agent.close()


@pytest.mark.anyio
async def test_without_a_guest_it_is_as_the_machine_left_it(machine):
    machine.inside = None
    assert await stillness(machine) is Consistency.CRASH
    ended(machine)
    assert await stillness(machine) is Consistency.CRASH, "it crashed"
    info = msgspec.structs.replace(INFO, exited_at=NOW, exit_reason=ExitReason.GUEST_SHUTDOWN)
    machine.note(run=Run(info=info, hypervisor="fake", handle={}))
    assert await stillness(machine) is Consistency.FILESYSTEM


def test_a_guest_that_does_not_answer_may_have_it_open(machine):
    machine.guest = None
    assert refusal(machine).code == "volume_user_unknown"
