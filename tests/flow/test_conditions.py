"""What is wrong with a host is seen at the control plane with the next heartbeat, and so is that it is over."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from nacre.agent.exports import Exports
from nacre.agent.host import inventory
from nacre.agent.hypervisors.base import Hypervisor
from nacre.agent.hypervisors.qemu.driver import QemuHypervisor
from nacre.agent.identity import Identity, IdentityFiles
from nacre.agent.link import Link
from nacre.agent.observer import Observer
from nacre.agent.reporting import Reporting
from nacre.agent.settings import load
from nacre.control.services import nodes
from nacre.control.store.db import Database
from nacre.lib.clock import ManualClock
from nacre.model.nodes import ConditionKind
from nacre.model.units import GIB, MIB
from nacre.schema.nodes import NodeOut
from support.cloud import by
from support.hosttree import plant, write
from support.ledger import event_types
from support.linking import Replica, instance, replica
from support.node import Node
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the programs run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
async def gate(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Replica]:
    async with replica(sqlite_database, tmp_path, heartbeat_s=0.05) as running:
        yield running


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = await Node().begin()
    yield made
    await made.close()


class Fleet:
    """A node with a real agent's reporting and link, and what the control plane knows of it."""

    def __init__(self, gate: Replica, node: Node, root: Path) -> None:
        self.gate = gate
        self.node = node
        self.root = plant("server", root / "host")
        self.running = {"lo": True, "bond0": True}
        self.hypervisors: dict[str, Hypervisor] = dict(node.host.hypervisors)
        self.clock = ManualClock(gate.db.clock.now())

    @asynccontextmanager
    async def linked(self) -> AsyncGenerator[None]:
        """The link is up in this block."""
        identity, files = await self._enrolled()
        told = Reporting(
            settings=load(None, {}, {"data_dir": str(self.node.root)}),
            records=self.node.records,
            executor=self.node.executor,
            observer=Observer(),
            images=self.node.host.images,
            consoles=self.node.consoles,
            hypervisors=self.hypervisors,
            clock=self.clock,
            exports=Exports(self.node.host, ended=self.node.executor.layers_freed),
            root=self.root,
            running=lambda: self.running,
        )
        link = Link(identity, files, told, self.clock, lambda: 0.5, instance(self.gate.db))
        running = asyncio.create_task(link.run())
        try:
            await until(lambda: link.is_up)
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _enrolled(self) -> tuple[Identity, IdentityFiles]:
        return await self.gate.enrolled(self.root / "identity")

    async def shown(self) -> NodeOut:
        """The node as an operator sees it."""
        async with self.gate.db.read() as rd:
            return await nodes.show(rd, by("node:view"), "host-1")

    async def kinds(self) -> set[ConditionKind]:
        """What is wrong, as an operator sees it."""
        return {condition.kind for condition in (await self.shown()).conditions}

    async def raises(self, kind: ConditionKind) -> None:
        """Wait until it is seen."""

        async def seen() -> bool:
            return kind in await self.kinds()

        await until(seen)

    async def clears(self, kind: ConditionKind) -> None:
        """Wait until it is over, and look at what was told of it."""

        async def over() -> bool:
            return kind not in await self.kinds()

        await until(over)
        types = await event_types(self.gate.db, (await self.shown()).id)
        told = [type_ for type_ in types if type_.startswith("node.condition")]
        assert told == ["node.condition_raised", "node.condition_cleared"]


@pytest.fixture
def fleet(gate: Replica, node: Node, tmp_path: Path) -> Fleet:
    return Fleet(gate, node, tmp_path)


async def test_a_host_that_is_well_has_no_conditions_and_tells_what_it_is_made_of(fleet: Fleet) -> None:
    async with fleet.linked():

        async def told() -> bool:
            return (await fleet.shown()).usage is not None

        await until(told)
        seen = await fleet.shown()
        assert seen.conditions == ()
        assert seen.inventory is not None
        assert [disk.wwn for disk in seen.inventory.disks][1] == "0x5002538b73a1b2c0"


async def test_no_disk_left(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    used = SimpleNamespace(total=100 * GIB, used=99 * GIB + 900 * MIB, free=124 * MIB)
    async with fleet.linked():
        with monkeypatch.context() as patch:
            patch.setattr(inventory, "shutil", SimpleNamespace(disk_usage=lambda _path: used))
            await fleet.raises(ConditionKind.DISK_PRESSURE)
        await fleet.clears(ConditionKind.DISK_PRESSURE)


async def test_no_memory_left(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(total=8 * GIB, available=100 * MIB)
    async with fleet.linked():
        with monkeypatch.context() as patch:
            patch.setattr(inventory.psutil, "virtual_memory", lambda: memory)
            await fleet.raises(ConditionKind.MEMORY_PRESSURE)
        await fleet.clears(ConditionKind.MEMORY_PRESSURE)


async def test_off_the_network(fleet: Fleet) -> None:
    route = (fleet.root / "proc/net/route").read_text()
    async with fleet.linked():
        fleet.running["bond0"] = False
        await fleet.raises(ConditionKind.NETWORK_UNAVAILABLE)
        fleet.running["bond0"] = True
        await fleet.clears(ConditionKind.NETWORK_UNAVAILABLE)
        write(fleet.root, "proc/net/route", route.replace("00000000\t0102000A", "0003000A\t0102000A"))
        await fleet.raises(ConditionKind.NETWORK_UNAVAILABLE)
        write(fleet.root, "proc/net/route", route)

        async def over() -> bool:
            return not await fleet.kinds()

        await until(over)


async def test_off_the_network_beside_the_control_plane_is_nothing(fleet: Fleet) -> None:
    fleet.running["bond0"] = False
    (fleet.node.root / "identity").mkdir()
    (fleet.node.root / "identity" / "gateways").write_text("127.0.0.1:7481\n")
    async with fleet.linked():

        async def told() -> bool:
            return (await fleet.shown()).usage is not None

        await until(told)
        assert await fleet.kinds() == set()


async def test_a_clock_that_is_wrong(fleet: Fleet) -> None:
    async with fleet.linked():
        fleet.clock.jump(-600)
        await fleet.raises(ConditionKind.CLOCK_SKEW)
        assert "600 s behind" in (await fleet.shown()).conditions[0].message
        fleet.clock.jump(600)
        await fleet.clears(ConditionKind.CLOCK_SKEW)


@pytest.mark.host
async def test_qemu_is_removed_and_installed_again_while_the_agent_runs(fleet: Fleet, tmp_path: Path) -> None:
    real = shutil.which("qemu-system-x86_64")
    assert real is not None
    binary = tmp_path / "qemu-system-x86_64"
    binary.symlink_to(real)
    fleet.hypervisors = {"qemu": QemuHypervisor(state_directory=tmp_path / "state", binary=str(binary))}
    async with fleet.linked():
        assert (await fleet.shown()).hypervisors[0].available
        binary.unlink()
        await fleet.raises(ConditionKind.HYPERVISOR_UNAVAILABLE)
        seen = await fleet.shown()
        assert not seen.hypervisors[0].available
        assert "apt-get install qemu-system-x86" in seen.hypervisors[0].reason
        binary.symlink_to(real)
        await fleet.clears(ConditionKind.HYPERVISOR_UNAVAILABLE)
        assert (await fleet.shown()).hypervisors[0].available
