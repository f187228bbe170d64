"""Attaching volumes to machines and taking them back: what callers may ask of both. Called by `api`."""

from dataclasses import replace

from nacre.control.auth.principals import Caller
from nacre.control.services import vms, volume_attachments, volume_changes, volume_needs
from nacre.control.services.pools import check_room
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import nodes, pools
from nacre.control.store import vms as vm_store
from nacre.control.store import volumes as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.vms import VmRow
from nacre.control.store.volumes import AttachmentRow, VolumeRow
from nacre.errors import ConflictError, NotFoundError
from nacre.model.vms import Desired
from nacre.model.volumes import LOCAL_POOL, MAX_ATTACHED, serial_of
from nacre.schema.common import Accepted, Page, VmRef
from nacre.schema.vms import VmOut
from nacre.schema.volumes import AttachmentOut, VolumeAttach, VolumeRef


async def list_(rd: Read, caller: Caller, ref: str, project: str | None = None) -> Page[AttachmentOut]:
    """Return the volumes of a machine."""
    vm = await vms.resolve(rd, caller, ref, project)
    attachments = (await store.attached(rd, [vm.id])).get(vm.id, [])
    held = {one.id: one for one in await store.many(rd, [one.volume for one in attachments])}
    return Page(items=[_out(vm, one, held[one.volume]) for one in attachments])


async def attach(
    tx: Tx, caller: Caller, ref: str, body: VolumeAttach, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Make a volume a disk of a machine; a running one gets it at once if its hypervisor can. Raises ConflictError."""
    vm = await _locked(tx, caller, ref, project, if_match)
    volume = volume_changes.stays(await volume_changes.within(tx, body.volume, vm.project, lock=True))
    there = (await store.attached(tx, [vm.id])).get(vm.id, [])
    if len(there) >= MAX_ATTACHED:
        raise ConflictError(
            "too_many_volumes", f"machine {vm.name} has {len(there)} volumes", hint="detach one first", field="volume"
        )
    pool = next(one for one in await pools.every(tx) if one.id == volume.pool)
    await volume_needs.check(tx, vm, volume, pool, body.options)
    if volume.node is None and vm.node is not None and not pool.shared and not pool.is_local:
        await check_room(tx, pool, vm.node, volume.size_bytes)
    used = {one.slot for one in there}
    row = AttachmentRow(
        volume=volume.id,
        vm=vm.id,
        slot=next(slot for slot in range(MAX_ATTACHED + 1) if slot not in used),
        options=body.options,
        read_only=body.read_only,
        delete_with_vm=body.delete_with_vm,
        created_at=tx.now(),
    )
    taken = ConflictError(
        "volume_attached",
        f"volume {volume.name} is attached to a machine already",
        hint=f"detach it first: `nacre volume show {volume.name}` names the machine",
        field="volume",
    )
    if await store.attachment(tx, volume.id) is not None:
        raise taken
    await store.attach(tx, row, taken=taken)
    changed = await volume_attachments.tied(tx, vm)
    if vm.node is not None:
        _check_reach(changed, volume)
        if volume.node is None and volume.pool == LOCAL_POOL:
            await volume_attachments.check_disk(tx, changed, volume.size_bytes)
        await volume_attachments.settle(tx, volume, pool, vm.node)
        changed = await volume_attachments.tied(tx, changed)
    return await vms.accept(tx, caller, vm, changed, "attach", {"volume": volume.id})


async def detach(
    tx: Tx, caller: Caller, ref: str, volume: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Take a volume back. A running machine is asked to let go; the volume is free once it has."""
    vm = await _locked(tx, caller, ref, project, if_match)
    held = await volume_changes.within(tx, volume, vm.project, lock=True)
    attachment = await store.attachment(tx, held.id)
    if attachment is None or attachment.vm != vm.id:
        raise NotFoundError(
            "volume_not_attached",
            f"volume {held.name} is not attached to machine {vm.name}",
            hint=f"list its volumes with `nacre vm volumes {vm.name}`",
            field="volume",
        )
    leaving = replace(attachment, leaving=attachment.leaving or vm.generation + 1)
    await store.leave(tx, held.id, leaving.leaving)
    if vm.node is None:
        await store.detach(tx, held.id)
    changed = await volume_attachments.tied(tx, vm)
    return await vms.accept(tx, caller, vm, changed, "detach", {"volume": held.id})


async def _locked(tx: Tx, caller: Caller, ref: str, project: str | None, if_match: str | None) -> VmRow:
    """Lock the node of a machine, and then the machine."""
    seen = await vms.resolve(tx, caller, ref, project)
    if seen.node is not None:
        await nodes.every(tx, [seen.node], lock=True)
    row = await vm_store.get(tx, seen.id, lock=True)
    if row is None or row.node != seen.node:
        raise ConflictError("vm_moved", f"machine {ref} has just moved", hint="repeat the request")
    require_match(if_match, etag_of(row.generation))
    if row.desired is Desired.ABSENT:
        raise ConflictError("vm_deleting", f"machine {row.name} is being deleted", hint="use another one")
    return row


def _check_reach(vm: VmRow, volume: VolumeRow) -> None:
    """Raise ConflictError if the node of a machine does not reach its volumes."""
    if vm.tie is not None and vm.tie.nodes and vm.node not in vm.tie.nodes:
        raise ConflictError(
            "volume_elsewhere",
            f"volume {volume.name} is not on the node of machine {vm.name}",
            hint="stop the machine and detach its other volumes so that it can be placed anew, "
            "or use a volume of a shared pool",
            field="volume",
        )


def _out(vm: VmRow, row: AttachmentRow, volume: VolumeRow) -> AttachmentOut:
    running = vm.run is not None and vm.run.exited_at is None
    return AttachmentOut(
        volume=VolumeRef(id=volume.id, name=volume.name),
        vm=VmRef(id=vm.id, name=vm.name),
        serial=row.options.serial or serial_of(volume.id),
        options=row.options,
        read_only=row.read_only,
        delete_with_vm=row.delete_with_vm,
        open=running and vm.run is not None and volume.id in vm.run.volumes,
        leaving=row.leaving > 0,
    )
