"""The disk of a machine on its way from a node into an image: both ends are real, the network between is not."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from nacre.control.reconcilers.image_exports import NodeDisks
from nacre.control.reconcilers.images import ImageReconciler
from nacre.control.services import images
from nacre.control.services.checkpoints import create as checkpoint
from nacre.control.services.image_files import ImageDepot
from nacre.model.capabilities import Capability
from nacre.model.checkpoints import CheckpointIntent
from nacre.model.images import ImageState, Role
from nacre.model.units import GIB
from nacre.model.vms import Phase
from nacre.model.volumes import Wish
from nacre.protocol.messages import StreamKind
from nacre.schema.checkpoints import CheckpointCreate
from nacre.schema.images import ImageCreate
from support import images as made
from support.cloud import able, by, cloud, make_image
from support.exporting import exports, left
from support.intents import newer, vm_intent
from support.kept import SIZE, check_tidy, root_path, told
from support.local_streams import LocalStreams
from support.node import Node
from support.volumes import content, fill
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    found = Node()
    yield await found.begin()
    await found.close()


async def test_a_disk_becomes_an_image_while_its_machine_runs_on(sqlite_database, tmp_path, node):
    db = sqlite_database
    platform = await cloud(db, told=able(Capability.DISK_SNAPSHOT, Capability.CHECKPOINT))
    async with db.write() as tx:
        await make_image(tx, platform.project, "disk", disk_bytes=GIB)
    vm = await platform.running("web", image="disk")
    async with db.write() as tx:
        await checkpoint(tx, by("vm:checkpoint"), "web", CheckpointCreate(name="early"))
    (wanted,) = (await platform.agent.intents())[vm.id].checkpoints
    await platform.converge()

    intent = vm_intent(vm.id, disk_bytes=SIZE)
    node.want(intent)
    first = await node.shows(vm.id, Phase.RUNNING)
    fill(root_path(node, vm.id), "g")
    kept = CheckpointIntent(id=wanted.id, desired=Wish.PRESENT)
    node.want(intent := newer(intent, checkpoints=(kept,)))
    await told(node, vm.id, lambda seen: [one.id for one in seen.checkpoints] == [wanted.id])
    fill(root_path(node, vm.id), "x")

    source = exports(node)
    streams = LocalStreams({StreamKind.EXPORT: lambda: source.opened(vm.id)})
    depot = replace(ImageDepot.of(tmp_path / "data"), reserve_bytes=0)
    async with db.write() as tx:
        body = ImageCreate(name="golden", checkpoint="web/early")
        image = (await images.create(tx, by("image:create"), body, depot=depot)).resource.id
    disks = NodeDisks(db=db, streams=streams)
    task = asyncio.create_task(ImageReconciler(db, depot, nodes=disks).run())
    try:
        row = await until(lambda: made.in_state(db, image, ImageState.READY), timeout=120)
        await until(lambda: streams.open_now == 0 and left(node) == [])
    finally:
        task.cancel()
        await asyncio.wait([task])
    stored = depot.path(row.id, Role.DISK)
    assert content(stored, "qcow2")[0] == "g"
    assert row.artifacts[0].virtual_size_bytes == SIZE
    assert row.artifacts[0].sha256 == made.sha256(stored.read_bytes())
    assert node.newest(vm.id).run == first.run
    assert content(root_path(node, vm.id))[0] == "x"
    check_tidy(node, vm.id)
