"""Carry out what is wanted of volumes: a lane per volume, one step at a time, and look again after each.

Wired by `main`. Deciding is `volume_planner`'s, doing is the storage drivers'. A volume that a guest has open is
changed through the guest, which the executor of machines knows.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

import msgspec
import structlog

from nacre.agent import volume_planner as planner
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.images.cache import ImageCache
from nacre.agent.storage.base import BaseDisk, CloneOf, VolumeStore
from nacre.agent.volume_planner import Known, Step
from nacre.agent.volumes.pools import Pools
from nacre.agent.volumes.records import VolumeRecord
from nacre.agent.volumes.volume import Volume
from nacre.agent.volumes.writing import GuestWriter, in_use
from nacre.errors import NacreError
from nacre.lib.clock import Clock
from nacre.lib.lanes import Lanes
from nacre.lib.threads import in_thread
from nacre.model.consistency import Consistency
from nacre.model.convergence import FailureClass
from nacre.model.ids import ImageId, SnapshotId, VolumeId
from nacre.model.images import Role
from nacre.model.volumes import DiskFormat, PoolObserved, SourceKind, VolumeIntent, VolumeObserved, Wish
from nacre.protocol.messages import NodeIntent

log = structlog.get_logger()


class Users(Protocol):
    """Who has volumes open, as the executor of machines knows."""

    def user_of(self, volume: VolumeId) -> Guest | None:
        """Return the guest that has a volume open; None if surely none has. Raises DriverError while nobody knows."""
        ...

    async def lend(self, volume: VolumeId, disk: DiskFile) -> None:
        """Let the process that has a volume open use another file of it. Raises OSError."""
        ...

    def held_still(self, volume: VolumeId) -> AbstractAsyncContextManager[Consistency]:
        """Have the file systems in a volume at rest meanwhile, if that can be had, and say whether they are."""
        ...

    def volume_ready(self, volume: VolumeId) -> None:
        """A machine may have waited for this volume."""
        ...


class VolumeExecutor:
    """All volumes of one node."""

    def __init__(
        self,
        pools: Pools,
        images: ImageCache,
        users: Users,
        *,
        clock: Clock,
        random: Callable[[], float],
        told: Callable[[VolumeObserved], None],
        forgotten: Callable[[VolumeId], None],
        counted: Callable[[str, str], None] = lambda _step, _outcome: None,
    ) -> None:
        """`told` hears of every change, `forgotten` of volumes that are no more, `counted` of steps and outcomes."""
        self._pools = pools
        self._images = images
        self._users = users
        self._clock = clock
        self._random = random
        self._told = told
        self._forgotten = forgotten
        self._counted = counted
        self._volumes: dict[VolumeId, Volume] = {}
        self._intent: NodeIntent | None = None
        self._wanted: dict[VolumeId, VolumeIntent] = {}
        self._refused: frozenset[VolumeId] = frozenset()
        self._lanes: Lanes[VolumeId] = Lanes(self._work, random=random)

    async def begin(self) -> None:
        """Read the records and look at every volume. Before machines are started."""
        await in_thread(self._pools.prepare)
        await self._pools.sweep()
        for record in self._pools.known.values():
            self._volumes[record.id] = Volume(record, self._clock, self._random)
            self._lanes.ring(record.id)

    def want(self, intent: NodeIntent) -> None:
        """Work towards this desired state from now on."""
        wanted = {volume.id: volume for volume in intent.volumes}
        refused = planner.refused(intent, {volume: self._known(one) for volume, one in self._volumes.items()})
        if refused and refused != self._refused:
            log.error("volume_teardown.refused", volumes=len(refused), next="an operator has to allow it")
        pools = self._intent is None or intent.pools != self._intent.pools
        changed = {
            volume for volume in wanted.keys() | self._wanted.keys() if wanted.get(volume) != self._wanted.get(volume)
        }
        if self._intent is None or pools:
            changed |= self._volumes.keys()
        changed |= refused ^ self._refused
        self._pools.want(intent.pools)
        self._pools.restores = {one.id: one.restore.nonce for one in intent.volumes if one.restore is not None}
        self._intent, self._wanted, self._refused = intent, wanted, refused
        for volume in changed:
            self._lanes.ring(volume)

    def look(self, volumes: Iterable[VolumeId]) -> None:
        """Look at these volumes: who had them open may not have any more."""
        for volume in volumes:
            held = self._volumes.get(volume)
            if held is not None and held.failure is not None and held.failure.failure_class is FailureClass.WAITING:
                held.retry_at = 0.0
                self._lanes.ring(volume)

    def look_again(self) -> None:
        """Look at every volume although nothing rang."""
        for volume in self._volumes.keys() | self._wanted.keys():
            self._lanes.ring(volume)

    @property
    def refused(self) -> frozenset[VolumeId]:
        """Volumes that were to be torn down, too many at once."""
        return self._refused

    def observed(self) -> tuple[VolumeObserved, ...]:
        """Return the newest facts of every volume."""
        return tuple(self._volumes[volume].observed() for volume in sorted(self._volumes))

    async def pools(self) -> tuple[PoolObserved, ...]:
        """Return how the node's pools stand."""
        return await self._pools.observed()

    def images(self) -> frozenset[ImageId]:
        """Return the images under volumes, which must stay."""
        bases = (one.record.base for one in self._volumes.values() if not one.record.deleted)
        return frozenset(image for image in bases if image is not None)

    async def close(self) -> None:
        """Stop working. What was begun is finished by the next agent."""
        await self._lanes.close()
        await self._pools.close()

    # A lane

    async def _work(self, volume: VolumeId) -> None:
        """Do what is to be done for one volume until there is nothing left but to wait."""
        while True:
            held = self._volumes.get(volume)
            try:
                if held is not None and not held.record.deleted:
                    held.state = await self._store(held.record.intent).look(volume)
            except (NacreError, OSError) as error:
                assert held is not None
                if held.record.untouched and held.record.intent.desired is Wish.ABSENT:
                    await self._note_deleted(held)
                    continue
                self._failed(held, planner.NOTHING, error)
                held.state = None
                told = self._wanted.get(volume)
                newer = told is not None and told.generation > held.record.intent.generation
                if not newer:
                    self._settle(held, planner.RetryAt(held.retry_at))
                    return
            step = self._next(volume)
            if isinstance(step, planner.Nothing | planner.RetryAt):
                self._settle(held, step)
                return
            await self._carry_out(volume, step)

    def _next(self, volume: VolumeId) -> Step:
        held = self._volumes.get(volume)
        return planner.decide(
            self._wanted.get(volume),
            None if held is None else self._known(held),
            self._clock.monotonic(),
            synced=self._intent is not None,
            refused=volume in self._refused,
        )

    def _known(self, held: Volume) -> Known:
        record = held.record
        return Known(
            intent=record.intent,
            made=record.made,
            deleted=record.deleted,
            state=held.state,
            failure=held.failure.failure_class if held.failure is not None else None,
            retry_at=held.retry_at,
            shared=self._pools.is_shared(record.intent.pool),
        )

    def _settle(self, held: Volume | None, step: planner.Nothing | planner.RetryAt) -> None:
        if held is None:
            return
        if isinstance(step, planner.RetryAt):
            self._lanes.ring_later(held.record.id, max(0.0, step.at - self._clock.monotonic()))
        elif held.failure is not None and held.failure.failure_class is not FailureClass.PERMANENT:
            held.forgive()
        self._told(held.observed())

    async def _carry_out(self, volume: VolumeId, step: Step) -> None:
        name = f"volume_{step.__class__.__name__.lower()}"
        held = self._volumes.get(volume)
        try:
            match step:
                case planner.Accept(intent=intent):
                    await self._accept(volume, intent)
                case planner.Forget():
                    await self._forget(volume)
                case _:
                    assert held is not None
                    await self._do(held, step)
        except (NacreError, OSError) as error:
            if held is None:
                raise
            self._failed(held, step, error)
            self._counted(name, "failed")
        else:
            if held is not None and not isinstance(step, planner.Accept):
                held.forgive()
            self._counted(name, "done")

    async def _do(self, held: Volume, step: Step) -> None:
        intent, volume = held.record.intent, held.record.id
        source = intent.source.volume if isinstance(step, planner.Make) else None
        async with self._pools.held([volume] if source is None else [volume, source]):
            store = self._store(intent)
            match step:
                case planner.Make():
                    await self._make(held, store)
                case planner.Found():
                    await self._note(held, made=True)
                    self._users.volume_ready(volume)
                case planner.Lost():
                    raise _lost(intent)
                case planner.Delete():
                    if self._users.user_of(volume) is not None:
                        raise in_use("be deleted")
                    await store.delete(volume)
                    await self._note_deleted(held)
                case planner.PutBack(restore=restore):
                    if self._users.user_of(volume) is not None:
                        raise in_use("be put back to a snapshot")
                    await store.restore(volume, restore.snapshot, restore.nonce)
                    self._users.volume_ready(volume)
                    log.info("volume.restored", volume=volume, snapshot=restore.snapshot)
                case planner.Take(snapshot=snapshot):
                    await self._take(held, snapshot, store)
                case _:
                    await self._change(volume, store, step)

    async def _take(self, held: Volume, snapshot: SnapshotId, store: VolumeStore) -> None:
        """Take a snapshot. That its file systems were at rest is on record only once it has been taken so."""
        volume, writer = held.record.id, self._writer(held.record.id)
        async with self._users.held_still(volume) as consistency:
            await store.snapshot(volume, snapshot, writer)
        kept = {one.id for one in held.record.intent.snapshots}
        before = {one: said for one, said in held.record.consistency.items() if one in kept}
        await self._note(held, consistency=before | {snapshot: consistency})
        log.info("volume.snapshot_taken", volume=volume, snapshot=snapshot, live=writer is not None, of=consistency)

    async def _change(self, volume: VolumeId, store: VolumeStore, step: Step) -> None:
        """Do what works on a volume that is in use as well."""
        writer = self._writer(volume)
        match step:
            case planner.Drop(snapshot=snapshot):
                await store.drop(volume, snapshot)
                log.info("volume.snapshot_dropped", volume=volume, snapshot=snapshot)
            case planner.Grow(size_bytes=size_bytes):
                await store.grow(volume, size_bytes, writer)
                log.info("volume.grown", volume=volume, size_bytes=size_bytes, live=writer is not None)
            case planner.Merge():
                await store.merge(volume, writer)
            case planner.Finish():
                await store.finish(volume, writer)
                self._users.volume_ready(volume)
            case _:
                raise RuntimeError(f"{step} is not for volumes in use")

    async def _make(self, held: Volume, store: VolumeStore) -> None:
        """Make a volume. Which image it needs, and that it is begun, is on record before there is anything of it."""
        intent, volume = held.record.intent, held.record.id
        source = intent.source
        if source.kind in {SourceKind.VOLUME, SourceKind.SNAPSHOT} and source.volume is not None:
            origin = self._pools.known.get(source.volume)
            await self._note(held, base=None if origin is None else origin.base, untouched=False)
            writer = self._writer(source.volume) if source.kind is SourceKind.VOLUME else None
            of = CloneOf(volume=source.volume, snapshot=source.snapshot, full=source.full, form=intent.format)
            await store.clone(volume, of, writer)
        else:
            base = None
            raw = intent.format is DiskFormat.RAW
            keep = not self._pools.is_shared(intent.pool) and not source.full and not raw
            if intent.image is not None:
                await self._note(held, base=intent.image.id if keep else None)
                base = await self._base(intent)
            await self._note(held, untouched=False)
            await store.create(volume, size_bytes=intent.size_bytes, base=base, keep_base=keep, form=intent.format)
        log.info("volume.made", volume=volume, source=source.kind.value)

    async def _base(self, intent: VolumeIntent) -> BaseDisk:
        assert intent.image is not None
        path = (await self._images.fetch(intent.image)).path(Role.DISK)
        artifact = intent.image.artifact(Role.DISK)
        if path is None or artifact is None:
            raise DriverError(
                "image_without_disk",
                "the image that the volume is made from has no disk",
                hint="make the volume from another image, or blank",
                failure_class=FailureClass.PERMANENT,
            )
        return BaseDisk(path=path, format=artifact.format)

    def _writer(self, volume: VolumeId) -> GuestWriter | None:
        guest = self._users.user_of(volume)
        return None if guest is None else GuestWriter(guest, volume, partial(self._users.lend, volume))

    def _store(self, intent: VolumeIntent) -> VolumeStore:
        return self._pools.store(intent.pool)

    # Records

    async def _accept(self, volume: VolumeId, intent: VolumeIntent) -> None:
        held = self._volumes.get(volume)
        before = None if held is None else held.record
        if before is None:
            record = VolumeRecord(id=volume, intent=intent, untouched=self._pools.is_new(intent))
        else:
            record = msgspec.structs.replace(before, intent=intent)
        await in_thread(self._pools.records.save, record)
        self._pools.known[volume] = record
        if held is None:
            held = self._volumes[volume] = Volume(record, self._clock, self._random)
        held.record = record
        held.forgive()
        self._told(held.observed())

    async def _note(self, held: Volume, **changes: object) -> None:
        record = msgspec.structs.replace(held.record, **changes)
        if record != held.record:
            await in_thread(self._pools.records.save, record)
        held.record = self._pools.known[record.id] = record

    async def _note_deleted(self, held: Volume) -> None:
        await self._note(held, deleted=True)
        held.state = None
        held.forgive()
        log.info("volume.deleted", volume=held.record.id)

    async def _forget(self, volume: VolumeId) -> None:
        await in_thread(self._pools.records.remove, volume)
        self._volumes.pop(volume, None)
        self._pools.known.pop(volume, None)
        self._forgotten(volume)

    def _failed(self, held: Volume, step: Step, error: NacreError | OSError) -> None:
        before = held.failure
        failure = held.failed(error, may_give_up=isinstance(step, planner.Make))
        if before is None or before.code != failure.code:
            log.warning(
                "volume.failed",
                volume=held.record.id,
                step=step.__class__.__name__.lower(),
                code=failure.code,
                message=failure.message,
                detail=str(error),
                next="waits for a change" if failure.next_try_at is None else "tried again",
            )


def _lost(intent: VolumeIntent) -> DriverError:
    return DriverError(
        "volume_missing",
        f"volume {intent.name} is not in its pool on the node any more",
        hint="is the pool's file system mounted? Put the volume's folder back, or delete the volume",
        failure_class=FailureClass.BLOCKED,
    )
