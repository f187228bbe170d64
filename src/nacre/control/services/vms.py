"""Machines: what callers may ask of them. Every change is a new generation of intent with an event and an operation.

Called by `api`. Facts come back through `vm_facts`, nodes are chosen through `vm_placement`.
"""

from dataclasses import replace
from typing import Any

import msgspec

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.auth.sealing import Sealer
from nacre.control.services import (
    capabilities,
    checkpoint_facts,
    copies,
    events,
    moves,
    operations,
    projects,
    vm_intents,
    vm_ports,
    vm_room,
    vm_seeds,
    vm_views,
    volume_attachments,
)
from nacre.control.services.listing import ListQuery
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.services.vm_creation import create
from nacre.control.services.vm_facts import observe
from nacre.control.store import nodes
from nacre.control.store import vms as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.operations import OperationRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import VMS, node_topic
from nacre.errors import ConflictError, NotFoundError
from nacre.model.ids import looks_like_id
from nacre.model.metadata import check_labels
from nacre.model.vm_checks import check_spec
from nacre.model.vms import Desired, HaPolicy, Phase, VmSpec
from nacre.schema.common import Accepted, Page
from nacre.schema.vms import VmOut, VmStop, VmUpdate

DEFAULT_PROJECT = "default"
ALL_PROJECTS = "*"
_CANCELLABLE = frozenset({"vm.create", "vm.start"})

__all__ = [
    "accept",
    "cancel",
    "create",
    "delete",
    "list_",
    "observe",
    "pause",
    "phases",
    "reboot",
    "reset",
    "resolve",
    "resume",
    "show",
    "start",
    "stop",
    "update",
]


async def show(rd: Read, caller: Caller, ref: str, project: str | None = None) -> VmOut:
    """Return a machine. Raises NotFoundError."""
    return await vm_views.shown(rd, (await resolve(rd, caller, ref, project)).id)


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[VmOut]:
    """Return the machines of a project, or with `*` or none of all that the caller may see."""
    if query.project in {None, ALL_PROJECTS}:
        visible = policy.visible_projects(caller)
    else:
        visible = frozenset({(await projects.require(rd, caller, query.project or DEFAULT_PROJECT)).id})
    rows, following = await store.page(rd, query, visible)
    return Page(items=[vm_views.out(row) for row in rows], next=following)


async def phases(rd: Read) -> dict[str, int]:
    """Return how many machines are in each phase, on the whole platform. For metrics: asks no policy, names nothing."""
    return await store.phases(rd)


async def resolve(rd: Read, caller: Caller, ref: str, project: str | None = None, *, lock: bool = False) -> VmRow:
    """Return the machine with this id, or with this name in a project, if the caller may do the declared action.

    Raises NotFoundError for one that the caller may not view, as for none.
    """
    missing = NotFoundError("vm_not_found", f"there is no machine {ref}", hint="list them with `nacre vm list`")
    if looks_like_id(ref):
        row = await store.get(rd, ref, lock=lock)
    else:
        owner = await projects.require(rd, caller, project or DEFAULT_PROJECT)
        row = await store.named(rd, owner.id, ref, lock=lock)
    if row is None:
        caller.checked = True
        raise missing
    policy.require(caller, row.project, missing=missing)
    return row


async def start(
    tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Let it run. On a machine that has failed this is a new try."""
    row = await _locked(tx, caller, ref, project, if_match)
    return await accept(tx, caller, row, vm_intents.start(row), "start")


async def stop(
    tx: Tx,
    caller: Caller,
    ref: str,
    body: VmStop | None = None,
    *,
    project: str | None = None,
    if_match: str | None = None,
) -> Accepted[VmOut]:
    """Let it be off: its guest is asked first, unless `force`."""
    row = await _locked(tx, caller, ref, project, if_match)
    force = body is not None and body.force
    return await accept(tx, caller, row, vm_intents.stop(row, force=force), "stop", {"force": force})


async def pause(
    tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Stop its CPUs; memory stays."""
    row = await _locked(tx, caller, ref, project, if_match)
    return await accept(tx, caller, row, vm_intents.pause(row), "pause")


async def resume(
    tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Let its CPUs run again."""
    row = await _locked(tx, caller, ref, project, if_match)
    return await accept(tx, caller, row, vm_intents.resume(row), "resume")


async def reboot(
    tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Ask the guest to shut down, then start it again."""
    row = await _locked(tx, caller, ref, project, if_match)
    return await accept(tx, caller, row, vm_intents.reboot(row), "reboot")


async def reset(
    tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Press its reset button."""
    row = await _locked(tx, caller, ref, project, if_match)
    return await accept(tx, caller, row, vm_intents.reset(row), "reset")


async def delete(
    tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None
) -> Accepted[VmOut]:
    """Delete it with its disk. Its row goes when its node has let go of it; at once if it never had one."""
    row = await _locked(tx, caller, ref, project, if_match)
    await checkpoint_facts.allow_deletion(tx, row)
    changed = await moves.with_deletion(tx, vm_intents.delete(row, caller.actor.name))
    accepted = await accept(tx, caller, row, changed, "delete")
    await copies.discard_of(tx, row.id)
    if row.node is not None:
        return accepted
    await volume_attachments.released(tx, row)
    await store.remove(tx, row.id)
    await operations.settle(tx, row.id, generation=accepted.generation, ok=True)
    events.emit(
        tx,
        type="vm.deleted",
        actor=caller.actor,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"machine {row.name} is gone; it had never run",
        request_id=caller.request_id,
    )
    ended = await operations.get(tx, accepted.operation.id)
    gone = msgspec.structs.replace(accepted.resource, phase=Phase.ABSENT)
    return Accepted(
        resource=gone,
        generation=accepted.generation,
        operation=operations.out(ended) if ended is not None else accepted.operation,
    )


async def update(
    tx: Tx,
    caller: Caller,
    ref: str,
    body: VmUpdate,
    *,
    project: str | None = None,
    if_match: str | None = None,
    sealer: Sealer | None = None,
) -> Accepted[VmOut]:
    """Change fields. What the running machine cannot take over is shown as `restart_required` until it restarts."""
    row = await _locked_with_node(tx, caller, ref, project, ports=body.publish is not None)
    require_match(if_match, etag_of(row.generation))
    if row.desired is Desired.ABSENT:
        vm_intents.start(row)  # refuses, with the words for a machine on its way out
    vm_room.check_disk_grows(row, body.disk_bytes)
    given = vm_seeds.taken(body.cloud_init) if body.cloud_init is not None else None
    spec = check_spec(_merged(row.spec, body))
    if vm_room.needed(spec, row.image_roles) & ~vm_room.needed(row.spec, row.image_roles):
        await capabilities.admit(tx, caller, spec, vm_room.roles_in(row.image_roles))
    if given is not None:
        spec = msgspec.structs.replace(spec, cloud_init=vm_seeds.ref_of(given, sealer))
        await vm_seeds.keep(tx, row.id, given, sealer)
    changed = vm_room.reserve(
        replace(
            row,
            spec=spec,
            labels=row.labels if body.labels is None else check_labels(body.labels),
            ha_since=_ha_since(row, spec),
            priority=spec.priority,
        )
    )
    if body.publish is not None:
        await vm_ports.check_free(tx, caller, spec.publish, row)
    await vm_room.check(tx, row, changed)
    accepted = await accept(tx, caller, row, changed, "update", _differences(row, changed))
    if body.publish is not None:
        await vm_ports.hold(tx, changed)
    tx.wake(VMS)  # there may be room for those who wait
    return accepted


async def cancel(tx: Tx, caller: Caller, operation: OperationRow) -> None:
    """Take back a creation or a start that has not become true yet: the machine should be off.

    Registered with `operations.cancel`. Raises ConflictError when there is nothing to take back.
    """
    row = await store.get(tx, operation.object_id, lock=True)
    if row is None or operation.type not in _CANCELLABLE or row.generation != operation.generation:
        raise ConflictError(
            "operation_not_cancellable",
            f"{operation.type} cannot be cancelled any more",
            hint="look at the machine and ask for what it should be now",
        )
    await _write(tx, caller, row, vm_intents.stop(row, force=True), "stop", {"cancelled": operation.id})


def _merged(spec: VmSpec, body: VmUpdate) -> VmSpec:
    names = (name for name in body.__struct_fields__ if name not in {"labels", "cloud_init"})
    given = {name: value for name in names if (value := getattr(body, name)) is not None}
    return msgspec.structs.replace(spec, **given)


def _ha_since(row: VmRow, spec: VmSpec) -> int:
    """Return the generation since which the machine is to be restarted elsewhere; 0 if it is not."""
    if spec.ha is HaPolicy.NONE:
        return 0
    return row.ha_since or (1 if row.node is None else row.generation + 1)


def _differences(before: VmRow, after: VmRow) -> dict[str, Any]:
    """What an update changed, as it was and as it is."""
    old: dict[str, Any] = msgspec.to_builtins({"labels": before.labels, **msgspec.structs.asdict(before.spec)})
    new: dict[str, Any] = msgspec.to_builtins({"labels": after.labels, **msgspec.structs.asdict(after.spec)})
    names = [name for name in new if new[name] != old[name]]
    return {"before": {name: old[name] for name in names}, "after": {name: new[name] for name in names}}


async def _locked(tx: Tx, caller: Caller, ref: str, project: str | None, if_match: str | None) -> VmRow:
    row = await resolve(tx, caller, ref, project, lock=True)
    require_match(if_match, etag_of(row.generation))
    return row


async def _locked_with_node(tx: Tx, caller: Caller, ref: str, project: str | None, *, ports: bool) -> VmRow:
    """Lock the node of a machine, or the one where its `ports` would be, and then the machine: as everybody does.

    Where it was placed meanwhile, what was locked is given back and locked again in that order.
    """
    seen = await resolve(tx, caller, ref, project)
    while True:
        try:
            async with tx.part():
                home = seen.node or (await vm_ports.only_node(tx) if ports else None)
                if home is not None:
                    await nodes.every(tx, [home], lock=True)
                row = await resolve(tx, caller, seen.id, None, lock=True)
                if row.node != seen.node:
                    raise _MovedMeanwhileError
                return row
        except _MovedMeanwhileError:
            seen = await resolve(tx, caller, seen.id, None)


class _MovedMeanwhileError(Exception):
    """A machine is on another node than it was a moment ago."""


async def accept(
    tx: Tx, caller: Caller, before: VmRow, after: VmRow, verb: str, details: dict[str, Any] | None = None
) -> Accepted[VmOut]:
    """Write new intent and promise it."""
    row = await _write(tx, caller, before, after, verb, details)
    operation = await operations.begin(
        tx,
        type=f"vm.{verb}",
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        generation=row.generation,
        actor=caller.actor,
        cancellable=f"vm.{verb}" in _CANCELLABLE,
    )
    if vm_views.conditions_of(row).converged:
        await operations.settle(tx, row.id, generation=row.generation, ok=True)
        operation = await operations.get(tx, operation.id) or operation
    return Accepted(
        resource=await vm_views.shown(tx, row.id), generation=row.generation, operation=operations.out(operation)
    )


_PAST: dict[str, str] = {
    "start": "start_requested",
    "stop": "stop_requested",
    "pause": "pause_requested",
    "resume": "resume_requested",
    "reboot": "reboot_requested",
    "reset": "reset_requested",
    "delete": "delete_requested",
    "update": "updated",
    "attach": "volume_attached",
    "detach": "volume_detach_requested",
    "checkpoint": "checkpoint_requested",
    "checkpoint_delete": "checkpoint_delete_requested",
    "restore": "restore_requested",
}
_SAID: dict[str, str] = {
    "update": "machine {name} was updated",
    "attach": "a volume was attached to machine {name}",
    "detach": "a volume is to be taken back from machine {name}",
    "checkpoint": "a checkpoint of machine {name} was asked for",
    "checkpoint_delete": "a checkpoint of machine {name} is to be deleted",
    "restore": "machine {name} is to be put back to a checkpoint",
}


async def _write(
    tx: Tx, caller: Caller, before: VmRow, after: VmRow, verb: str, details: dict[str, Any] | None = None
) -> VmRow:
    """Store `after` as the next generation, tell of it, and ring whoever acts on it."""
    row = replace(vm_intents.raised(after), updated_at=tx.now())
    await store.save(tx, row)
    intent: dict[str, Any] = {
        "before": {"desired": before.desired.value, "generation": before.generation},
        "after": {"desired": row.desired.value, "generation": row.generation},
    }
    for side, values in (details or {}).items():
        intent[side] = {**intent[side], **values} if side in {"before", "after"} else values
    events.emit(
        tx,
        type=f"vm.{_PAST[verb]}",
        actor=caller.actor,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=_SAID.get(verb, f"{verb} of machine {{name}} was asked for").format(name=row.name),
        request_id=caller.request_id,
        details=intent,
    )
    tx.wake(VMS if row.node is None else node_topic(row.node))
    return row
