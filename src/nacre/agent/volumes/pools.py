"""The pools that this node can reach, and their volumes as disks of machines. Wired by `main`, used by the recipes.

Holds the lock of each volume: who changes a volume, or hands it to a machine that is being started, has it alone.
"""

import asyncio
import random
import shutil
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile, RbdDisk
from nacre.agent.storage.base import VolumeStore
from nacre.agent.storage.ceph.volumes import CephVolumes
from nacre.agent.storage.volumes import DirectoryVolumes
from nacre.agent.volumes.records import VolumeRecord, VolumeRecords
from nacre.lib.clock import Clock
from nacre.lib.lanes import Lanes
from nacre.lib.threads import in_thread
from nacre.model.arrivals import ArrivingVolume
from nacre.model.convergence import FailureClass
from nacre.model.ids import PoolId, VolumeId
from nacre.model.migrations import VolumeOffer
from nacre.model.volumes import (
    LOCAL_POOL,
    PoolIntent,
    PoolKind,
    PoolObserved,
    VolumeAttachment,
    VolumeIntent,
    serial_of,
)

NOT_READY = "volume_not_ready"
LOOK_S = 30.0
"""How old what a cluster has said of a pool may be."""

_KEYS = "ceph"

log = structlog.get_logger()


class Pools:
    """All pools of one node."""

    def __init__(
        self,
        data: Path,
        *,
        clock: Clock,
        roots: Sequence[str] = (),
        random: Callable[[], float] = random.random,
    ) -> None:
        """`roots` are the folders of this node in which pools of its operator's may be, besides the agent's own."""
        self.records = VolumeRecords(data)
        self.known: dict[VolumeId, VolumeRecord] = {}
        """What is on record. Changed by the executor only."""
        self.restores: dict[VolumeId, int] = {}
        """Up to which nonce volumes are to be put back, whether that is on record yet or not. Set by the executor."""
        self._data = data
        self._clock = clock
        self._roots = tuple(Path(root) for root in roots)
        self._told: dict[PoolId, PoolIntent] = {}
        self._local = DirectoryVolumes(data / "volumes", clock=clock)
        self._stores: dict[PoolIntent, VolumeStore] = {}
        self._locks: dict[VolumeId, asyncio.Lock] = {}
        self._seen: dict[PoolIntent, tuple[float, PoolObserved]] = {}
        """What clusters have said, and when. They are asked beside: nobody who reports waits for one."""
        self._asking: Lanes[PoolIntent] = Lanes(self._ask, random=random)

    def prepare(self) -> None:
        """Make the folder of the node's own pool and read the records. Blocks."""
        (self._data / "volumes").mkdir(mode=0o700, exist_ok=True)
        self.known = self.records.load_all()

    def want(self, pools: Sequence[PoolIntent]) -> None:
        """Use these pools from now on, besides the node's own."""
        self._told = {pool.id: pool for pool in pools}
        self._stores = {pool: store for pool, store in self._stores.items() if pool in pools}
        self._seen = {pool: said for pool, said in self._seen.items() if pool in pools}

    def is_shared(self, pool: PoolId) -> bool:
        """Whether other nodes see the pool's volumes."""
        return pool in self._told and self._told[pool].shared

    def is_new(self, intent: VolumeIntent) -> bool:
        """Whether no node can have begun a volume that this one is told of for the first time.

        In a pool of one node no other can. Where others can, every move to another node is a generation of its own: a
        clone has its first node from the first on, and any other volume from the second.
        """
        told = self._told.get(intent.pool)
        alone = intent.pool == LOCAL_POOL or (told is not None and not told.shared)
        first = 1 if intent.source.volume is not None else 2
        return not intent.made and (alone or intent.generation <= first)

    def store(self, pool: PoolId) -> VolumeStore:
        """Return a pool's driver. Raises DriverError if the pool cannot be used here."""
        if pool == LOCAL_POOL:
            return self._local
        told = self._told.get(pool)
        if told is None:
            raise DriverError(
                "pool_unknown",
                "this node is not part of the volume's pool",
                hint="add the node to the pool, or use a volume of another pool",
                failure_class=FailureClass.WAITING,
            )
        refusal = self._refusal(told)
        if refusal is not None:
            raise DriverError(
                "pool_unavailable",
                f"pool {told.name} is not available on the node: {refusal[0]}",
                hint=refusal[1],
                failure_class=FailureClass.BLOCKED,
            )
        if told not in self._stores:
            self._stores[told] = self._opened(told)
        return self._stores[told]

    async def observed(self) -> tuple[PoolObserved, ...]:
        """Return how all pools stand."""
        found = [await self._local.probe(LOCAL_POOL)]
        for pool in self._told.values():
            refusal = self._refusal(pool)
            if refusal is not None:
                found.append(PoolObserved(id=pool.id, available=False, reason=refusal[0], hint=refusal[1]))
            elif pool.kind is PoolKind.CEPH:
                self._asking.ring(pool)
                found.append(self._said(pool))
            else:
                found.append(await self.store(pool.id).probe(pool.id))
        await in_thread(self._forget_keys)
        return tuple(found)

    async def sweep(self) -> None:
        """Remove what was left in pools of this node alone by whoever was killed."""
        await self._local.sweep()

    async def close(self) -> None:
        """Ask nobody any more."""
        await self._asking.close()

    @asynccontextmanager
    async def held(self, volumes: Collection[VolumeId]) -> AsyncGenerator[None]:
        """Have these volumes alone, always taken in the same order; what is on record here, among all nodes.

        Raises DriverError if another node has one of them, or has it by now for good.
        """
        async with AsyncExitStack() as stack:
            for volume in sorted(set(volumes)):
                await stack.enter_async_context(self._locks.setdefault(volume, asyncio.Lock()))
                record = self.known.get(volume)
                if record is not None and not record.deleted and self.is_shared(record.intent.pool):
                    store = self.store(record.intent.pool)
                    await stack.enter_async_context(store.alone(volume, record.intent.generation))
            yield

    async def disks(
        self, attachments: Sequence[VolumeAttachment], *, may_have: Collection[VolumeId] = ()
    ) -> tuple[DiskFile | RbdDisk, ...]:
        """Return volumes as a machine's disks, of which it `may_have` some open already. Their locks are held.

        Raises DriverError: `volume_not_ready`, or `volume_in_use` if somebody else surely has one open.
        """
        return tuple([await self._disk(one, check=one.volume not in may_have) for one in attachments])

    async def arriving(
        self, attachments: Sequence[VolumeAttachment], among: Sequence[ArrivingVolume]
    ) -> tuple[DiskFile | RbdDisk, ...]:
        """Return volumes of a machine that comes from another node, which has them open. Their locks are held.

        Nothing is on record here of such a volume, and none is made. Raises DriverError.
        """
        homes = {one.id: one for one in among}
        return tuple([await self._arriving(one, homes.get(one.volume)) for one in attachments])

    async def offered(self, volumes: Collection[VolumeId]) -> tuple[VolumeOffer, ...]:
        """Return volumes of a machine that goes to another node as they are offered to that. Raises DriverError."""
        found: list[VolumeOffer] = []
        for volume in sorted(volumes):
            disk = await self.disk_of(volume)
            found.append(VolumeOffer(id=volume, layer=disk.path.name if isinstance(disk, DiskFile) else ""))
        return tuple(found)

    async def disk_of(self, volume: VolumeId) -> DiskFile | RbdDisk:
        """Return what a hypervisor opens of a volume that is on record here. Raises DriverError."""
        record = self.known.get(volume)
        if record is None:
            raise not_ready(volume)
        return await self.store(record.intent.pool).disk(volume)

    async def _disk(self, attachment: VolumeAttachment, *, check: bool) -> DiskFile | RbdDisk:
        record = self.known.get(attachment.volume)
        if record is None or not record.made or record.deleted:
            raise not_ready(attachment.volume if record is None else record.intent.name)
        store = self.store(record.intent.pool)
        state = await store.look(record.id)
        # What a machine writes to a volume that is still to be put back would be thrown away with that.
        if state is not None and (state.unfinished or state.restore_nonce < self.restores.get(record.id, 0)):
            raise not_ready(record.intent.name)
        if check and not attachment.read_only:
            await store.check_free(record.id)
        return _attached(await store.disk(record.id), attachment)

    async def _arriving(self, attachment: VolumeAttachment, home: ArrivingVolume | None) -> DiskFile | RbdDisk:
        if home is None or not self.is_shared(home.pool):
            raise DriverError(
                "volume_elsewhere",
                f"volume {attachment.volume if home is None else home.name} is not in a pool that both nodes reach",
                hint="move the machine by a restart, or use a volume of a shared pool",
                failure_class=FailureClass.BLOCKED,
            )
        store = self.store(home.pool)
        state = await store.look(home.id)
        if state is None:
            raise DriverError(
                "volume_missing",
                f"volume {home.name} is not in its pool, as this node sees that",
                hint="do both nodes see the same folder? Look at what is mounted there",
                failure_class=FailureClass.BLOCKED,
            )
        if state.unfinished:
            raise not_ready(home.name)
        return _attached(await store.disk(home.id), attachment)

    def _opened(self, told: PoolIntent) -> VolumeStore:
        if told.ceph is not None:
            return CephVolumes(told.path, told.ceph, self._data / _KEYS / told.id)
        return DirectoryVolumes(Path(told.path), clock=self._clock, shared=told.shared)

    async def _ask(self, pool: PoolIntent) -> None:
        """Ask a cluster how a pool stands, unless that is known, and have done there what nobody else does."""
        before = self._seen.get(pool)
        now = self._clock.monotonic()
        if self._told.get(pool.id) != pool or (before is not None and now - before[0] < LOOK_S):
            return
        store = self.store(pool.id)
        found = await store.probe(pool.id)
        self._seen[pool] = (now, found)
        if found.available and (before is None or not before[1].available):
            try:
                await store.sweep()
            except DriverError as error:
                log.warning("pool.sweep_failed", pool=pool.id, code=error.code, next="tried again when it comes back")

    def _said(self, pool: PoolIntent) -> PoolObserved:
        if pool in self._seen:
            return self._seen[pool][1]
        return PoolObserved(
            id=pool.id, available=False, reason="its cluster has not answered yet", hint="wait for a moment"
        )

    def _forget_keys(self) -> None:
        """Remove the keys of pools that are not this node's any more. Blocks; short."""
        folder = self._data / _KEYS
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in self._told:
                shutil.rmtree(path, ignore_errors=True)

    def _refusal(self, pool: PoolIntent) -> tuple[str, str] | None:
        """Say why a pool is not used here, and what to do."""
        if pool.kind is PoolKind.CEPH:
            missing = "it is not known how to reach its cluster", "delete the pool and create it again"
            return missing if pool.ceph is None else None
        path = Path(pool.path)
        if not any(path == root or path.is_relative_to(root) for root in self._roots):
            return (
                "its folder is not among those that the node's agent may use",
                f"add {pool.path} to `pool_roots` in the agent's configuration on the node",
            )
        if not path.is_dir():
            return "its folder is not there", "make the folder on the node, or mount what should be there"
        if not any(
            path.resolve() == root.resolve() or path.resolve().is_relative_to(root.resolve()) for root in self._roots
        ):
            return "its folder leads elsewhere", "use a folder that is not a link out of `pool_roots`"
        return None


def _attached(disk: DiskFile | RbdDisk, attachment: VolumeAttachment) -> DiskFile | RbdDisk:
    options = attachment.options
    if not options.serial:
        options = msgspec.structs.replace(options, serial=serial_of(attachment.volume))
    return replace(disk, read_only=attachment.read_only, options=options)


def not_ready(name: str) -> DriverError:
    """Return the error for a volume that has not been made here yet."""
    return DriverError(
        NOT_READY,
        f"volume {name} is not ready on the node yet",
        hint="look at the volume: `nacre volume show` says what it waits for",
        failure_class=FailureClass.WAITING,
    )
