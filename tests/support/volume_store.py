"""What callers do with volumes on a platform without programs, and an agent that makes it so."""

import msgspec
import pytest

from nacre.control.gateway import desired, observed
from nacre.control.services import pools, volume_plugs, volume_snapshots, volumes
from nacre.model.consistency import Consistency
from nacre.model.ids import SnapshotId, VolumeId
from nacre.model.units import GIB
from nacre.model.volumes import PoolObserved, SnapshotObserved, VolumeIntent, VolumeObserved, VolumePhase, Wish
from nacre.protocol.messages import Observed
from nacre.schema.volumes import PoolCreate, SnapshotCreate, VolumeAttach, VolumeClone, VolumeCreate
from support.cloud import by


class Store:
    """What callers do with volumes, and an agent that makes it so."""

    def __init__(self, made):
        self.cloud = made
        self.db = made.db
        self.has: dict[VolumeId, VolumeObserved] = {}
        self.sequence = 1000

    async def ask(self, action, service, *args, **kwargs):
        async with self.db.write() as tx:
            return await service(tx, by(action), *args, **kwargs)

    async def create(self, name="data", **fields):
        fields = fields or {"size_bytes": GIB}
        return await self.ask("volume:create", volumes.create, VolumeCreate(name=name, **fields))

    async def show(self, ref="data"):
        async with self.db.read() as rd:
            return await volumes.show(rd, by("volume:view"), ref)

    async def attach(self, vm="web", volume="data", **fields):
        return await self.ask("vm:attach", volume_plugs.attach, vm, VolumeAttach(volume=volume, **fields))

    async def detach(self, vm="web", volume="data"):
        return await self.ask("vm:detach", volume_plugs.detach, vm, volume)

    async def snapshot(self, name="early", **fields):
        body = SnapshotCreate(name=name, **fields)
        return await self.ask("volume:snapshot", volume_snapshots.create, "data", body)

    async def intents(self, agent=None):
        async with self.db.read() as rd:
            found = await desired.load(rd, (agent or self.cloud.agents[0]).node)
        return {one.id: one for one in found.volumes}

    async def sync(self, agent=None, **changes):
        """Have the agent make all volumes as they should be, and report it."""
        agent = agent or self.cloud.agents[0]
        await self.report([self.done(one, **changes) for one in (await self.intents(agent)).values()], agent)

    async def report(self, seen, agent=None):
        """Have the agent say what it sees of volumes."""
        agent = agent or self.cloud.agents[0]
        agent.sequence += 1
        message = Observed(sequence=agent.sequence, digest="", complete=False, volumes=tuple(seen))
        await observed.apply(self.db, agent.node, message, instance=agent.instance)

    def done(self, intent: VolumeIntent, **changes):
        now = self.db.clock.now()
        kept = tuple(
            SnapshotObserved(
                id=SnapshotId(one.id), size_bytes=intent.size_bytes, taken_at=now, consistency=Consistency.FILESYSTEM
            )
            for one in intent.snapshots
            if one.desired is Wish.PRESENT
        )
        seen = VolumeObserved(
            id=intent.id,
            generation=intent.generation,
            phase=VolumePhase.ABSENT if intent.desired is Wish.ABSENT else VolumePhase.READY,
            size_bytes=intent.size_bytes,
            restore_nonce=intent.restore.nonce if intent.restore else 0,
            snapshots=kept,
        )
        return msgspec.structs.replace(seen, **changes)

    async def clone(self, name="copy", origin="data", **fields):
        return await self.ask("volume:create", volumes.clone, origin, VolumeClone(name=name, **fields))

    async def pool(self, name="fast", *, shared=False, **capacities):
        """Make a pool of which nodes say how large it is there, in GiB: `node_1=3`."""
        made = await self.ask("pool:create", pools.create, PoolCreate(name=name, path=f"/srv/{name}", shared=shared))
        for node, size in capacities.items():
            await self.told(made.id, int(node.removeprefix("node_")), size * GIB)
        return made

    async def told(self, pool, number, capacity_bytes):
        """Have a node say how large a pool is there."""
        said = PoolObserved(id=pool, available=True, capacity_bytes=capacity_bytes)
        async with self.db.write() as tx:
            await pools.follow(tx, {self.cloud.agents[number - 1].node: (said,)})


async def refusal(kind, action):
    with pytest.raises(kind) as caught:
        await action
    assert caught.value.hint
    return caught.value.code
