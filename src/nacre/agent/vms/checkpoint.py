"""Take a checkpoint of a machine, forget one, merge what nobody needs any more. Called by `keeping`.

All disks get an empty layer on top at one instant, for which a guest with several disks, or with memory to be saved,
stands still. What is begun has a draft in the machine's folder (`kept`): an agent that is killed leaves that, and the
next one begins again from nothing, because another instant would not be the same one.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from nacre.agent.failures import failure_of
from nacre.agent.guest.seed import FILE_NAME
from nacre.agent.hypervisors.abilities import CanCheckpoint
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.base import VolumeStore
from nacre.agent.storage.roots import ROOT, disk_of
from nacre.agent.vms import confining, kept
from nacre.agent.vms.holding import held
from nacre.agent.vms.host import Host
from nacre.agent.vms.kept import Kept
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.plug import open_volumes
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.stillness import at_rest, hold_still
from nacre.agent.volumes.pools import not_ready
from nacre.agent.volumes.writing import GuestWriter
from nacre.errors import NacreError
from nacre.lib.threads import in_thread
from nacre.model.checkpoints import CheckpointIntent, CheckpointObserved, snapshot_of
from nacre.model.consistency import Consistency
from nacre.model.convergence import FailureClass
from nacre.model.ids import CheckpointId, VolumeId

log = structlog.get_logger()


@dataclass(frozen=True)
class Part:
    """A disk of a machine, and the guest that writes to it, if one does."""

    store: VolumeStore
    disk: VolumeId
    writer: GuestWriter | None


async def take(machine: Machine, wanted: CheckpointIntent, host: Host) -> None:
    """Return when there is a checkpoint, or on record why there is none. May be repeated after a kill.

    Raises DriverError and OSError only if what was begun could not be taken back.
    """
    machine.enter(machine.observed().phase)  # it may stand still for a moment, which is nobody's business
    place = host.place(machine.id)
    async with held(machine, [disk_of(machine.id), *wanted.volumes], host):
        machine.checkpoints.begun.add(wanted.id)
        draft = await in_thread(kept.begin, place, wanted.id)
        try:
            found = await _take(machine, wanted, draft, host)
        except (NacreError, OSError) as error:
            found = await _failed(machine, wanted, error, draft, host)
        await in_thread(kept.finish, place, found)
        machine.checkpoints.begun.discard(wanted.id)
        machine.checkpoints.kept[wanted.id] = found
        await look(machine, host)
    if found.seen.failure is None:
        log.info("vm.checkpoint_taken", vm=machine.id, checkpoint=wanted.id, consistency=found.seen.consistency)


async def drop(machine: Machine, checkpoint: CheckpointId, volumes: Sequence[VolumeId], host: Host) -> None:
    """Leave nothing of a checkpoint in the machine's folder; volumes see to their own parts. May be repeated."""
    begun = checkpoint in machine.checkpoints.begun
    async with held(machine, [disk_of(machine.id), *(volumes if begun else ())], host):
        await _clear(await _parts(machine, volumes if begun else (), host, missing=False), checkpoint)
        await in_thread(kept.remove, host.place(machine.id), checkpoint)
        machine.checkpoints.begun.discard(checkpoint)
        machine.checkpoints.kept.pop(checkpoint, None)
        await look(machine, host)
    log.info("vm.checkpoint_dropped", vm=machine.id, checkpoint=checkpoint)


async def merge(machine: Machine, host: Host) -> None:
    """Merge one layer of the root disk that nobody needs into another. What fails is tried again another day."""
    async with host.pools.held([disk_of(machine.id)]):
        for part in await _parts(machine, (), host):
            try:
                await part.store.finish(part.disk, part.writer)
                await part.store.merge(part.disk, part.writer)
            except (NacreError, OSError) as error:
                machine.checkpoints.mergeable = False
                log.warning("vm.not_merged", vm=machine.id, error=str(error), next="tried again with the next change")
                return
        await look(machine, host)


async def look(machine: Machine, host: Host) -> None:
    """Find out whether the machine's root disk has layers that nobody needs."""
    state = await host.roots.look(disk_of(machine.id))
    machine.checkpoints.mergeable = state is not None and state.mergeable


async def _take(machine: Machine, wanted: CheckpointIntent, draft: Path, host: Host) -> Kept:
    parts = await _parts(machine, wanted.volumes, host)
    guest = machine.guest
    await _clear(parts, wanted.id)
    if guest is None:
        if wanted.memory:
            raise _no_memory("the machine is off", "start it first")
        consistency = at_rest(machine)
        for part in parts:
            await part.store.snapshot(part.disk, snapshot_of(wanted.id), None)
    else:
        if wanted.memory and not isinstance(guest, CanCheckpoint):
            raise _no_memory("its hypervisor cannot save it", "take a checkpoint without memory")
        consistency = await _live(machine, guest, parts, wanted, draft, host)
    memory = wanted.memory and machine.record.run is not None
    sizes = {part.disk: await _size(part) for part in parts}
    return Kept(
        seen=CheckpointObserved(
            id=wanted.id,
            taken_at=host.clock.now(),
            consistency=consistency,
            size_bytes=sum(sizes.values()),
            disk_bytes=sizes.get(disk_of(machine.id), 0),
            memory_bytes=await in_thread(_used, draft / kept.STATE) if memory else 0,
        ),
        volumes=wanted.volumes,
        root=disk_of(machine.id) in sizes,
        run=machine.record.run.info if memory and machine.record.run is not None else None,
        hypervisor=machine.record.run.hypervisor if memory and machine.record.run is not None else "",
        seeded=await in_thread((host.place(machine.id) / FILE_NAME).exists),
    )


async def _live(
    machine: Machine, guest: Guest, parts: Sequence[Part], wanted: CheckpointIntent, draft: Path, host: Host
) -> Consistency:
    """Put the layers of a guest that runs on top at one instant, and save its memory at the same one."""
    async with AsyncExitStack() as stack:
        if wanted.memory:
            consistency = Consistency.MEMORY
        else:
            consistency = await hold_still(machine, stack)
        if wanted.memory or len(parts) > 1:
            await stack.enter_async_context(_standing(machine, guest))
        for part in parts:
            await part.store.snapshot(part.disk, snapshot_of(wanted.id), part.writer)
        if isinstance(guest, CanCheckpoint) and wanted.memory:
            state = draft / kept.STATE
            state.mkdir(mode=0o700)
            await confining.lend_folder(machine, state, host)
            await guest.save(state)
        return consistency


@asynccontextmanager
async def _standing(machine: Machine, guest: Guest) -> AsyncGenerator[None]:
    """Have the guest stand still; it goes on afterwards if it did before, whatever happens."""
    if machine.presence is Presence.PAUSED:
        yield
        return
    await guest.pause()
    try:
        yield
    finally:
        going_on = asyncio.ensure_future(guest.resume())
        try:
            await asyncio.shield(going_on)
        except asyncio.CancelledError:
            await going_on
            raise


async def _failed(
    machine: Machine, wanted: CheckpointIntent, error: NacreError | OSError, draft: Path, host: Host
) -> Kept:
    """Take back what was begun and say why there is no checkpoint. It is of a moment, so it is not tried again."""
    await _clear(await _parts(machine, wanted.volumes, host, missing=False), wanted.id)
    await in_thread(shutil.rmtree, draft / kept.STATE, True)
    now = host.clock.now()
    failure = failure_of(error, generation=machine.record.generation, at=now, attempts=1, may_give_up=True)
    log.warning(
        "vm.checkpoint_failed",
        vm=machine.id,
        checkpoint=wanted.id,
        code=failure.code,
        detail=str(error),
        next="it is not tried again",
    )
    return Kept(seen=CheckpointObserved(id=wanted.id, taken_at=now, failure=failure))


async def _parts(machine: Machine, volumes: Sequence[VolumeId], host: Host, *, missing: bool = True) -> list[Part]:
    """Return the disks of a machine. Raises DriverError for a volume that is not there, unless `missing` is false."""
    guest, found = machine.guest, list[Part]()
    lend = partial(confining.lend, machine, host=host)
    if await host.roots.layered(machine.id):
        writer = None if guest is None else GuestWriter(guest, VolumeId(ROOT), lend)
        found.append(Part(host.roots, disk_of(machine.id), writer))
    opened = open_volumes(machine)
    for volume in volumes:
        record = host.pools.known.get(volume)
        if record is None or not record.made or record.deleted:
            if missing:
                raise not_ready(volume if record is None else record.intent.name)
            continue
        writer = GuestWriter(guest, volume, lend) if guest is not None and volume in opened else None
        found.append(Part(host.pools.store(record.intent.pool), volume, writer))
    return found


async def _clear(parts: Sequence[Part], checkpoint: CheckpointId) -> None:
    """Forget what disks keep for a checkpoint, also what a guest was being told when an agent ended."""
    for part in parts:
        await part.store.finish(part.disk, part.writer)
        state = await part.store.look(part.disk)
        if state is not None and any(one.id == checkpoint for one in state.snapshots):
            await part.store.drop(part.disk, snapshot_of(checkpoint))


async def _size(part: Part) -> int:
    state = await part.store.look(part.disk)
    return 0 if state is None else state.size_bytes


def _used(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def _no_memory(why: str, hint: str) -> DriverError:
    return DriverError(
        "memory_not_saved",
        f"memory cannot be part of the checkpoint: {why}",
        hint=hint,
        failure_class=FailureClass.PERMANENT,
    )
