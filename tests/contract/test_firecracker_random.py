"""Machines under Firecracker to which things happen at random are always what was asked for last."""

import json
import random
from dataclasses import replace

import pytest

from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.model.hardware import Balloon, HotplugMethod, MemoryOptions
from nacre.model.units import MIB
from nacre.model.vms import ExitReason
from support.machines import Watch
from support.vmm.faults import Fault
from support.vmm.firecracker_lab import config, laboratory, leftovers

pytestmark = pytest.mark.anyio
ROOM = MemoryOptions(max_bytes=384 * MIB, hotplug=HotplugMethod.VIRTIO_MEM, balloon=Balloon())


@pytest.fixture
async def lab(monkeypatch):
    async for made in laboratory(monkeypatch):
        yield made


class Life:
    """A machine, and what it must be like after everything that was asked of it."""

    def __init__(self, lab, launch, guest, choice: random.Random) -> None:
        self.lab = lab
        self.launch = launch
        self.guest = guest
        self.choice = choice
        self.state = GuestState.RUNNING
        self.memory = 128 * MIB
        self.held = 0
        self.devices = {"root"}

    async def pause(self) -> None:
        await self.guest.pause()
        self.state = GuestState.PAUSED

    async def resume(self) -> None:
        await self.guest.resume()
        self.state = GuestState.RUNNING

    async def plug(self) -> None:
        await self.guest.attach_disk(self.lab.disk("data-1"))
        await self.guest.attach_nic(self.lab.nic())
        self.devices |= {"data_2d1", "nic_2d0"}

    async def unplug(self) -> None:
        await self.guest.detach_disk("data-1", 5)
        self.devices -= {"data_2d1"}

    async def resize(self) -> None:
        self.memory = self.choice.choice((128, 256, 384)) * MIB
        await self.guest.resize_memory(self.memory)

    async def reclaim(self) -> None:
        self.held = self.choice.choice((0, 16, 64)) * MIB
        await self.guest.reclaim(self.held)

    async def save(self) -> None:
        await self.pause()
        made = self.lab.root / f"saved-{self.choice.random()}"
        made.mkdir()
        await self.guest.save(made)
        if "data_2d1" in self.devices or "nic_2d0" in self.devices:
            return
        await self.guest.kill()
        self.launch = self.lab.launch()
        self.guest = self.lab.keep(await self.lab.driver.restore(self.launch, made))

    async def lose_the_agent(self) -> None:
        await self.guest.detach()
        handle = self.choice.choice((None, self.guest.handle))
        launch = replace(self.launch, disks=(), nics=(), kernel=None, memory=MemoryOptions())
        self.guest = self.lab.keep(await self.lab.driver.adopt(launch, handle))

    async def lose_answers(self) -> None:
        self.lab.spoil(Fault(kind=self.choice.choice(("silent", "drop")), method="PATCH", path="/vm"))
        await self.choice.choice((self.pause, self.resume))()
        self.lab.spoil()

    async def be_refused(self) -> None:
        self.lab.spoil(Fault(kind="503", method="PATCH"), Fault(kind="503", method="PUT"))
        deed = self.guest.resume if self.state is GuestState.PAUSED else self.guest.pause
        for asked in (deed(), self.guest.attach_disk(self.lab.disk("other"))):
            with pytest.raises(DriverError):
                await asked
        self.lab.spoil()

    async def check(self) -> None:
        assert await self.guest.state() is self.state
        sizes = await self.guest.sizes()
        assert (sizes.memory_bytes, sizes.reclaimed_bytes) == (self.memory, self.held)
        found = await config(self.guest)
        disks = {each["drive_id"] for each in found["drives"]}
        assert disks | {each["iface_id"] for each in found["network-interfaces"]} == self.devices


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_in_whatever_order(lab, seed):
    choice = random.Random(seed)
    launch, guest, _ = await lab.started(memory=ROOM)
    life = Life(lab, launch, guest, choice)
    deeds = [life.pause, life.resume, life.plug, life.unplug, life.resize, life.reclaim, life.save]
    deeds += [life.lose_the_agent, life.lose_answers, life.be_refused]
    done: list[str] = []
    for _ in range(30):
        deed = choice.choice(deeds)
        done.append(deed.__name__)
        await deed()
        await life.check()
    assert len(set(done)) > 6, json.dumps(done)
    watch = Watch(life.guest)
    await life.guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED
    assert leftovers(life.launch) == []
