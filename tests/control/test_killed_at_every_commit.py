"""A control plane that is killed at any commit of snapshots, clones, resizes and moves: what was asked is old or new.

Every transaction of it is counted, on the way to its commit and just after that: at each the program dies once. What
comes back knows only what is in the database; who got no answer asks again. In the end all is as without the death.
With `NACRE_EVERY_STEP` that is every moment; without it every fourth, another one first for each.
"""

import contextlib
import itertools
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from nacre.control.gateway import desired, observed
from nacre.control.reconcilers.moves import MoveReconciler
from nacre.control.reconcilers.vms import Placer
from nacre.control.services import checkpoints, move_requests, vms, volume_plugs, volume_snapshots, volumes
from nacre.control.services.listing import ListQuery
from nacre.control.store.db import Database, Tx
from nacre.control.wake import Wakes
from nacre.errors import ConflictError, NotFoundError
from nacre.lib.clock import ManualClock
from nacre.model.capabilities import Capability
from nacre.model.ids import SnapshotId
from nacre.model.moves import MoveMethod
from nacre.model.units import GIB
from nacre.model.vms import VmIntent, VmObserved
from nacre.model.volumes import SnapshotObserved, VolumeIntent, VolumeObserved, VolumePhase, Wish
from nacre.protocol.messages import Observed
from nacre.schema.checkpoints import CheckpointCreate, VmRestore
from nacre.schema.moves import VmMove
from nacre.schema.vms import VmCreate, VmUpdate
from nacre.schema.volumes import SnapshotCreate, VolumeAttach, VolumeClone, VolumeCreate, VolumeRestore, VolumeUpdate
from support.cloud import SEALER, Agent, Cloud, able, by, cloud, make_image
from support.database import Templates, opened
from support.thorough import EVERY_STEP

pytestmark = pytest.mark.anyio

ROUNDS = 12
STRIDE = 1 if EVERY_STEP else 4
MOST, MOST_OF_MOVES = 14, 40
"""At later moments only what goes on anyway is committed."""
CAN = (Capability.DISK_SNAPSHOT, Capability.CHECKPOINT, Capability.CPU_ADD, Capability.DISK_RESIZE, Capability.DISK_ADD)


class Killed(BaseException):
    """The control plane is dead."""


@contextlib.contextmanager
def dying(db: Database, number: int) -> Iterator[None]:
    """Have it die at the `number`-th moment: on the way to a commit, or just after one."""
    moments = itertools.count(1)
    write = db.write

    @contextlib.asynccontextmanager
    async def counted() -> AsyncGenerator[Tx]:
        async with write() as tx:
            yield tx
            if next(moments) == number:
                raise Killed
        if next(moments) == number:
            raise Killed

    db.write = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        db.write = write  # type: ignore[method-assign]


@dataclass
class World:
    """A machine that runs with a volume, nodes that do what they are told, and reconcilers."""

    cloud: Cloud
    clock: ManualClock

    def on(self, db: Database, clock: ManualClock) -> "World":
        """The same on a copy of its database: agents have what they had."""
        agents = [Agent(db, one.node, dict(one.has), one.sequence) for one in self.cloud.agents]
        for agent in agents:
            agent.done = plugged(agent.done)  # type: ignore[method-assign]
        return World(replace(self.cloud, db=db, agents=agents), clock)

    async def ask(self, action: str, service: Callable[..., Awaitable[object]], *args: object, **named: object) -> None:
        """A request, in one transaction as all are."""
        async with self.cloud.db.write() as tx:
            await service(tx, by(action), *args, **named)

    async def turn(self) -> None:
        """Everybody does what there is to do, once."""
        self.clock.advance(timedelta(seconds=20).total_seconds())
        await Placer(self.cloud.db).once()
        await MoveReconciler(self.cloud.db, chance=lambda: 0.0).once()
        for agent in self.cloud.agents:
            await agent.sync()
            await self._sync_volumes(agent)

    async def picture(self) -> dict[str, object]:
        """What anybody sees."""
        async with self.cloud.db.read() as rd:
            machines = (await vms.list_(rd, by("vm:view"), ListQuery())).items
            disks = (await volumes.list_(rd, by("volume:view"), ListQuery())).items
            kept = {
                one.name: (await checkpoints.list_(rd, by("vm:view"), one.name, ListQuery())).items for one in machines
            }
            snaps = {
                one.name: (await volume_snapshots.list_(rd, by("volume:view"), one.name, ListQuery())).items
                for one in disks
            }
            moves = (await move_requests.list_(rd, by("move:view"), ListQuery())).items
            told = [await desired.load(rd, agent.node, SEALER) for agent in self.cloud.agents]
        return {
            "machines": sorted((one.name, one.phase, one.conditions.converged, one.spec.cpus) for one in machines),
            "disks": sorted((one.name, one.phase, one.conditions.converged, one.size_bytes) for one in disks),
            "checkpoints": {vm: sorted((one.name, one.phase) for one in some) for vm, some in kept.items()},
            "put back": sorted(one.name for node in told for one in (*node.volumes, *node.vms) if one.restore),
            "snapshots": {name: sorted((one.name, one.phase) for one in some) for name, some in snaps.items()},
            "moved": any(one.state == "done" for one in moves),
            "moving": [one.state for one in moves if one.ended_at is None],
        }

    async def _sync_volumes(self, agent: Agent) -> None:
        async with self.cloud.db.read() as rd:
            told = (await desired.load(rd, agent.node, SEALER)).volumes
        agent.sequence += 1
        message = Observed(
            sequence=agent.sequence, digest="", complete=False, volumes=tuple(self._done(one) for one in told)
        )
        await observed.apply(self.cloud.db, agent.node, message, instance=agent.instance)

    def _done(self, intent: VolumeIntent) -> VolumeObserved:
        now = self.cloud.db.clock.now()
        kept = [one.id for one in intent.snapshots if one.desired is Wish.PRESENT]
        return VolumeObserved(
            id=intent.id,
            generation=intent.generation,
            phase=VolumePhase.ABSENT if intent.desired is Wish.ABSENT else VolumePhase.READY,
            size_bytes=intent.size_bytes,
            restore_nonce=intent.restore.nonce if intent.restore else 0,
            snapshots=tuple(
                SnapshotObserved(id=SnapshotId(one), size_bytes=intent.size_bytes, taken_at=now) for one in kept
            ),
        )


Ask = Callable[[World], Awaitable[None]]


async def snapshot(world: World) -> None:
    await world.ask("volume:snapshot", volume_snapshots.create, "data", SnapshotCreate(name="new"))


async def drop_snapshot(world: World) -> None:
    await world.ask("volume:snapshot", volume_snapshots.delete, "data", "early")


async def restore_volume(world: World) -> None:
    await world.ask("volume:restore", volume_snapshots.restore, "idle", VolumeRestore(snapshot="early"))


async def clone(world: World) -> None:
    await world.ask("volume:create", volumes.clone, "data", VolumeClone(name="copy"))


async def grow(world: World) -> None:
    await world.ask("volume:update", volumes.update, "data", VolumeUpdate(size_bytes=2 * GIB))


async def delete(world: World) -> None:
    await world.ask("volume:delete", volumes.delete, "loose")


async def resize(world: World) -> None:
    await world.ask("vm:update", vms.update, "web", VmUpdate(cpus=2), sealer=SEALER)


async def checkpoint(world: World) -> None:
    await world.ask("vm:checkpoint", checkpoints.create, "web", CheckpointCreate(name="new", memory=True))


async def drop_checkpoint(world: World) -> None:
    await world.ask("vm:checkpoint", checkpoints.delete, "web", "early")


async def put_back(world: World) -> None:
    await world.ask("vm:restore", checkpoints.restore, "web", VmRestore(checkpoint="early", stop=True))


async def twin(world: World) -> None:
    body = VmCreate(name="twin", checkpoint="web/early")
    await world.ask("vm:create", vms.create, body, sealer=SEALER)


async def move(world: World) -> None:
    await world.ask("vm:move", move_requests.begin, "plain", VmMove(method=MoveMethod.RESTART))


ASKS: dict[str, Ask] = {
    one.__name__: one
    for one in (
        snapshot,
        drop_snapshot,
        restore_volume,
        clone,
        grow,
        delete,
        resize,
        checkpoint,
        drop_checkpoint,
        put_back,
        twin,
        move,
    )
}


async def prepared(db: Database, clock: ManualClock) -> World:
    """Two nodes; a machine with a volume, one without, and volumes that nobody uses."""
    made = await cloud(db, node_count=2, told=able(*CAN))
    for agent in made.agents:
        agent.done = plugged(agent.done)  # type: ignore[method-assign]
    async with db.write() as tx:
        await make_image(tx, made.project, "disk", disk_bytes=GIB)
    world = World(made, clock)
    await made.create("web", image="disk")
    await made.create("plain")
    await world.turn()
    for name in ("data", "idle", "loose"):
        await world.ask("volume:create", volumes.create, VolumeCreate(name=name, size_bytes=GIB))
        await world.ask("vm:attach", volume_plugs.attach, "web", VolumeAttach(volume=name))
        await world.turn()
    for name in ("data", "idle"):
        await world.ask("volume:snapshot", volume_snapshots.create, name, SnapshotCreate(name="early"))
    for name in ("idle", "loose"):
        await world.ask("vm:detach", volume_plugs.detach, "web", name)
    await world.turn()
    await world.ask("vm:checkpoint", checkpoints.create, "web", CheckpointCreate(name="early"))
    for _ in range(3):
        await world.turn()
    return world


def plugged(done: Callable[[VmIntent], VmObserved]) -> Callable[[VmIntent], VmObserved]:
    """Have an agent tell of volumes and CPUs as well."""

    def with_volumes(intent: VmIntent) -> VmObserved:
        seen = done(intent)
        if seen.run is None:
            return seen
        volumes = tuple(one.volume for one in intent.volumes)
        return msgspec.structs.replace(seen, run=msgspec.structs.replace(seen.run, volumes=volumes))

    return with_volumes


async def calm(world: World) -> dict[str, object]:
    """Let everybody work until nothing changes any more, and say how it looks then."""
    before = await world.picture()
    for _ in range(ROUNDS):
        await world.turn()
        now = await world.picture()
        if now == before:
            return now
        before = now
    return before


async def again(world: World, ask: Ask) -> None:
    """Ask again, as who got no answer does. That it is there or gone already, or under way, is an answer."""
    with contextlib.suppress(ConflictError, NotFoundError):
        await ask(world)


@pytest.mark.parametrize("name", list(ASKS))
async def test_who_is_killed_at_any_commit_leaves_old_or_new(name: str, tmp_path: Path, templates: Templates) -> None:
    ask, clock = ASKS[name], ManualClock()
    async with opened(await templates.sqlite(tmp_path / "first.sqlite"), clock, Wakes()) as db:
        first = await prepared(db, clock)
        old = await first.picture()
    most = MOST_OF_MOVES if ask is move else MOST
    wanted: dict[str, object] | None = None
    for number in (0, *range(1 + list(ASKS).index(name) % STRIDE, most, STRIDE)):
        path = tmp_path / f"{number}.sqlite"
        shutil.copyfile(tmp_path / "first.sqlite", path)
        then = ManualClock(clock.now())
        async with opened(f"sqlite:///{path}", then, Wakes()) as db:
            world = first.on(db, then)
            killed = False
            try:
                with dying(db, number):
                    await ask(world)
                    for _ in range(ROUNDS if number else 0):
                        await world.turn()
            except Killed:
                killed = True
                await again(world, ask)
            new = await calm(world)
        if wanted is None:
            wanted = new
            assert old != new, "nothing was done"
            continue
        assert killed, f"there is no moment {number}"
        assert new == wanted, f"killed at moment {number}"
