"""Checkpoints of machines: what callers may ask of them. Every change is a new generation of the machine.

Called by `api`. What nodes say of them is in `checkpoint_facts`, machines made from them in `checkpoint_clones`.
"""

from collections.abc import Sequence
from dataclasses import replace

from nacre.control.auth.principals import Caller
from nacre.control.services import checkpoint_facts, checkpoint_needs, checkpoint_views, expiry, vm_intents, vms
from nacre.control.services.checkpoint_views import phase_of
from nacre.control.services.listing import ListQuery
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import checkpoints as store
from nacre.control.store import vms as vm_store
from nacre.control.store import volumes
from nacre.control.store.checkpoints import CheckpointRow, PartRow
from nacre.control.store.db import Read, Tx
from nacre.control.store.vms import VmRow
from nacre.control.wake import node_topic
from nacre.errors import ConflictError, InvalidInputError, NotFoundError
from nacre.model.checkpoints import MAX_CHECKPOINTS, CheckpointPhase, Restoration
from nacre.model.events import SYSTEM
from nacre.model.ids import CheckpointId
from nacre.model.metadata import check_name
from nacre.model.vm_changes import unlike
from nacre.model.vms import Desired
from nacre.model.volumes import Wish
from nacre.schema.checkpoints import CheckpointCreate, CheckpointOut, CheckpointUpdate, VmRestore
from nacre.schema.common import Accepted, Page
from nacre.schema.vms import VmOut


async def create(
    tx: Tx, caller: Caller, ref: str, body: CheckpointCreate, *, project: str | None = None
) -> Accepted[VmOut]:
    """Accept a checkpoint. It is of the machine as it is when its node takes it."""
    row = _stays(await vms.resolve(tx, caller, ref, project, lock=True))
    expiry.check(tx, body.expires_at)
    name = check_name(body.name)
    if row.checkpoints >= MAX_CHECKPOINTS:
        raise ConflictError(
            "too_many_checkpoints",
            f"machine {row.name} has {row.checkpoints} checkpoints, which is all that it may have",
            hint="delete one first",
        )
    attached = (await volumes.attached(tx, [row.id])).get(row.id, [])
    taken = [one for one in attached if not one.read_only and not one.leaving]
    await checkpoint_needs.check(tx, row, memory=body.memory, volumes=len(taken))
    kept = CheckpointRow(
        id=CheckpointId(tx.new_id("checkpoint")),
        vm=row.id,
        name=name,
        description=body.description,
        generation=row.generation + 1,
        after=0 if row.restore is None else row.restore.nonce,
        memory=body.memory,
        spec=row.spec,
        run=row.run if body.memory else None,
        expires_at=body.expires_at,
        protected=body.protected,
        created_by=caller.actor.name,
        created_at=tx.now(),
    )
    parts = [
        PartRow(
            checkpoint=kept.id,
            volume=one.volume,
            slot=one.slot,
            options=one.options,
            delete_with_vm=one.delete_with_vm,
        )
        for one in taken
    ]
    await store.add(tx, kept, parts, taken=_name_taken(row, name))
    accepted = await vms.accept(
        tx, caller, row, replace(row, checkpoints=row.checkpoints + 1), "checkpoint", {"checkpoint": kept.id}
    )
    message = f"becomes part of checkpoint {name} of machine {row.name}"
    ids = [one.volume for one in taken]
    await checkpoint_facts.touch_volumes(tx, ids, "volume.checkpoint_requested", message, caller.actor)
    return accepted


async def list_(
    rd: Read, caller: Caller, ref: str, query: ListQuery, project: str | None = None
) -> Page[CheckpointOut]:
    """Return the checkpoints of a machine."""
    row = await vms.resolve(rd, caller, ref, project)
    rows, following = await store.page(rd, row.id, query)
    return Page(items=await checkpoint_views.shown(rd, rows, row), next=following)


async def show(rd: Read, caller: Caller, ref: str, checkpoint: str, *, project: str | None = None) -> CheckpointOut:
    """Return one. Raises NotFoundError."""
    row = await vms.resolve(rd, caller, ref, project)
    kept = await store.get(rd, checkpoint, vm=row.id)
    if kept is None:
        raise missing(row, checkpoint)
    return (await checkpoint_views.shown(rd, [kept], row))[0]


async def update(
    tx: Tx, caller: Caller, ref: str, checkpoint: str, body: CheckpointUpdate, *, project: str | None = None
) -> CheckpointOut:
    """Describe a checkpoint, protect it or not, and say when it expires."""
    row = await vms.resolve(tx, caller, ref, project, lock=True)
    kept = await _of(tx, row, checkpoint)
    expiry.check(tx, body.expires_at, keep=body.keep)
    changed = replace(
        kept,
        description=kept.description if body.description is None else body.description,
        expires_at=None if body.keep else body.expires_at or kept.expires_at,
        protected=kept.protected if body.protected is None else body.protected,
    )
    await store.save(tx, changed)
    checkpoint_facts.tell(
        tx,
        row,
        "vm.checkpoint_updated",
        f"checkpoint {kept.name} of machine {row.name} was changed",
        actor=caller.actor,
        checkpoint=kept.id,
        request_id=caller.request_id,
        details={"protected": changed.protected},
    )
    return (await checkpoint_views.shown(tx, [changed], row))[0]


async def delete(tx: Tx, caller: Caller, ref: str, checkpoint: str, *, project: str | None = None) -> Accepted[VmOut]:
    """Forget a checkpoint; the machine, and machines made from it, stay as they are. Raises ConflictError."""
    row = await vms.resolve(tx, caller, ref, project, lock=True)
    kept = await _of(tx, row, checkpoint)
    if kept.protected:
        raise ConflictError(
            "checkpoint_protected",
            f"checkpoint {kept.name} of machine {row.name} is protected",
            hint=f"take that back first: `nacre vm protect-checkpoint {row.name} {kept.name} --off`",
        )
    if needed := await _needed(tx, row, kept):
        raise ConflictError(
            "checkpoint_in_use",
            f"checkpoint {kept.name} of machine {row.name} is still needed: {needed}",
            hint="wait until that is done, or delete what is made; a machine that was never started is made when it is",
        )
    await store.save(tx, replace(kept, desired=Wish.ABSENT, generation=row.generation + 1))
    return await vms.accept(tx, caller, row, row, "checkpoint_delete", {"checkpoint": kept.id})


async def restore(
    tx: Tx, caller: Caller, ref: str, body: VmRestore, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Put a machine back to a checkpoint: its disks, and its memory if that is there and not declined."""
    row = _stays(await vms.resolve(tx, caller, ref, project, lock=True))
    require_match(if_match, etag_of(row.generation))
    kept = await _of(tx, row, body.checkpoint)
    memory = kept.memory if body.memory is None else body.memory
    await _check_restorable(tx, row, kept, body, memory=memory)
    desired = row.desired
    if memory:
        desired = Desired.PAUSED if body.paused else Desired.RUNNING
    nonce = 1 if row.restore is None else row.restore.nonce + 1
    wanted = Restoration(nonce=nonce, checkpoint=kept.id, memory=memory)
    changed = replace(row, restore=wanted, desired=desired, force_stop=False)
    return await vms.accept(tx, caller, row, changed, "restore", {"checkpoint": kept.id, "memory": memory})


async def expire(tx: Tx) -> int:
    """Have nodes forget the checkpoints whose time is over, and say how many."""
    count = 0
    for kept in await store.expired(tx, tx.now()):
        row = await vm_store.get(tx, kept.vm, lock=True)
        if row is None or row.desired is Desired.ABSENT or await _needed(tx, row, kept):
            continue
        await store.save(tx, replace(kept, desired=Wish.ABSENT, generation=row.generation + 1))
        await vm_store.save(tx, replace(vm_intents.raised(row), updated_at=tx.now()))
        said = f"checkpoint {kept.name} of machine {row.name} has expired"
        checkpoint_facts.tell(tx, row, "vm.checkpoint_expired", said, actor=SYSTEM, checkpoint=kept.id)
        if row.node is not None:
            tx.wake(node_topic(row.node))
        count += 1
    return count


def missing(row: VmRow, ref: str) -> NotFoundError:
    """Return the error for a checkpoint that is not there."""
    return NotFoundError(
        "checkpoint_not_found",
        f"machine {row.name} has no checkpoint {ref}",
        hint=f"list them with `nacre vm checkpoints {row.name}`",
        field="checkpoint",
    )


async def _check_restorable(tx: Tx, row: VmRow, kept: CheckpointRow, body: VmRestore, *, memory: bool) -> None:
    if phase_of(kept) is not CheckpointPhase.READY:
        raise ConflictError(
            "checkpoint_not_ready",
            f"checkpoint {kept.name} of machine {row.name} is {phase_of(kept)}",
            hint=f"look at it: `nacre vm show-checkpoint {row.name} {kept.name}`",
            field="checkpoint",
        )
    pending = (await store.of(tx, [row.id])).get(row.id, [])
    if any(phase_of(one) is CheckpointPhase.CREATING for one in pending):
        raise ConflictError(
            "checkpoint_pending",
            f"a checkpoint of machine {row.name} is still being taken",
            hint="wait until it is ready, so that it is clear what is in it",
        )
    _check_memory(row, kept, body, memory=memory)
    attached = (await volumes.attached(tx, [row.id])).get(row.id, [])
    there = {one.volume for one in attached if not one.leaving}
    gone = [part.volume for part in await _parts(tx, kept) if part.volume not in there]
    if gone:
        names = [one.name for one in await volumes.many(tx, gone)]
        raise ConflictError(
            "checkpoint_volume_detached",
            f"volume {', '.join(names)} is part of the checkpoint and not attached to {row.name} any more",
            hint=f"attach it again: `nacre vm attach {row.name} {names[0] if names else 'VOLUME'}`",
        )
    runs = row.run is not None and row.run.exited_at is None
    if (runs or row.desired in {Desired.RUNNING, Desired.PAUSED}) and not body.stop:
        raise ConflictError(
            "vm_running",
            f"machine {row.name} runs, and what it has not written yet would be lost",
            hint=f"stop it first (`nacre vm stop {row.name}`), or have it ended: `--stop`",
            field="stop",
        )
    if memory:
        await checkpoint_needs.check_memory(tx, row)


def _check_memory(row: VmRow, kept: CheckpointRow, body: VmRestore, *, memory: bool) -> None:
    """Raise unless the machine is still what it was when its memory was saved."""
    if body.paused and not memory:
        raise InvalidInputError(
            "paused_without_memory",
            "a machine that starts from its disks is not paused",
            hint="leave `paused` out, and pause it when it runs",
            field="paused",
        )
    if not memory:
        return
    if kept.run is None:
        raise ConflictError(
            "checkpoint_without_memory",
            f"checkpoint {kept.name} has no memory",
            hint="restore it without memory: `memory: false`",
            field="memory",
        )
    differing = [*unlike(row.spec, kept.run)]
    differing += [name for name in ("hypervisor", "machine") if getattr(row.spec, name) != getattr(kept.spec, name)]
    if differing:
        raise ConflictError(
            "machine_differs",
            f"machine {row.name} is another one than when its memory was saved: {', '.join(differing)}",
            hint="restore only the disks (`memory: false`, or --no-memory), or make the machine again what it was",
            field="memory",
        )


async def _needed(tx: Tx, row: VmRow, kept: CheckpointRow) -> str:
    """Say for what a checkpoint is needed; empty if for nothing."""
    wanted = row.restore
    if wanted is not None and wanted.checkpoint == kept.id and row.applied_restore_nonce < wanted.nonce:
        return "the machine is being put back to it"
    clone = await checkpoint_facts.unmade_from(tx, [kept])
    return f"{clone} is to be made from it" if clone else ""


async def _of(tx: Tx, row: VmRow, ref: str) -> CheckpointRow:
    kept = await store.get(tx, ref, vm=row.id)
    if kept is None or kept.desired is Wish.ABSENT:
        raise missing(row, ref)
    return kept


async def _parts(rd: Read, kept: CheckpointRow) -> Sequence[PartRow]:
    return (await store.volumes_of(rd, [kept.id])).get(kept.id, [])


def _stays(row: VmRow) -> VmRow:
    if row.desired is Desired.ABSENT:
        raise ConflictError("vm_deleting", f"machine {row.name} is being deleted", hint="use another one")
    if row.moving is not None:
        raise ConflictError(
            "vm_moving", f"machine {row.name} is moving to another node", hint="wait until it has arrived"
        )
    return row


def _name_taken(row: VmRow, name: str) -> ConflictError:
    return ConflictError(
        "checkpoint_name_taken",
        f"machine {row.name} has a checkpoint {name} already",
        hint="choose another name",
        field="name",
    )
