"""Checkpoints as callers and nodes see them: asked for, refused, reported, put back, cloned, expired."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from nacre.control.gateway import desired, observed
from nacre.control.services import checkpoints, housekeeping, operations, relocation, vms, volume_plugs, volumes
from nacre.control.services.housekeeping import Keep
from nacre.control.services.listing import ListQuery
from nacre.control.store import checkpoints as store
from nacre.control.store import nodes as node_store
from nacre.control.store import vm_seeds
from nacre.control.store import vms as vm_store
from nacre.errors import ConflictError, InvalidInputError, NotFoundError, UnsupportedError
from nacre.model.capabilities import Capability
from nacre.model.checkpoints import CheckpointPhase
from nacre.model.consistency import Consistency
from nacre.model.convergence import Failure, FailureClass
from nacre.model.moves import LeaveReason
from nacre.model.nodes import NodeState
from nacre.model.units import GIB, MIB
from nacre.model.vms import Desired, Phase
from nacre.model.volumes import VolumeObserved, VolumePhase, Wish
from nacre.protocol.messages import Observed
from nacre.schema.checkpoints import CheckpointCreate, CheckpointUpdate, VmRestore
from nacre.schema.vms import VmUpdate
from nacre.schema.volumes import VolumeAttach, VolumeCreate
from support.cloud import SEALER, able, by, cloud, make_image

pytestmark = pytest.mark.anyio

CAN = (Capability.DISK_SNAPSHOT, Capability.CHECKPOINT)


class Keeper:
    """What callers do with checkpoints."""

    def __init__(self, made):
        self.cloud = made
        self.db = made.db

    async def ask(self, action, service, *args, **kwargs):
        async with self.db.write() as tx:
            return await service(tx, by(action), *args, **kwargs)

    async def create(self, name="early", vm="web", **fields):
        return await self.ask("vm:checkpoint", checkpoints.create, vm, CheckpointCreate(name=name, **fields))

    async def taken(self, name="early", vm="web", **fields):
        accepted = await self.create(name, vm, **fields)
        await self.cloud.converge()
        return accepted

    async def restore(self, checkpoint="early", vm="web", **fields):
        return await self.ask("vm:restore", checkpoints.restore, vm, VmRestore(checkpoint=checkpoint, **fields))

    async def delete(self, name="early", vm="web"):
        return await self.ask("vm:checkpoint", checkpoints.delete, vm, name)

    async def update(self, name="early", **fields):
        return await self.ask("vm:protect", checkpoints.update, "web", name, CheckpointUpdate(**fields))

    async def show(self, name="early", vm="web"):
        async with self.db.read() as rd:
            return await checkpoints.show(rd, by("vm:view"), vm, name)

    async def list(self, vm="web"):
        async with self.db.read() as rd:
            return (await checkpoints.list_(rd, by("vm:view"), vm, ListQuery())).items

    async def clone(self, name="copy", checkpoint="web/early", **fields):
        return await self.cloud.create(name, image=None, checkpoint=checkpoint, **fields)

    async def row(self, vm="web"):
        async with self.db.read() as rd:
            return await vm_store.named(rd, self.cloud.project, vm)

    async def operation(self, accepted):
        async with self.db.read() as rd:
            return await operations.get(rd, accepted.operation.id)

    async def intent(self):
        async with self.db.read() as rd:
            return await desired.load(rd, self.cloud.agent.node, SEALER)

    async def data(self):
        """Give the machine a volume that is made."""
        await self.ask("volume:create", volumes.create, VolumeCreate(name="data", size_bytes=GIB))
        await self.ask("vm:attach", volume_plugs.attach, "web", VolumeAttach(volume="data"))
        await self.sync_volumes()
        await self.cloud.converge()

    async def sync_volumes(self, new=VolumePhase.READY):
        """Have the agent tell of all volumes; `new` is the phase of those that it has not had before."""
        agent = self.cloud.agent
        seen = tuple(
            VolumeObserved(
                id=one.id,
                generation=one.generation,
                phase=VolumePhase.ABSENT if one.desired is Wish.ABSENT else (VolumePhase.READY if one.made else new),
                size_bytes=one.size_bytes,
            )
            for one in (await self.intent()).volumes
        )
        agent.sequence += 1
        message = Observed(sequence=agent.sequence, digest="", complete=False, volumes=seen)
        await observed.apply(self.db, agent.node, message, instance=agent.instance)


@pytest.fixture
async def keeper(database):
    """A running machine with a disk, on a node that can do everything."""
    made = await cloud(database, told=able(*CAN))
    async with database.write() as tx:
        await make_image(tx, made.project, "disk", disk_bytes=GIB)
    await made.running("web", image="disk")
    return Keeper(made)


async def refusal(kind, action):
    with pytest.raises(kind) as caught:
        await action
    assert caught.value.hint
    return caught.value.code


async def test_a_checkpoint_is_asked_for_taken_and_shown(keeper):
    accepted = await keeper.create(description="before the upgrade")
    (one,) = await keeper.list()
    assert (one.phase, one.description, one.taken_at) == (CheckpointPhase.CREATING, "before the upgrade", None)
    (intent,) = (await keeper.intent()).vms
    assert [(kept.id, kept.desired, kept.memory) for kept in intent.checkpoints] == [(one.id, Wish.PRESENT, False)]
    await keeper.cloud.converge()
    one = await keeper.show()
    assert (one.phase, one.consistency, one.size_bytes) == (CheckpointPhase.READY, Consistency.CRASH, GIB)
    assert one.created_by == "root"
    assert (await keeper.operation(accepted)).state == "succeeded"
    assert await refusal(ConflictError, keeper.create()) == "checkpoint_name_taken"
    assert await refusal(NotFoundError, keeper.show("late")) == "checkpoint_not_found"


async def test_a_checkpoint_that_could_not_be_taken_says_why(keeper):
    accepted = await keeper.create()
    agent = keeper.cloud.agent
    (intent,) = (await keeper.intent()).vms
    seen = agent.done(intent)
    failure = Failure(
        failure_class=FailureClass.PERMANENT,
        code="storage_full",
        message="the node's storage is full",
        hint="free some",
        generation=intent.generation,
        at=keeper.db.clock.now(),
    )
    kept = msgspec.structs.replace(agent.kept(intent.checkpoints[0]), failure=failure)
    await agent.report(msgspec.structs.replace(seen, checkpoints=(kept,)))
    one = await keeper.show()
    assert (one.phase, one.failure.code, one.consistency) == (CheckpointPhase.FAILED, "storage_full", None)
    operation = await keeper.operation(accepted)
    assert (operation.state, operation.error_code, operation.hint) == ("failed", "storage_full", "free some")
    assert (await keeper.cloud.vm("web")).conditions.degraded is None
    assert await refusal(ConflictError, keeper.restore(stop=True)) == "checkpoint_not_ready"
    await keeper.delete()
    agent.has[seen.id] = msgspec.structs.replace(seen, checkpoints=())
    await keeper.cloud.converge()
    assert await keeper.list() == []


async def test_what_there_can_be_no_checkpoint_of(keeper):
    await keeper.cloud.create("never", image="disk", start=False)
    assert await refusal(ConflictError, keeper.create(vm="never")) == "vm_not_made"
    await keeper.cloud.running("bare")
    assert await refusal(ConflictError, keeper.create(vm="bare")) == "nothing_to_keep"
    await keeper.cloud.verb("stop")
    await keeper.cloud.converge()
    assert await refusal(ConflictError, keeper.create(memory=True)) == "vm_not_running"
    past = keeper.db.clock.now() - timedelta(seconds=1)
    assert await refusal(InvalidInputError, keeper.create(expires_at=past)) == "invalid_expiry"
    await keeper.cloud.verb("delete")
    assert await refusal(ConflictError, keeper.create()) == "vm_deleting"


@pytest.mark.parametrize(
    ("can", "fields", "refused"),
    [
        ((), {}, True),
        ((Capability.DISK_SNAPSHOT,), {}, False),
        ((Capability.DISK_SNAPSHOT,), {"memory": True}, True),
        ((Capability.CHECKPOINT,), {"memory": True}, True),
        (CAN, {"memory": True}, False),
    ],
)
async def test_what_the_hypervisor_cannot_do_is_refused(database, can, fields, refused):
    made = await cloud(database, told=able(Capability.BOOT_BIOS, *can))
    async with database.write() as tx:
        await make_image(tx, made.project, "disk", disk_bytes=GIB)
    await made.running("web", image="disk")
    keeper = Keeper(made)
    if refused:
        assert await refusal(UnsupportedError, keeper.create(**fields)) == "capability_missing"
    else:
        await keeper.create(**fields)


async def test_an_agent_that_says_nothing_of_its_hypervisor_is_too_old(database):
    made = await cloud(database)
    await made.running("web", disk_bytes=GIB)
    assert await refusal(UnsupportedError, Keeper(made).create()) == "agent_too_old"


async def test_there_is_an_end_to_checkpoints(keeper, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_CHECKPOINTS", 2)
    for name in ("one", "two"):
        await keeper.taken(name)
    assert await refusal(ConflictError, keeper.create("three")) == "too_many_checkpoints"
    await keeper.delete("one")
    await keeper.cloud.converge()
    await keeper.create("three")


async def test_a_protected_checkpoint_stays_and_its_machine_with_it(keeper):
    await keeper.taken(protected=True)
    assert await refusal(ConflictError, keeper.delete()) == "checkpoint_protected"
    assert await refusal(ConflictError, keeper.cloud.verb("delete")) == "vm_has_protected_checkpoints"
    assert (await keeper.update(protected=False)).protected is False
    accepted = await keeper.delete()
    assert (await keeper.show()).phase is CheckpointPhase.DELETING
    await keeper.cloud.converge()
    assert await keeper.list() == []
    assert (await keeper.operation(accepted)).state == "succeeded"
    assert (await keeper.row()).checkpoints == 0


async def test_checkpoints_expire_unless_they_are_protected(keeper):
    soon = keeper.db.clock.now() + timedelta(hours=1)
    await keeper.taken("one", expires_at=soon)
    await keeper.taken("two", expires_at=soon, protected=True)
    await keeper.taken("three", expires_at=soon)
    assert (await keeper.update("three", keep=True)).expires_at is None
    twice = keeper.update("two", keep=True, expires_at=soon + timedelta(days=1))
    assert await refusal(InvalidInputError, twice) == "expiry_twice"
    keeper.db.clock.advance(7200)
    async with keeper.db.write() as tx:
        assert (await housekeeping.tidy(tx, Keep())).checkpoints == 1
    await keeper.cloud.converge()
    assert {one.name for one in await keeper.list()} == {"two", "three"}


async def test_a_machine_that_is_off_is_put_back(keeper):
    await keeper.taken()
    await keeper.cloud.verb("stop")
    await keeper.cloud.converge()
    accepted = await keeper.restore()
    (intent,) = (await keeper.intent()).vms
    assert (intent.restore.nonce, intent.restore.memory, intent.desired) == (1, False, Desired.STOPPED)
    assert await refusal(ConflictError, keeper.delete()) == "checkpoint_in_use"
    await keeper.cloud.converge()
    assert (await keeper.operation(accepted)).state == "succeeded"
    assert (await keeper.cloud.vm("web")).phase is Phase.STOPPED
    await keeper.create("after")
    (intent,) = (await keeper.intent()).vms
    assert sorted(one.after for one in intent.checkpoints) == [0, 1]


async def test_a_running_machine_is_ended_only_if_that_is_said(keeper):
    await keeper.taken()
    assert await refusal(ConflictError, keeper.restore()) == "vm_running"
    await keeper.restore(stop=True)
    (intent,) = (await keeper.intent()).vms
    assert (intent.restore.nonce, intent.desired) == (1, Desired.RUNNING)


async def test_a_checkpoint_with_memory_decides_what_the_machine_does_then(keeper):
    await keeper.taken(memory=True)
    assert (await keeper.show()).memory_bytes == MIB
    await keeper.cloud.verb("stop")
    await keeper.cloud.converge()
    await keeper.restore(paused=True)
    (intent,) = (await keeper.intent()).vms
    assert (intent.restore.memory, intent.desired) == (True, Desired.PAUSED)
    await keeper.cloud.converge()
    await keeper.restore(stop=True)
    (intent,) = (await keeper.intent()).vms
    assert (intent.restore.nonce, intent.desired) == (2, Desired.RUNNING)
    await keeper.cloud.converge()
    await keeper.restore(stop=True, memory=False)
    (intent,) = (await keeper.intent()).vms
    assert intent.restore.memory is False


async def test_memory_belongs_to_the_machine_that_it_was(keeper):
    await keeper.taken("bare")
    await keeper.taken("full", memory=True)
    both = keeper.restore("bare", stop=True, memory=True)
    assert await refusal(ConflictError, both) == "checkpoint_without_memory"
    odd = keeper.restore("bare", stop=True, paused=True)
    assert await refusal(InvalidInputError, odd) == "paused_without_memory"
    await keeper.ask("vm:update", vms.update, "web", VmUpdate(memory_bytes=2 * GIB), sealer=SEALER)
    assert await refusal(ConflictError, keeper.restore("full", stop=True)) == "machine_differs"
    await keeper.restore("full", stop=True, memory=False)


async def test_while_a_checkpoint_is_being_taken_nothing_is_put_back(keeper):
    await keeper.taken()
    await keeper.create("later")
    assert await refusal(ConflictError, keeper.restore(stop=True)) == "checkpoint_pending"


async def test_volumes_are_part_of_it_and_know_that(keeper):
    await keeper.data()
    await keeper.taken()
    assert [one.name for one in (await keeper.show()).volumes] == ["data"]
    intent = await keeper.intent()
    (kept,) = intent.vms[0].checkpoints
    assert kept.volumes == (intent.volumes[0].id,)
    assert intent.volumes[0].checkpoints == (kept.id,)
    before = intent.volumes[0].generation
    await keeper.ask("vm:detach", volume_plugs.detach, "web", "data")
    await keeper.cloud.converge()
    assert await refusal(ConflictError, keeper.restore(stop=True)) == "checkpoint_volume_detached"
    assert await refusal(ConflictError, keeper.ask("volume:delete", volumes.delete, "data")) == "volume_in_checkpoints"
    await keeper.delete()
    await keeper.cloud.converge()
    (volume,) = (await keeper.intent()).volumes
    assert volume.checkpoints == ()
    assert volume.generation > before
    await keeper.ask("volume:delete", volumes.delete, "data")


async def test_a_machine_from_a_checkpoint_is_another_one(keeper):
    await keeper.data()
    await keeper.taken(memory=True)
    await keeper.clone("copy", count=2)
    await keeper.cloud.converge()
    origin, one, two = [await keeper.row(name) for name in ("web", "copy-1", "copy-2")]
    assert (one.source.vm, one.source.checkpoint) == (origin.id, (await keeper.show()).id)
    assert (one.node, one.image, one.spec.disk_bytes) == (origin.node, origin.image, GIB)
    assert one.spec.nics[0].mac is None
    seeds = [intent.seed for intent in (await keeper.intent()).vms if intent.source is not None]
    assert {seed.hostname for seed in seeds} == {"copy-1", "copy-2"}
    assert {seed.identity for seed in seeds} == {one.source.checkpoint}
    assert seeds[0].random_seed != seeds[1].random_seed
    attached = {intent.name: intent.volumes for intent in (await keeper.intent()).vms}
    found = {volume.id: volume for volume in (await keeper.intent()).volumes}
    clone = found[attached["copy-1"][0].volume]
    assert (clone.name, clone.source.snapshot) == ("copy-1-data", one.source.checkpoint)
    assert two.tie.volumes == (attached["copy-2"][0].volume,)


async def test_who_a_machine_is_does_not_change_with_what_its_cloud_init_is_given(keeper):
    await keeper.taken()
    await keeper.clone("copy", cloud_init={"user": "ada"})
    await keeper.cloud.converge()
    before = next(one for one in (await keeper.intent()).vms if one.name == "copy").seed
    body = msgspec.convert({"cloud_init": {"user": "bob"}}, VmUpdate)
    await keeper.ask("vm:update", vms.update, "copy", body, sealer=SEALER)
    after = next(one for one in (await keeper.intent()).vms if one.name == "copy").seed
    assert (before.user, after.user) == ("ada", "bob")
    assert (after.identity, after.random_seed) == (before.identity, before.random_seed)
    async with keeper.db.read() as rd:
        assert before.random_seed.encode() not in (await vm_seeds.of(rd, [(await keeper.row("copy")).id])).popitem()[1]


async def test_what_is_to_be_made_from_a_checkpoint_keeps_it_and_its_machine(keeper):
    await keeper.taken()
    await keeper.clone(start=False)
    assert await refusal(ConflictError, keeper.delete()) == "checkpoint_in_use"
    assert await refusal(ConflictError, keeper.cloud.verb("delete")) == "vm_being_cloned"
    await keeper.cloud.verb("start", "copy")
    await keeper.cloud.converge()
    await keeper.delete()
    await keeper.cloud.verb("delete")
    await keeper.cloud.converge()
    assert (await keeper.cloud.vm("copy")).phase is Phase.RUNNING


async def test_a_checkpoint_stays_until_the_volumes_that_are_begun_from_it_are_there(keeper):
    await keeper.data()
    soon = keeper.db.clock.now() + timedelta(seconds=1)
    await keeper.taken(expires_at=soon)
    await keeper.sync_volumes()
    await keeper.clone()
    await keeper.cloud.converge()
    await keeper.sync_volumes(VolumePhase.CREATING)
    with pytest.raises(ConflictError) as refused:
        await keeper.delete()
    assert refused.value.code == "checkpoint_in_use"
    assert "volume copy-data is to be made" in refused.value.message
    keeper.db.clock.advance(60)
    async with keeper.db.write() as tx:
        assert await checkpoints.expire(tx) == 0
    await keeper.sync_volumes()
    async with keeper.db.write() as tx:
        assert await checkpoints.expire(tx) == 1


async def test_a_machine_goes_only_where_its_checkpoint_is(database):
    made = await cloud(database, node_count=2, told=able(*CAN))
    async with database.write() as tx:
        await make_image(tx, made.project, "disk", disk_bytes=GIB)
    keeper = Keeper(made)
    home = (await made.running("web", image="disk")).node
    await keeper.taken()
    async with database.write() as tx:
        (row,) = await node_store.every(tx, [home.id], lock=True)
        await node_store.save(tx, row, replace(row, state=NodeState.CORDONED))
    await keeper.clone()
    await made.converge()
    seen = await made.vm("copy")
    assert (seen.node, seen.phase) == (None, Phase.PENDING)
    async with database.read() as rd:
        (waiting,) = [one for one in await vm_store.unmade(rd) if one.name == "copy"]
    codes = {one.code for one in waiting.decision.rejected}
    assert "checkpoint_elsewhere" in codes


@pytest.mark.parametrize(
    ("fields", "kind", "code"),
    [
        ({"checkpoint": "web/late"}, NotFoundError, "checkpoint_not_found"),
        ({"checkpoint": "web"}, NotFoundError, "checkpoint_not_found"),
        ({"checkpoint": "nobody/early"}, NotFoundError, "checkpoint_not_found"),
        ({"image": "disk"}, InvalidInputError, "checkpoint_and_more"),
        ({"disk_bytes": 512 * MIB}, InvalidInputError, "disk_too_small"),
    ],
)
async def test_what_no_machine_is_made_from(keeper, fields, kind, code):
    await keeper.taken()
    values = {"image": None, "checkpoint": "web/early", **fields}
    assert await refusal(kind, keeper.cloud.create("copy", **values)) == code


async def test_a_machine_that_leaves_its_disks_leaves_its_checkpoints(keeper):
    await keeper.taken(protected=True)
    row = await keeper.row()
    async with keeper.db.write() as tx:
        await node_store.every(tx, [row.node], lock=True)
        row = await vm_store.get(tx, row.id, lock=True)
        await relocation.detach(tx, row, reason=LeaveReason.USER)
        assert (await store.of(tx, [row.id])) == {}
    assert (await keeper.row()).checkpoints == 0
    await keeper.cloud.verb("delete")
