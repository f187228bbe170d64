"""Machines that come with volumes which both nodes reach: real files, records and processes, and a door to come in by.

The control plane and the other node are the test. Whatever breaks, the volume stays as it is and nothing of the machine
is left; and if it is handed over, it goes on with its volume.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.fake import FakeHypervisor
from nacre.agent.hypervisors.launch import Launch
from nacre.errors import NacreError
from nacre.model.arrivals import ArrivingVolume, Room, VmArrival
from nacre.model.ids import NodeId, PoolId, StreamId, VolumeId
from nacre.model.migrations import ArrivalState, DiskOffer, Offer, VolumeOffer
from nacre.model.vms import Phase, VmIntent
from nacre.model.volumes import PoolIntent, PoolKind, VolumeAttachment
from nacre.protocol.messages import NodeIntent
from support.crossing import Nobody
from support.intents import IMAGE, newer, vm_intent
from support.node import Node
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]

POOL, DATA, STREAM = PoolId("pool-1"), VolumeId("vol-" + "0" * 26), StreamId("str-1")
ROOM = Room(cpus=2, memory_bytes=64 << 20, disk_bytes=0)
HOME = ArrivingVolume(id=DATA, name="data", pool=POOL)


class Receiver(FakeHypervisor):
    """Takes in what comes as if all of it were there at once; it stands still, and does not have its disks yet."""

    def __init__(self, state: Path) -> None:
        super().__init__(state_directory=state)
        self.launches: list[Launch] = []
        self.took_over = 0
        self.refuses = False

    async def receive_held(self, launch: Launch, socket: Path) -> Guest:
        """See `CanReceiveHeld`."""
        del socket
        if self.refuses:
            raise DriverError("no_process", "there is no process", hint="it is tried again")
        self.launches.append(launch)
        guest = await self.start(replace(launch, arrival=None))
        await guest.pause()

        async def take_over() -> None:
            self.took_over += 1

        guest.take_over = take_over  # type: ignore[attr-defined]
        return guest


class Door(Nobody):
    """Where the other node comes in."""

    def __init__(self) -> None:
        self.offered: Callable[[Offer], Awaitable[Path]] | None = None

    async def expect(
        self,
        stream: StreamId,
        source: NodeId,
        *,
        offered: Callable[[Offer], Awaitable[Path]],
        lost: Callable[[], None],
    ) -> tuple[str, ...]:
        """Remember how to come in."""
        self.offered = offered
        return await super().expect(stream, source, offered=offered, lost=lost)


class Target:
    """The node that takes the machine in."""

    def __init__(self, shared: Path) -> None:
        self.door = Door()
        self.node = Node(gate=self.door, pool_roots=(str(shared),))
        self.driver = Receiver(self.node.root / "state")
        self.node.driver = self.driver
        self.node.host = self.node._host()
        self.node.executor = self.node._executor()
        self.shared = shared
        self.vm = vm_intent(fence=2, volumes=(VolumeAttachment(volume=DATA),))

    async def begin(self) -> "Target":
        pool = PoolIntent(id=POOL, name="nfs", kind=PoolKind.DIRECTORY, path=str(self.shared), shared=True)
        self.node.pools.want([pool])
        store = self.node.pools.store(POOL)
        await store.create(DATA, size_bytes=1 << 20, base=None, keep_base=False)
        self.layer = (await store.disk(DATA)).path.name  # type: ignore[union-attr]
        await self.node.begin()
        return self

    def told(self, *vms: VmIntent, coming: bool = False) -> None:
        arrival = VmArrival(stream=STREAM, source=NodeId("node-a"), vm=self.vm, volumes=(HOME,), room=ROOM)
        self.node.executor.want(NodeIntent(vms=vms, images=(IMAGE,), arrivals=(arrival,) if coming else ()))

    async def reaches(self, state: ArrivalState) -> None:
        await until(lambda: (seen := self.node.newest(self.vm.id)) and seen.arriving and seen.arriving.state is state)

    async def offer(self, **changes: object) -> Path:
        """The other node comes."""
        self.told(coming=True)
        await self.reaches(ArrivalState.READY)
        assert self.door.offered is not None
        offer = Offer(shape="", cpus=1, memory_bytes=64 << 20, volumes=(VolumeOffer(id=DATA, layer=self.layer),))
        return await self.door.offered(msgspec.structs.replace(offer, **changes))

    def files(self) -> dict[str, bytes]:
        """What lies in the pool."""
        found = (path for path in self.shared.rglob("*") if path.is_file())
        return {str(path.relative_to(self.shared)): path.read_bytes() for path in found}

    async def rejected(self) -> None:
        """Nothing is left of it."""
        self.told()
        await until(lambda: self.node.records.load_all() == {})
        assert self.node.pids() == []
        assert list((self.node.root / "vms").iterdir()) == []
        assert list((self.node.root / "run").iterdir()) == []


@pytest.fixture
async def target(tmp_path) -> AsyncIterator[Target]:
    shared = tmp_path / "shared"
    shared.mkdir()
    made = await Target(shared).begin()
    yield made
    await made.node.close()


async def test_what_comes_has_its_volume_and_leaves_it_alone_until_it_belongs_here(target):
    before = target.files()
    await target.offer()
    await target.reaches(ArrivalState.ARRIVED)
    (launch,) = target.driver.launches
    assert [disk.id for disk in launch.disks] == [DATA]
    assert launch.arrival is not None
    assert launch.arrival.disks == ()
    assert (target.driver.took_over, target.node.pools.known) == (0, {})
    with pytest.raises(DriverError):
        target.node.executor.user_of(DATA)
    target.told(newer(target.vm, arrived_by=STREAM))
    seen = await target.node.shows(target.vm.id, Phase.RUNNING, 2)
    assert (seen.run.volumes, target.driver.took_over) == ((DATA,), 1)
    assert target.node.executor.user_of(DATA) is not None
    assert target.files() == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"volumes": ()}, "disks_differ"),
        ({"volumes": (VolumeOffer(id=VolumeId("vol-2"), layer="x"),)}, "disks_differ"),
        ({"volumes": (VolumeOffer(id=DATA, layer="older.qcow2"),)}, "volume_differs"),
    ],
    ids=["none", "another", "another state"],
)
async def test_what_is_not_the_same_on_both_nodes_is_not_taken_in(target, changes, code):
    before = target.files()
    with pytest.raises(NacreError) as caught:
        await target.offer(**changes)
    assert caught.value.code == code
    assert caught.value.hint
    await target.reaches(ArrivalState.FAILED)
    assert target.driver.launches == []
    await target.rejected()
    assert target.files() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"cpus": 3},
        {"cpus": -1},
        {"least_cpus": 3},
        {"memory_bytes": (64 << 20) + 1},
        {"least_memory_bytes": 1 << 40},
        {"disks": (DiskOffer(id="root", size_bytes=1 << 50),)},
    ],
)
async def test_what_has_more_than_is_kept_free_for_it_is_not_taken_in(target, changes):
    with pytest.raises(NacreError) as caught:
        await target.offer(**changes)
    assert caught.value.code == "offer_too_large"
    assert caught.value.hint
    await target.reaches(ArrivalState.FAILED)
    assert target.driver.launches == []
    await target.rejected()


async def test_what_does_not_come_in_the_end_leaves_the_volume_as_it_was(target):
    before = target.files()
    await target.offer()
    await target.reaches(ArrivalState.ARRIVED)
    await target.rejected()
    assert target.files() == before
    assert target.driver.took_over == 0


@pytest.mark.parametrize("is_handed_over", [False, True])
@pytest.mark.parametrize("steps", range(5))
async def test_an_agent_that_dies_at_any_step_of_an_arrival_loses_nothing(target, monkeypatch, steps, is_handed_over):
    """Every record that is written is counted; after `steps` of them there is no agent any more."""
    before, left, died = target.files(), steps, asyncio.Event()
    real = target.node.records.save

    def counted(record):
        nonlocal left
        if left == 0:
            died.set()
            raise OSError(5, "the agent is dead")
        left -= 1
        real(record)

    monkeypatch.setattr(target.node.records, "save", counted)

    async def whole():
        await target.offer()
        await target.reaches(ArrivalState.ARRIVED)

    going = asyncio.create_task(whole())
    await asyncio.wait({going, dead := asyncio.create_task(died.wait())}, return_when=asyncio.FIRST_COMPLETED)
    for task in (going, dead):
        task.cancel()
    await asyncio.gather(going, dead, return_exceptions=True)
    monkeypatch.undo()
    target.node.told.clear()
    await target.node.restart()
    target.told(coming=True)
    seen = await until(
        lambda: (
            (one := target.node.newest(target.vm.id))
            and one.arriving
            and one.arriving.state in {ArrivalState.READY, ArrivalState.ARRIVED, ArrivalState.FAILED}
            and one
        )
    )
    if is_handed_over and seen.arriving.state is ArrivalState.ARRIVED:
        target.told(newer(target.vm, arrived_by=STREAM))
        assert (await target.node.shows(target.vm.id, Phase.RUNNING, 2)).run.volumes == (DATA,)
        assert len(target.node.pids()) == 1
    else:
        await target.rejected()
    assert target.files() == before
