"""Volumes and the machines that have them: what one means for the other. Called by the services of both.

A machine's row knows its volumes (`Tie`), because the scheduler asks for that of many machines at once. An attachment
that is taken back stays until the machine has surely let go, so that nobody else gets the volume before.
"""

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from nacre.control.scheduler.placement import fits
from nacre.control.services import checkpoint_facts, volume_changes, volume_views
from nacre.control.services.pools import check_room
from nacre.control.services.vm_room import policy, request_of, rooms, volume_bytes
from nacre.control.store import checkpoints, nodes, pools, snapshots
from nacre.control.store import vms as vm_store
from nacre.control.store import volumes as store
from nacre.control.store.db import Tx
from nacre.control.store.pools import PoolRow
from nacre.control.store.vms import VmRow
from nacre.control.store.volumes import AttachmentRow, VolumeRow
from nacre.control.wake import VMS, node_topic
from nacre.errors import ConflictError, ExhaustedError, NotFoundError
from nacre.model.events import SYSTEM
from nacre.model.ids import NodeId, VmId, VolumeId
from nacre.model.units import format_size
from nacre.model.volumes import LOCAL_POOL, Tie, VolumePhase, Wish


async def tied(tx: Tx, row: VmRow) -> VmRow:
    """Return a machine with what its volumes mean for it now. Raises ConflictError if no node reaches all of them."""
    attachments = (await store.attached(tx, [row.id])).get(row.id, [])
    held = {one.id: one for one in await store.many(tx, [one.volume for one in attachments])}
    taken = sum(one.size_bytes for one in held.values() if one.pool == LOCAL_POOL)
    row = replace(row, reserved_disk_bytes=row.reserved_disk_bytes - volume_bytes(row) + taken)
    # What is still to be made from a checkpoint goes where that is, whatever is attached to it.
    home = row.tie if row.source is not None and row.run is None and row.node is None else None
    if not attachments:
        return replace(row, tie=None if home is None else Tie(volumes=(), nodes=home.nodes, because=home.because))
    known = {one.id: one for one in await pools.every(tx)}
    within: set[NodeId] | None = None if home is None else set(home.nodes)
    because = "" if home is None else home.because
    for attachment in attachments:
        volume = held[attachment.volume]
        reached = _reached(volume, known[volume.pool])
        if reached is None:
            continue
        within, because = (reached, volume.name) if within is None else (within & reached, because or volume.name)
        if not within:
            raise ConflictError(
                "volumes_apart",
                f"no node reaches volume {volume.name} and the other volumes of machine {row.name}",
                hint="use volumes of one node, or of a shared pool",
                field="volume",
            )
    wanted = tuple(one.volume for one in attachments if not one.leaving)
    return replace(row, tie=Tie(volumes=wanted, nodes=tuple(sorted(within or ())), because=because, disk_bytes=taken))


async def placed(tx: Tx, where: Mapping[VmId, NodeId]) -> None:
    """Machines with volumes have got nodes: volumes without a node, and those of shared pools, are there now.

    That their pools have room there is known by who gives machines nodes (see `volume_room`).
    """
    if not where:
        return
    known = {one.id: one for one in await pools.every(tx)}
    attached = await store.attached(tx, list(where))
    homes = {one.volume: where[vm] for vm, some in attached.items() for one in some}
    for volume in await store.many(tx, list(homes), lock=True):
        await settle(tx, volume, known[volume.pool], homes[volume.id])
    for vm in sorted(where):
        row = await vm_store.get(tx, vm)
        if row is not None:
            await vm_store.save(tx, await tied(tx, row))


async def settle(tx: Tx, volume: VolumeRow, pool: PoolRow, node: NodeId) -> None:
    """Give a volume the node that uses it or looks after it, if it is free to go there."""
    if volume.node == node or (volume.node is not None and not pool.shared):
        return
    moved = replace(volume, node=node, observed_generation=0, phase=VolumePhase.CREATING, failure=None)
    if volume.node is not None:
        moved = replace(moved, phase=volume.phase)
        tx.wake(node_topic(volume.node))
    said = "is looked after by another node" if volume.made else "has a node"
    await volume_changes.write(tx, moved, "volume.placed", f"volume {volume.name} {said} now", actor=SYSTEM)


async def given(tx: Tx, volume: VolumeRow) -> VolumeRow:
    """Give a volume that was made, and whose node was removed, to one that reaches it. Raises ConflictError."""
    pool = next(one for one in await pools.every(tx) if one.id == volume.pool)
    told = (await pools.reports(tx, [pool.id])).get(pool.id, {})
    able = [one.id for one in await nodes.every(tx, list(told)) if told[one.id].available and pool.is_on(one.id)]
    if not able:
        raise ConflictError(
            "volume_out_of_reach",
            f"volume {volume.name} is in pool {pool.name}, which no node reaches now",
            hint=f"look at `nacre pool show {pool.name}`; a node can be given the pool with `nacre pool update`",
        )
    await settle(tx, volume, pool, able[0])
    return next(iter(await store.many(tx, [volume.id])))


async def released(tx: Tx, vm: VmRow) -> None:
    """A machine is gone: its volumes are kept or deleted, as was said when they were attached."""
    await checkpoint_facts.gone_with(tx, vm)
    by = vm.delete_requested_by
    for attachment in (await store.attached(tx, [vm.id])).get(vm.id, []):
        await store.detach(tx, attachment.volume)
        volume = await store.get(tx, attachment.volume, lock=True)
        if volume is None or not attachment.delete_with_vm or volume.desired is Wish.ABSENT:
            continue
        if why := await _kept_because(tx, volume):
            message = f"volume {volume.name} is kept although machine {vm.name} is gone: {why}"
            volume_changes.tell(tx, volume, "volume.kept", message, actor=SYSTEM)
            continue
        gone = replace(volume, desired=Wish.ABSENT, delete_requested_by=by)
        message = f"volume {volume.name} is to be deleted with machine {vm.name}"
        gone = await volume_changes.write(tx, gone, "volume.delete_requested", message, actor=SYSTEM)
        if gone.node is None:
            await store.remove(tx, gone.id)


async def follow(tx: Tx, vm: VmRow) -> None:
    """A node has told of a machine: attachments that it has let go of end."""
    ended = False
    for attachment in (await store.attached(tx, [vm.id])).get(vm.id, []):
        if has_let_go(vm, attachment):
            await store.detach(tx, attachment.volume)
            ended = True
    row = await vm_store.get(tx, vm.id) if ended else None
    if row is not None:
        await vm_store.save(tx, await tied(tx, row))
        tx.wake(VMS)


async def node_removed(tx: Tx, node: NodeId, name: str, *, force: bool) -> None:
    """A node goes: what lies on it alone goes with it, which takes `force`. Raises ConflictError without."""
    known = {one.id: one for one in await pools.every(tx)}
    here = await store.on_nodes(tx, [node], lock=True)
    lost = [one for one in here if not known[one.pool].shared]
    if lost and not force:
        raise ConflictError(
            "node_has_volumes",
            f"node {name} has {len(lost)} volumes that are nowhere else, such as {lost[0].name}",
            hint="delete them, or copy what is in them elsewhere; with --force they are given up with the node",
        )
    for one in here:
        if known[one.pool].shared:
            await store.save(tx, replace(one, node=None, phase=VolumePhase.PENDING, observed_generation=one.generation))
            continue
        attachment = await store.attachment(tx, one.id)
        await store.detach(tx, one.id)
        await checkpoints.lose_volume(tx, one.id)
        await snapshots.remove_of(tx, one.id)
        await store.remove(tx, one.id)
        volume_changes.tell(tx, one, "volume.lost", f"volume {one.name} is lost with its node {name}", actor=SYSTEM)
        vm = await vm_store.get(tx, attachment.vm, lock=True) if attachment is not None else None
        if vm is not None:
            await vm_store.save(tx, await tied(tx, vm))
    await pools.forget_node(tx, node)


def has_let_go(vm: VmRow, attachment: AttachmentRow) -> bool:
    """Whether a machine surely has not open any more what is being taken back from it. Pure."""
    if not attachment.leaving:
        return False
    if vm.node is None:
        return True
    if vm.observed_generation < attachment.leaving:
        return False
    return vm.run is None or vm.run.exited_at is not None or attachment.volume not in vm.run.volumes


async def lock_around(tx: Tx, volume: VolumeId) -> None:
    """Lock the node and the machine of an attached volume, before the volume itself: as everybody does."""
    attachment = await store.attachment(tx, volume)
    if attachment is None:
        return
    seen = await vm_store.get(tx, attachment.vm)
    if seen is not None and seen.node is not None:
        await nodes.every(tx, [seen.node], lock=True)
    await vm_store.get(tx, attachment.vm, lock=True)


async def grow(tx: Tx, volume: VolumeRow, size_bytes: int) -> None:
    """Promise more to a volume. Raises ExhaustedError if there is no room. What `lock_around` locks is locked."""
    more = size_bytes - volume.size_bytes
    if more <= 0:
        return
    pool = next(one for one in await pools.every(tx) if one.id == volume.pool)
    has = volume.size_bytes if volume.node is None else 0
    await check_room(tx, pool, volume.node, more, has_bytes=has)
    attachment = await store.attachment(tx, volume.id)
    vm = await vm_store.get(tx, attachment.vm) if attachment is not None else None
    if vm is not None and vm.tie is not None and volume.pool == LOCAL_POOL:
        tie = msgspec.structs.replace(vm.tie, disk_bytes=vm.tie.disk_bytes + more)
        larger = replace(vm, reserved_disk_bytes=vm.reserved_disk_bytes + more, tie=tie)
        await check_disk(tx, larger, more)
        await vm_store.save(tx, larger)


async def check_disk(tx: Tx, row: VmRow, more_bytes: int) -> None:
    """Raise ExhaustedError if the node of a machine, whose row is locked, has no room for so much more disk."""
    if row.node is None or more_bytes <= 0:
        return
    (room,) = await rooms(tx, [row.node])
    without = replace(room, cpus=0, memory_bytes=0, disk_bytes=room.disk_bytes - row.reserved_disk_bytes + more_bytes)
    if any(reason.code == "not_enough_disk" for reason in fits(request_of(row), without, await policy(tx))):
        raise ExhaustedError(
            "pool_full",
            f"the node of {row.name} has no room for {format_size(more_bytes)} more",
            hint="ask for less, delete volumes that are not needed, or use another pool",
            field="size_bytes",
        )


def no_snapshot(volume: VolumeRow, ref: str) -> NotFoundError:
    """Return the error for a snapshot that is not there."""
    return NotFoundError(
        "snapshot_not_found",
        f"volume {volume.name} has no snapshot {ref}",
        hint=f"list them with `nacre volume snapshots {volume.name}`",
        field="snapshot",
    )


async def _kept_because(tx: Tx, volume: VolumeRow) -> str:
    """Say why a volume is not deleted with its machine; empty if it is."""
    if await checkpoints.with_volumes(tx, [volume.id]):
        return "it is part of a checkpoint"
    if any(one.protected for one in (await snapshots.of(tx, [volume.id])).get(volume.id, [])):
        return "it has protected snapshots"
    waiting = await store.made_from(tx, volume.id)
    return f"{volume_views.named(waiting)} is still to be made from it" if waiting else ""


def _reached(volume: VolumeRow, pool: PoolRow) -> set[NodeId] | None:
    """Return the nodes that reach a volume, None if all do."""
    if volume.node is not None and not pool.shared:
        return {volume.node}
    return set(pool.nodes) if pool.nodes else None
