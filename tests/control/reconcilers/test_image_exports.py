"""Disks that come from nodes: whole or not at all, again after every trouble, given up for good reasons only."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from nacre.control.reconcilers.image_exports import NodeDisks
from nacre.control.reconcilers.images import ImageReconciler
from nacre.control.services import checkpoint_facts, image_facts, images, operations
from nacre.control.services.checkpoints import create as checkpoint
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.operations import ListQuery
from nacre.control.store import nodes as node_store
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Database
from nacre.control.store.images import ImageRow
from nacre.errors import UnavailableError
from nacre.lib.clock import ManualClock
from nacre.model.capabilities import Capability
from nacre.model.exports import BUSY, DiskStatus, DiskWanted
from nacre.model.ids import NodeId, VmId
from nacre.model.images import ImageState, Role
from nacre.model.nodes import NodeState
from nacre.model.operations import OperationState
from nacre.model.units import GIB
from nacre.protocol.messages import StreamKind
from nacre.schema.checkpoints import CheckpointCreate
from nacre.schema.images import ImageCreate
from support import access
from support import images as made
from support.cloud import Cloud, able, by, cloud
from support.images import MIB
from support.waiting import until

pytestmark = pytest.mark.anyio

CAN = (Capability.DISK_SNAPSHOT, Capability.CHECKPOINT)

Script = Callable[[], AsyncIterator[bytes]]


def status(**fields: object) -> bytes:
    return msgspec.json.encode(DiskStatus(**fields))  # type: ignore[arg-type]


@dataclass
class Nodes:
    """The way to nodes, which send what a test says. Fulfils `image_exports.Streams`."""

    script: Script
    asked: list[tuple[VmId, NodeId, StreamKind]] = field(default_factory=list[tuple[VmId, NodeId, StreamKind]])
    wanted: list[bytes] = field(default_factory=list[bytes])
    open_now: int = 0

    @contextlib.asynccontextmanager
    async def open(self, vm: VmId, node: NodeId, kind: StreamKind) -> AsyncGenerator["Nodes"]:
        self.asked.append((vm, node, kind))
        self.open_now += 1
        try:
            yield self
        finally:
            self.open_now -= 1

    async def send(self, data: bytes) -> None:
        self.wanted.append(data)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.script()


def sending(content: bytes, *before: bytes, upto: int | None = None) -> Script:
    """A node that says this and then sends a disk, or the beginning of it."""

    async def frames() -> AsyncIterator[bytes]:
        for one in before:
            yield one
        yield status(size_bytes=len(content))
        for offset in range(0, len(content[:upto]), MIB // 4):
            yield content[offset : min(offset + MIB // 4, upto or len(content))]

    return frames


def refusing(error: UnavailableError) -> Script:
    """A node that cannot be reached, or says no before anything."""

    async def frames() -> AsyncIterator[bytes]:
        raise error
        yield b""

    return frames


@dataclass
class World:
    db: Database
    clock: ManualClock
    depot: ImageDepot
    cloud: Cloud
    nodes: Nodes

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        disks = NodeDisks(db=self.db, streams=self.nodes, silence_s=5)
        task = asyncio.create_task(ImageReconciler(self.db, self.depot, nodes=disks, renew_s=0.05).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def create(self, name: str = "golden", vm: str = "web") -> str:
        async with self.db.write() as tx:
            body = ImageCreate(name=name, checkpoint=f"{vm}/early")
            return (await images.create(tx, access.admin("image:create"), body, depot=self.depot)).resource.id

    async def row(self, image: str) -> ImageRow:
        found = await made.row(self.db, image)
        assert found is not None
        return found

    async def settled(self, image: str, state: ImageState = ImageState.READY) -> ImageRow:
        try:
            found = await until(lambda: made.in_state(self.db, image, state), timeout=60)
        except AssertionError as error:
            raise AssertionError(await made.row(self.db, image)) from error
        assert found is not None
        return found

    async def troubled(self, image: str, code: str) -> ImageRow:
        """Wait until the image waits for another try because of this."""

        async def waits() -> ImageRow | None:
            row = await self.row(image)
            return row if row.error_code == code and row.claim is None else None

        found = await until(waits, timeout=60)
        assert found is not None
        return found

    async def operation(self, image: str) -> tuple[OperationState, str, str]:
        async with self.db.read() as rd:
            page = await operations.list_(rd, access.admin("operation:list"), ListQuery(filters={"object": image}))
        (one,) = page.items
        return one.state, one.type, one.message


@pytest.fixture
def disk(tmp_path: Path) -> bytes:
    return made.converted(tmp_path, "qcow2", made.raw_disk(3 * MIB)).read_bytes()


@pytest.fixture
async def world(database: Database, clock: ManualClock, tmp_path: Path, disk: bytes) -> World:
    """A machine with a kernel, a disk and a checkpoint. The kernel's file is where images are."""
    platform = await cloud(database, told=able(*CAN))
    depot = replace(ImageDepot.of(tmp_path / "data"), reserve_bytes=0)
    kernel = made.kernel()
    await platform.running("web", disk_bytes=GIB)
    async with database.write() as tx:
        await checkpoint(tx, by("vm:checkpoint"), "web", CheckpointCreate(name="early"))
    await platform.converge()
    path = depot.path(platform.image, Role.KERNEL)
    path.parent.mkdir(parents=True)
    path.write_bytes(kernel)
    await made.artifact(database, platform.image, Role.KERNEL, kernel)
    return World(database, clock, depot, platform, Nodes(sending(disk)))


async def test_a_disk_comes_from_the_node_and_the_kernel_from_the_machines_image(world: World, disk: bytes) -> None:
    async with world.working():
        row = await world.settled(await world.create())
    stored = world.depot.path(row.id, Role.DISK)
    assert stored.read_bytes() == disk
    (kernel, root) = row.artifacts
    assert (kernel.role, kernel.sha256) == (Role.KERNEL, made.sha256(made.kernel()))
    assert world.depot.path(row.id, Role.KERNEL).read_bytes() == made.kernel()
    assert (root.role, root.format, root.sha256) == (Role.DISK, "qcow2", made.sha256(disk))
    assert (root.virtual_size_bytes, row.kernel_args) == (3 * MIB, "console=ttyS0")
    assert sorted(file.name for file in stored.parent.iterdir()) == ["disk", "kernel"]
    vm = await world.cloud.vm("web")
    assert world.nodes.asked == [(vm.id, world.cloud.agent.node, StreamKind.EXPORT)]
    assert row.captured is not None
    assert msgspec.json.decode(world.nodes.wanted[0], type=DiskWanted).checkpoint == row.captured.checkpoint
    assert (await world.operation(row.id))[:2] == (OperationState.SUCCEEDED, "image.capture")
    assert world.nodes.open_now == 0


async def test_how_far_the_node_is_is_told_and_whoever_cancels_then_is_rid_of_it(world: World) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield status(gathered_bytes=7 * MIB)
        await asyncio.Event().wait()

    world.nodes.script = endless
    image = await world.create()

    async def told() -> bool:
        return "the node copies it, 7MiB" in (await world.operation(image))[2]

    async with world.working():
        await until(told, timeout=60)
        async with world.db.write() as tx:
            page = await operations.list_(tx, access.admin("operation:list"), ListQuery(filters={"object": image}))
            await operations.cancel(tx, access.admin("operation:cancel"), page.items[0].id, {"image": images.cancel})

        async def gone() -> bool:
            return await made.row(world.db, image) is None

        await until(gone, timeout=60)
    assert world.nodes.open_now == 0
    assert not (world.depot.folder / image).exists()


TROUBLE = UnavailableError("node_not_answering", "the node of the machine did not answer", hint="see the console")


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (refusing(TROUBLE), "node_not_answering"),
        (refusing(UnavailableError("stream_broken", "it broke", hint="open the console again")), "stream_broken"),
        (sending(made.raw_disk(2 * MIB), upto=MIB), "disk_cut_short"),
    ],
    ids=["away", "broken", "short"],
)
async def test_what_did_not_come_is_fetched_again_from_the_start(
    world: World, disk: bytes, first: Script, code: str
) -> None:
    world.nodes.script = first
    image = await world.create()
    async with world.working():
        row = await world.troubled(image, code)
        assert (row.state, row.attempts > 0) == (ImageState.FETCHING, True)
        assert "console" not in row.hint
        world.nodes.script = sending(disk)
        world.clock.advance(60)
        world.db.wakes.ring("images")
        row = await world.settled(image)
    assert world.depot.path(row.id, Role.DISK).read_bytes() == disk
    assert (row.error_code, row.attempts) == ("", 0)


async def test_to_wait_for_ones_turn_is_no_try(world: World, disk: bytes) -> None:
    world.nodes.script = refusing(UnavailableError(BUSY, "the node sends 2 other disks", hint="it is tried again"))
    image = await world.create()
    async with world.working():
        for _ in range(image_facts.MAX_ATTEMPTS + 2):
            row = await world.troubled(image, BUSY)
            assert row.attempts == 0
            tries = len(world.nodes.asked)
            world.clock.advance(10)
            world.db.wakes.ring("images")
            await until(lambda tries=tries: len(world.nodes.asked) > tries, timeout=60)
        await world.troubled(image, BUSY)
        world.nodes.script = sending(disk)
        world.clock.advance(10)
        world.db.wakes.ring("images")
        await world.settled(image)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (
            lambda: _frames(status(code="checkpoint_missing", message="it is not there", hint="another")),
            "checkpoint_missing",
        ),
        (lambda: _frames(b"what?"), "invalid_answer"),
        (lambda: _frames(status(size_bytes=1 << 50)), "image_too_large"),
        (sending(made.raw_disk(MIB)), "image_format_mismatch"),
    ],
    ids=["missing", "nonsense", "large", "raw"],
)
async def test_what_will_never_be_an_image_fails_with_the_reason(world: World, script: Script, code: str) -> None:
    world.nodes.script = script
    image = await world.create()
    async with world.working():
        row = await world.settled(image, ImageState.FAILED)
        assert (row.error_code, row.hint != "") == (code, True)
        await until(lambda: not (world.depot.folder / image).exists())
    assert (await world.operation(image))[0] is OperationState.FAILED


async def test_a_node_that_says_later_is_asked_later(world: World, disk: bytes) -> None:
    full = status(code="storage_full", message="the node has no room", hint="make some", retryable=True)
    world.nodes.script = lambda: _frames(full)
    image = await world.create()
    async with world.working():
        assert (await world.troubled(image, "storage_full")).hint == "make some"
        world.nodes.script = sending(disk)
        world.clock.advance(60)
        world.db.wakes.ring("images")
        await world.settled(image)


async def test_a_node_that_falls_silent_or_is_away_is_not_waited_for_for_ever(world: World, disk: bytes) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield status(size_bytes=MIB)
        await asyncio.Event().wait()

    world.nodes.script = silent
    image = await world.create()
    disks = NodeDisks(db=world.db, streams=world.nodes, silence_s=0.05)
    task = asyncio.create_task(ImageReconciler(world.db, world.depot, nodes=disks, renew_s=0.05).run())
    try:
        await world.troubled(image, "disk_cut_short")
        async with world.db.write() as tx:
            (row,) = await node_store.every(tx, lock=True)
            await node_store.save(tx, row, replace(row, state=NodeState.OFFLINE))
        tries = len(world.nodes.asked)
        world.clock.advance(60)
        world.db.wakes.ring("images")
        assert "nacre node show" in (await world.troubled(image, "node_away")).hint
        assert len(world.nodes.asked) == tries
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_checkpoint_that_is_lost_with_its_machine_ends_it(world: World) -> None:
    image = await world.create()
    async with world.db.write() as tx:
        row = await vm_store.named(tx, world.cloud.project, "web")
        assert row is not None
        await vm_store.save(tx, await checkpoint_facts.left_behind(tx, row))
    async with world.working():
        found = await world.settled(image, ImageState.FAILED)
    assert found.error_code == "checkpoint_gone"
    assert world.nodes.asked == []


async def test_a_reconciler_that_leaves_in_the_middle_is_followed_by_one_that_begins_anew(
    world: World, disk: bytes
) -> None:
    half = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield status(size_bytes=len(disk))
        yield disk[:MIB]
        half.set()
        await asyncio.Event().wait()

    world.nodes.script = stuck
    image = await world.create()
    async with world.working():
        await half.wait()
    assert world.nodes.open_now == 0
    row = await world.row(image)
    assert (row.state, row.claim) == (ImageState.FETCHING, None)
    world.nodes.script = sending(disk)
    async with world.working():
        await world.settled(image)
    assert world.depot.path(row.id, Role.DISK).read_bytes() == disk


async def test_without_a_way_to_nodes_the_image_waits(world: World) -> None:
    image = await world.create()
    task = asyncio.create_task(ImageReconciler(world.db, world.depot, renew_s=0.05).run())
    try:
        await world.troubled(image, "no_gateway")
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _frames(*frames: bytes) -> AsyncIterator[bytes]:
    for one in frames:
        yield one
