"""New machines from checkpoints of others: which is meant, its configuration, and the volumes that come along.

Called where machines are made. The node that has the checkpoint makes the root disk; so the machine is tied to it.
"""

from dataclasses import dataclass, replace

import msgspec

from nacre.control.auth.principals import Caller
from nacre.control.services import checkpoint_views, pools, volume_attachments, volume_changes, volume_needs
from nacre.control.services.template_capture import capture
from nacre.control.store import checkpoints as store
from nacre.control.store import pools as pool_store
from nacre.control.store import vms as vm_store
from nacre.control.store import volumes
from nacre.control.store.checkpoints import CheckpointRow, PartRow
from nacre.control.store.db import Read, Tx
from nacre.control.store.vms import VmRow
from nacre.control.store.volumes import AttachmentRow, VolumeRow
from nacre.errors import ConflictError, InvalidInputError, NotFoundError
from nacre.model.checkpoints import WORD, CheckpointPhase, CheckpointSource, snapshot_of
from nacre.model.ids import ProjectId, VolumeId, looks_like_id
from nacre.model.units import format_size
from nacre.model.volumes import SourceKind, Tie, VolumeSource
from nacre.schema.vms import VmConfig

FIELD = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint that machines are to be made from."""

    kept: CheckpointRow
    vm: VmRow

    @property
    def config(self) -> VmConfig:
        """The configuration of its machine as it was, without what only one machine can have."""
        found = msgspec.structs.replace(capture(self.kept.spec, {}), publish=None, labels={})
        return msgspec.structs.replace(found, disk_bytes=self.kept.disk_bytes or None)

    @property
    def reference(self) -> CheckpointSource:
        """What the node is told."""
        return CheckpointSource(vm=self.vm.id, checkpoint=self.kept.id)


async def resolve(rd: Read, ref: str, project: ProjectId) -> Source:
    """Return a checkpoint of a machine of a project: by id, or as machine/checkpoint. Raises NacreError."""
    missing = NotFoundError(
        "checkpoint_not_found",
        f"there is no checkpoint {ref}",
        hint="give its id, or machine/checkpoint; `nacre vm checkpoints` lists those of a machine",
        field=FIELD,
    )
    if looks_like_id(ref):
        kept = await store.get(rd, ref)
        vm = None if kept is None else await vm_store.get(rd, kept.vm)
    else:
        machine, _, name = ref.partition("/")
        vm = await vm_store.get(rd, machine) if looks_like_id(machine) else await vm_store.named(rd, project, machine)
        kept = None if vm is None or not name else await store.get(rd, name, vm=vm.id)
    if kept is None or vm is None or vm.project != project:
        raise missing
    return _usable(Source(kept=kept, vm=vm))


async def hold(tx: Tx, source: Source) -> Source:
    """Keep a checkpoint until the transaction ends, and hold the pools of its volumes, before anything is stored.

    Raises NacreError if it is gone meanwhile.
    """
    await vm_store.get(tx, source.vm.id, lock=True)
    found = await resolve(tx, source.kept.id, source.vm.project)
    parts = (await store.volumes_of(tx, [found.kept.id])).get(found.kept.id, [])
    if parts:
        origins = await volumes.many(tx, [part.volume for part in parts])
        await pool_store.many(tx, {one.pool for one in origins}, lock=True)
    return found


def check_size(source: Source, disk_bytes: int | None) -> None:
    """Raise InvalidInputError for a disk that cannot hold what is in the checkpoint."""
    least = source.kept.disk_bytes
    if disk_bytes is not None and disk_bytes < least:
        raise InvalidInputError(
            "disk_too_small",
            f"a disk of {format_size(disk_bytes)} cannot hold the checkpoint's, which has {format_size(least)}",
            hint=f"ask for {format_size(least)} or more, or leave it out",
            field="disk_bytes",
        )


def tied(row: VmRow, source: Source) -> VmRow:
    """Return a machine that can only go where its checkpoint is. Pure."""
    home = () if source.vm.node is None else (source.vm.node,)
    because = f"{WORD}{source.kept.name} of {source.vm.name}"
    return replace(row, source=source.reference, tie=Tie(volumes=(), nodes=home, because=because))


async def bring_volumes(tx: Tx, caller: Caller, row: VmRow, source: Source) -> VmRow:
    """Clone the volumes of a checkpoint for a machine that has just been stored, and return that as it is then."""
    parts = (await store.volumes_of(tx, [source.kept.id])).get(source.kept.id, [])
    known = {one.id: one for one in await pool_store.every(tx)}
    for part in parts:
        origin = await volumes.get(tx, part.volume)
        if origin is None:
            continue  # it was lost with its node, and so is the checkpoint's part of it
        await volume_needs.check(tx, row, origin, known[origin.pool], part.options)
        await pools.check_room(tx, known[origin.pool], origin.node, origin.size_bytes)
        await _clone(tx, caller, row, origin, part)
    if parts:
        row = await volume_attachments.tied(tx, row)
        await vm_store.save(tx, row)
    return row


async def _clone(tx: Tx, caller: Caller, row: VmRow, origin: VolumeRow, part: PartRow) -> None:
    now = tx.now()
    snapshot = snapshot_of(part.checkpoint)
    made = VolumeRow(
        id=VolumeId(tx.new_id("volume")),
        project=row.project,
        name=f"{row.name}-{origin.name}"[:63].rstrip("-"),
        labels=dict(origin.labels),
        pool=origin.pool,
        node=origin.node,
        size_bytes=origin.size_bytes,
        format=origin.format,
        source=VolumeSource(kind=SourceKind.SNAPSHOT, volume=origin.id, snapshot=snapshot),
        created_at=now,
        updated_at=now,
    )
    taken = ConflictError(
        "volume_name_taken",
        f"there is a volume {made.name} already, which is what the clone of {origin.name} would be called",
        hint="choose another name for the machine, or delete that volume",
        field="name",
    )
    await volumes.add(tx, made, taken=taken)
    await volume_changes.write(
        tx,
        made,
        "volume.created",
        f"volume {made.name} was created from a checkpoint",
        actor=caller.actor,
        request_id=caller.request_id,
        details={"source": msgspec.to_builtins(made.source), "size_bytes": made.size_bytes},
        first=True,
    )
    attached = AttachmentRow(
        volume=made.id,
        vm=row.id,
        slot=part.slot,
        options=msgspec.structs.replace(part.options, serial=""),
        delete_with_vm=part.delete_with_vm,
        created_at=now,
    )
    await volumes.attach(tx, attached, taken=taken)


def _usable(source: Source) -> Source:
    phase = checkpoint_views.phase_of(source.kept)
    if phase is not CheckpointPhase.READY:
        raise ConflictError(
            "checkpoint_not_ready",
            f"checkpoint {source.kept.name} of machine {source.vm.name} is {phase}",
            hint=f"look at it: `nacre vm show-checkpoint {source.vm.name} {source.kept.name}`",
            field=FIELD,
        )
    return source
