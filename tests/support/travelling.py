"""Agents whose machines come and go while they run, and what those have in pools: in one process, without programs.

As `cloud.Agent`, one step of a crossing per `sync`: a target is ready, the source has sent all, the target has it all.
"""

from dataclasses import dataclass, field

import msgspec

from nacre.control.gateway import desired, observed
from nacre.control.services import pools, volume_plugs, volumes
from nacre.control.store import volumes as volume_store
from nacre.control.store.db import Database
from nacre.control.store.volumes import VolumeRow
from nacre.model.arrivals import VmArrival
from nacre.model.ids import NodeId, StreamId, VmId
from nacre.model.migrations import ArrivalObserved, ArrivalState, OutgoingObserved, SendState
from nacre.model.nodes import LIVE_MOVES, HypervisorInfo, NodeFacts
from nacre.model.units import GIB
from nacre.model.vms import Phase, VmIntent, VmObserved
from nacre.model.volumes import VolumeIntent, VolumeObserved, VolumePhase, Wish
from nacre.protocol.messages import NodeIntent, Observed
from nacre.schema.volumes import PoolCreate, VolumeAttach, VolumeCreate
from support.cloud import SEALER, Agent, Cloud, by, cloud, facts


@dataclass
class Traveller(Agent):
    """An agent that sends machines, and takes them in."""

    sent: set[StreamId] = field(default_factory=set[StreamId])
    """The streams of which all has left. Both ends know."""
    told: NodeIntent | None = None
    """What it was told last."""

    async def pull(self) -> NodeIntent:
        """Ask what there is to do."""
        async with self.db.read() as rd:
            self.told = await desired.load(rd, self.node, SEALER)
        return self.told

    async def sync(self) -> None:
        """Pull, do one step, report everything."""
        told = await self.pull()
        here = {intent.id: self.done(intent) for intent in told.vms}
        self.has = here | {arrival.vm.id: self.coming(arrival) for arrival in told.arrivals}
        self.sequence += 1
        message = Observed(
            sequence=self.sequence,
            digest="",
            complete=True,
            vms=tuple(self.has.values()),
            volumes=tuple(_seen(one) for one in told.volumes),
        )
        await observed.apply(self.db, self.node, message, instance=self.instance)

    def done(self, intent: VmIntent) -> VmObserved:
        """Also: its process has the volumes open, and has been sent if that was asked for."""
        seen = super().done(intent)
        run = seen.run
        if run is not None and run.exited_at is None:
            has = tuple(one.volume for one in intent.volumes)
            seen = msgspec.structs.replace(seen, run=msgspec.structs.replace(run, volumes=has))
        if intent.outgoing is None:
            return seen
        self.sent.add(intent.outgoing.stream)
        outgoing = OutgoingObserved(stream=intent.outgoing.stream, state=SendState.SENT)
        return msgspec.structs.replace(seen, outgoing=outgoing)

    def coming(self, arrival: VmArrival) -> VmObserved:
        """What is told of a machine that does not belong here yet."""
        state = ArrivalState.ARRIVED if arrival.stream in self.sent else ArrivalState.READY
        return VmObserved(
            id=arrival.vm.id,
            generation=arrival.vm.generation,
            fence=arrival.vm.fence,
            phase=Phase.STARTING,
            since=self.db.clock.now(),
            arriving=ArrivalObserved(stream=arrival.stream, state=state, addresses=("10.0.0.1:1",)),
        )


def movable() -> NodeFacts:
    """A host whose QEMU moves machines that run."""
    info = HypervisorInfo(
        name="qemu",
        available=True,
        version="9.2",
        accelerator="tcg",
        machines=("q35", "pc"),
        abilities=("guard", LIVE_MOVES),
    )
    return msgspec.structs.replace(facts(), hypervisors=(info,))


async def travelling(database: Database, *, node_count: int = 2) -> Cloud:
    """A platform whose nodes exchange machines that run."""
    platform = await cloud(database, node_count=node_count, told=movable())
    road: set[StreamId] = set()
    platform.agents[:] = [Traveller(database, agent.node, sent=road) for agent in platform.agents]
    return platform


def traveller(platform: Cloud, index: int) -> Traveller:
    """One of the agents."""
    agent = platform.agents[index]
    assert isinstance(agent, Traveller)
    return agent


async def shared_pool(platform: Cloud, name: str = "nfs", *, nodes: tuple[str, ...] = ()) -> None:
    """A pool that several nodes see."""
    body = PoolCreate(name=name, path=f"/srv/{name}", shared=True, nodes=nodes)
    async with platform.db.write() as tx:
        await pools.create(tx, by("pool:create"), body)


async def with_volume(platform: Cloud, volume: str = "data", *, vm: str = "web", pool: str | None = None) -> None:
    """A machine gets a new volume, by default one of its node."""
    body = (
        VolumeCreate(name=volume, size_bytes=GIB)
        if pool is None
        else VolumeCreate(name=volume, size_bytes=GIB, pool=pool)
    )
    async with platform.db.write() as tx:
        await volumes.create(tx, by("volume:create"), body)
    await attached(platform, volume, vm=vm)


async def attached(platform: Cloud, volume: str, *, vm: str = "web") -> None:
    """A machine is to have a volume."""
    async with platform.db.write() as tx:
        await volume_plugs.attach(tx, by("vm:attach"), vm, VolumeAttach(volume=volume))


async def volume_row(platform: Cloud, volume: str = "data") -> VolumeRow:
    """A volume's row."""
    async with platform.db.read() as rd:
        row = await volume_store.get(rd, volume, project=platform.project)
    assert row is not None
    return row


def holders(platform: Cloud, volume: VolumeRow) -> list[NodeId]:
    """The nodes that were told last to keep a volume, which is what lets them change it."""
    return [
        agent.node
        for agent in platform.agents
        if isinstance(agent, Traveller)
        and agent.told is not None
        and any(one.id == volume.id for one in agent.told.volumes)
    ]


def openers(platform: Cloud, vm: VmId) -> list[NodeId]:
    """The nodes that were told last that a machine is theirs."""
    return [
        agent.node
        for agent in platform.agents
        if isinstance(agent, Traveller) and agent.told is not None and any(one.id == vm for one in agent.told.vms)
    ]


def _seen(intent: VolumeIntent) -> VolumeObserved:
    return VolumeObserved(
        id=intent.id,
        generation=intent.generation,
        phase=VolumePhase.ABSENT if intent.desired is Wish.ABSENT else VolumePhase.READY,
        size_bytes=intent.size_bytes,
    )
