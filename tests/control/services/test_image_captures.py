"""Images from checkpoints as callers see them: what is in them, what is refused and held, and who comes of them."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from nacre.control.gateway import desired
from nacre.control.services import checkpoints, image_facts, images, operations, vms
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.listing import ListQuery
from nacre.control.store import checkpoints as checkpoint_store
from nacre.control.store import events as event_store
from nacre.control.store import images as store
from nacre.control.store import nodes as node_store
from nacre.control.store import vms as vm_store
from nacre.control.store.images import Origin, Stage
from nacre.errors import ConflictError, InvalidInputError, NacreError, NotFoundError, UnavailableError, UnsupportedError
from nacre.model.access import Role as Grade
from nacre.model.capabilities import Capability
from nacre.model.convergence import Failure, FailureClass
from nacre.model.images import Artifact, Format, ImageDefaults, ImageState, Role, Visibility
from nacre.model.nodes import NodeState
from nacre.model.units import GIB, MIB
from nacre.model.vms import Desired
from nacre.schema.checkpoints import CheckpointCreate
from nacre.schema.images import ArtifactSource, ImageCreate, ImageUpdate
from support import access
from support.cloud import SEALER, able, by, cloud, make_image, make_project

pytestmark = pytest.mark.anyio

CAN = (Capability.DISK_SNAPSHOT, Capability.CHECKPOINT)


class Golden:
    """What is done here, over and over."""

    def __init__(self, made, depot):
        self.cloud = made
        self.db = made.db
        self.depot = depot

    async def ask(self, action, service, *args, **kwargs):
        async with self.db.write() as tx:
            return await service(tx, by(action), *args, **kwargs)

    async def create(self, name="golden", checkpoint="web/early", *, caller=None, **fields):
        body = ImageCreate(name=name, checkpoint=checkpoint, **fields)
        async with self.db.write() as tx:
            return await images.create(tx, caller or by("image:create"), body, depot=self.depot)

    async def checkpoint(self, name="early", vm="web", **fields):
        await self.ask("vm:checkpoint", checkpoints.create, vm, CheckpointCreate(name=name, **fields))
        await self.cloud.converge()

    async def delete_checkpoint(self, name="early", vm="web"):
        return await self.ask("vm:checkpoint", checkpoints.delete, vm, name)

    async def row(self, name="golden"):
        async with self.db.read() as rd:
            (row,) = await store.named(rd, name, {self.cloud.project})
            return row

    async def ready(self, name="golden"):
        """All of it has arrived."""
        row = await self.row(name)
        for part in row.parts:
            kind = Format.QCOW2 if part.role is Role.DISK else Format.RAW
            artifact = Artifact(role=part.role, format=kind, size_bytes=MIB, sha256="1" * 64, virtual_size_bytes=GIB)
            async with self.db.write() as tx:
                await image_facts.done(tx, row.id, artifact)

    async def intents(self):
        async with self.db.read() as rd:
            return {one.name: one for one in (await desired.load(rd, self.cloud.agent.node, SEALER)).vms}

    async def grown(self, disk_bytes, vm="web"):
        """The root disk in the checkpoint has another size."""
        async with self.db.write() as tx:
            row = await vm_store.named(tx, self.cloud.project, vm)
            kept = await checkpoint_store.get(tx, "early", vm=row.id)
            await checkpoint_store.save(tx, replace(kept, disk_bytes=disk_bytes))

    async def node(self, **changes):
        async with self.db.write() as tx:
            (row,) = await node_store.every(tx, lock=True)
            await node_store.save(tx, row, replace(row, **changes))


@pytest.fixture
async def golden(database, tmp_path):
    """A machine that runs from an image with a disk, and a checkpoint of it."""
    made = await cloud(database, told=able(*CAN))
    async with database.write() as tx:
        await make_image(tx, made.project, "disk", disk_bytes=GIB, defaults=ImageDefaults(cpus=3, disk_bytes=2 * GIB))
    await made.running("web", image="disk", disk_bytes=GIB)
    found = Golden(made, ImageDepot.of(tmp_path / "data"))
    await found.checkpoint()
    return found


async def refusal(kind, action):
    with pytest.raises(kind) as caught:
        await action
    assert caught.value.hint
    return caught.value.code, caught.value.field


async def test_an_image_of_a_disk_is_on_its_way_private_and_says_where_it_is_from(golden):
    accepted = await golden.create(labels={"tier": "gold"})
    image = accepted.resource
    assert (image.state, image.visibility, image.kernel_args) == (ImageState.FETCHING, Visibility.PRIVATE, "")
    assert image.captured is not None
    assert (image.captured.vm_name, image.captured.checkpoint_name) == ("web", "early")
    assert [part.role for part in image.progress] == [Role.DISK]
    assert image.defaults == ImageDefaults(cpus=3, disk_bytes=2 * GIB)
    row = await golden.row()
    assert [(part.role, part.origin, part.format, part.stage) for part in row.parts] == [
        (Role.DISK, Origin.CHECKPOINT, Format.QCOW2, Stage.RECEIVING)
    ]
    assert row.work_at is not None
    async with golden.db.read() as rd:
        operation = await operations.get(rd, accepted.operation.id)
        told = await event_store.span(rd, visible=None, after=0, before=None, limit=9, equal={"object_id": image.id})
    assert (operation.type, operation.cancellable) == ("image.capture", True)
    (event,) = told
    assert event.message == "root created image golden from checkpoint early of machine web"
    assert event.details == {"vm": image.captured.vm, "checkpoint": image.captured.checkpoint}


async def test_a_default_that_is_too_small_for_the_disk_is_not_taken_over(golden):
    await golden.grown(4 * GIB)
    assert (await golden.create()).resource.defaults == ImageDefaults(cpus=3)


async def test_what_the_machine_booted_by_is_taken_over(golden):
    await golden.cloud.running("kernel", disk_bytes=GIB)
    await golden.checkpoint(vm="kernel")
    await golden.create(checkpoint="kernel/early", defaults=ImageDefaults(memory_bytes=GIB))
    row = await golden.row()
    assert [(part.role, part.origin) for part in row.parts] == [
        (Role.KERNEL, Origin.IMAGE),
        (Role.DISK, Origin.CHECKPOINT),
    ]
    assert (row.parts[0].location, row.parts[0].sha256) == (golden.cloud.image, "0" * 64)
    assert (row.kernel_args, row.defaults.memory_bytes) == ("console=ttyS0", GIB)
    await golden.create("other", "kernel/early", kernel_args="quiet")
    assert (await golden.row("other")).kernel_args == "quiet"


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"checkpoint": "web/late"}, NotFoundError, ("checkpoint_not_found", "checkpoint")),
        ({"checkpoint": "web"}, NotFoundError, ("checkpoint_not_found", "checkpoint")),
        ({"checkpoint": "nobody/early"}, NotFoundError, ("checkpoint_not_found", "checkpoint")),
        ({"checkpoint": None}, InvalidInputError, ("nothing_to_boot", "artifacts")),
        (
            {"artifacts": (ArtifactSource(role=Role.DISK),)},
            InvalidInputError,
            ("checkpoint_and_more", "artifacts"),
        ),
        ({"kernel_args": "quiet"}, InvalidInputError, ("kernel_args_without_kernel", "kernel_args")),
        ({"name": "disk"}, ConflictError, ("image_exists", "name")),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field(golden, fields, kind, said):
    assert await refusal(kind, golden.create(**fields)) == said


async def test_a_checkpoint_that_is_not_ready_failed_or_goes_is_refused(golden):
    await golden.ask("vm:checkpoint", checkpoints.create, "web", CheckpointCreate(name="coming"))
    said = ("checkpoint_not_ready", "checkpoint")
    assert await refusal(ConflictError, golden.create(checkpoint="web/coming")) == said
    agent = golden.cloud.agent
    (intent,) = (await agent.intents()).values()
    failure = Failure(
        failure_class=FailureClass.PERMANENT,
        code="storage_full",
        message="full",
        hint="make room",
        generation=intent.generation,
        at=golden.db.clock.now(),
    )
    seen = agent.done(intent)
    failed = tuple(msgspec.structs.replace(one, failure=failure) for one in seen.checkpoints)
    await agent.report(msgspec.structs.replace(seen, checkpoints=failed))
    assert await refusal(ConflictError, golden.create(checkpoint="web/coming")) == said
    await golden.delete_checkpoint()
    assert await refusal(ConflictError, golden.create()) == said


async def test_a_machine_that_goes_moves_or_has_no_root_disk_is_refused(golden):
    await golden.cloud.running("diskless", disk_bytes=GIB)
    await golden.checkpoint(vm="diskless")
    await golden.grown(0, vm="diskless")
    said = ("checkpoint_without_disk", "checkpoint")
    assert await refusal(ConflictError, golden.create(checkpoint="diskless/early")) == said
    async with golden.db.write() as tx:
        row = await vm_store.named(tx, golden.cloud.project, "web")
        await vm_store.save(tx, replace(row, desired=Desired.ABSENT))
    assert await refusal(ConflictError, golden.create()) == ("vm_deleting", "checkpoint")


async def test_a_node_that_is_away_or_too_old_is_named(golden):
    await golden.node(facts=msgspec.structs.replace(able(*CAN), streams=("exec", "display", "metrics")))
    assert await refusal(UnsupportedError, golden.create()) == ("agent_too_old", "checkpoint")
    await golden.node(state=NodeState.OFFLINE)
    assert await refusal(UnavailableError, golden.create()) == ("node_away", "checkpoint")


async def test_who_may_not_take_checkpoints_makes_no_images_of_them(golden):
    reader = await access.user(golden.db, "rita", (Grade.VIEWER, "default"))
    with pytest.raises(NacreError) as refused:
        await golden.create(caller=access.caller(reader, "image:create"))
    assert refused.value.code == "forbidden"
    editor = await access.user(golden.db, "edda", (Grade.EDITOR, "default"))
    assert (await golden.create(caller=access.caller(editor, "image:create"))).resource.name == "golden"


async def test_a_checkpoint_of_another_project_is_none(golden):
    async with golden.db.write() as tx:
        await make_project(tx, "home")
    other = golden.create(project="home")
    assert await refusal(NotFoundError, other) == ("checkpoint_not_found", "checkpoint")
    async with golden.db.read() as rd:
        kept = await checkpoints.show(rd, by("vm:view"), "web", "early")
    by_id = golden.create(project="home", checkpoint=kept.id)
    assert await refusal(NotFoundError, by_id) == ("checkpoint_not_found", "checkpoint")


async def test_the_checkpoint_stays_for_as_long_as_the_image_comes_in(golden):
    await golden.checkpoint("short", expires_at=None)
    await golden.create()
    assert (await refusal(ConflictError, golden.delete_checkpoint()))[0] == "checkpoint_in_use"
    with pytest.raises(ConflictError, match="image golden is to be made from it"):
        await golden.delete_checkpoint()
    with pytest.raises(ConflictError) as refused:
        await golden.cloud.verb("delete", "web")
    assert refused.value.code == "vm_being_cloned"
    assert "image golden" in refused.value.message
    await golden.ready()
    await golden.delete_checkpoint()
    await golden.cloud.converge()
    async with golden.db.read() as rd:
        found = await images.show(rd, by("image:view"), "golden")
    assert (found.state, found.captured.checkpoint_name) == (ImageState.READY, "early")


@pytest.mark.parametrize("how", ["cancel", "fail"])
async def test_an_image_that_comes_to_nothing_lets_go_of_the_checkpoint(golden, how):
    accepted = await golden.create()
    if how == "cancel":
        await golden.ask("operation:cancel", operations.cancel, accepted.operation.id, {"image": images.cancel})
    else:
        async with golden.db.write() as tx:
            await image_facts.failed(tx, accepted.resource.id, UnsupportedError("broken", "broken", hint="none"))
    await golden.delete_checkpoint()


async def test_a_checkpoint_that_expires_waits_for_the_image(golden, clock):
    await golden.checkpoint("short", expires_at=clock.now() + timedelta(minutes=5))
    await golden.create(checkpoint="web/short")
    clock.advance(600)
    async with golden.db.write() as tx:
        assert await checkpoints.expire(tx) == 0
    await golden.ready()
    async with golden.db.write() as tx:
        assert await checkpoints.expire(tx) == 1


async def test_machines_from_it_are_somebody_else_each_and_keep_what_they_are_given(golden):
    await golden.create()
    await golden.ready()
    captured = (await golden.row()).captured
    await golden.cloud.create("plain-{n}", image="golden", count=2)
    await golden.cloud.create("given", image="golden", cloud_init={"hostname": "db", "ssh_keys": ["ssh-rsa AAAA me"]})
    await golden.cloud.create("usual", image="disk")
    await golden.cloud.converge()
    seeds = {name: intent.seed for name, intent in (await golden.intents()).items()}
    assert seeds["usual"] is None
    assert seeds["web"] is None
    made = [seeds[name] for name in ("plain-1", "plain-2", "given")]
    assert {seed.identity for seed in made} == {captured.checkpoint}
    assert len({seed.random_seed for seed in made}) == 3
    assert [seed.hostname for seed in made] == ["plain-1", "plain-2", "db"]
    assert made[2].ssh_keys == ("ssh-rsa AAAA me",)
    # What cloud-init is given may change; who the machine is does not.
    body = msgspec.convert({"cloud_init": {"hostname": "db2"}}, vms.VmUpdate)
    await golden.ask("vm:update", vms.update, "given", body, sealer=SEALER)
    seed = (await golden.intents())["given"].seed
    assert (seed.hostname, seed.identity, seed.random_seed) == ("db2", captured.checkpoint, made[2].random_seed)
    # A twin of such a machine is of its own checkpoint, not of the image's.
    await golden.checkpoint(vm="plain-1")
    await golden.cloud.create("twin", image=None, checkpoint="plain-1/early")
    await golden.cloud.converge()
    twin = (await golden.intents())["twin"].seed
    assert twin.identity not in {"", captured.checkpoint}


async def test_whose_disk_a_public_image_has_is_told_to_nobody_and_its_machines_are_others_all_the_same(golden):
    await golden.create()
    await golden.ready()
    change = ImageUpdate(visibility=Visibility.PUBLIC)
    assert (await golden.ask("image:update", images.update, "golden", change)).captured is None
    async with golden.db.read() as rd:
        (listed,) = (await images.list_(rd, by("image:list"), ListQuery(filters={"name": "golden"}))).items
    assert listed.captured is None
    await golden.cloud.create("copy", image="golden")
    await golden.cloud.converge()
    assert (await golden.intents())["copy"].seed.identity.startswith("ckpt-")
