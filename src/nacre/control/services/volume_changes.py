"""How every change of a volume is written: a new generation with an event and an operation. And which one is meant."""

from dataclasses import replace
from typing import Any

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.services import events, operations, projects, volume_views
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.store import volumes as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.volumes import VolumeRow
from nacre.control.wake import node_topic
from nacre.errors import ConflictError, NotFoundError
from nacre.model.events import Actor
from nacre.model.ids import ProjectId, looks_like_id
from nacre.model.volumes import VolumePhase, Wish
from nacre.schema.common import Accepted
from nacre.schema.volumes import VolumeOut

DEFAULT_PROJECT = "default"


async def resolve(rd: Read, caller: Caller, ref: str, project: str | None = None, *, lock: bool = False) -> VolumeRow:
    """Return the volume with this id, or with this name in a project, if the caller may do the declared action.

    Raises NotFoundError for one that the caller may not view, as for none.
    """
    if looks_like_id(ref):
        row = await store.get(rd, ref, lock=lock)
    else:
        owner = await projects.require(rd, caller, project or DEFAULT_PROJECT)
        row = await store.get(rd, ref, project=owner.id, lock=lock)
    if row is None:
        caller.checked = True
        raise missing(ref)
    policy.require(caller, row.project, missing=missing(ref))
    return row


async def within(rd: Read, ref: str, project: ProjectId, *, lock: bool = False) -> VolumeRow:
    """Return a volume of a project by name or id, for something else of that project. Asks no policy."""
    row = await store.get(rd, ref, project=None if looks_like_id(ref) else project, lock=lock)
    if row is None or row.project != project:
        raise missing(ref)
    return row


def missing(ref: str) -> NotFoundError:
    """Return the error for a volume that is not there, or that the caller may not know of."""
    return NotFoundError(
        "volume_not_found", f"there is no volume {ref}", hint="list them with `nacre volume list`", field="volume"
    )


async def locked(tx: Tx, caller: Caller, ref: str, project: str | None, if_match: str | None) -> VolumeRow:
    """Return a volume to change. Raises ConflictError for one that is on its way out."""
    row = await resolve(tx, caller, ref, project, lock=True)
    require_match(if_match, etag_of(row.generation))
    return stays(row)


def stays(row: VolumeRow) -> VolumeRow:
    """Return the row. Raises ConflictError if the volume is being deleted."""
    if row.desired is Wish.ABSENT:
        raise ConflictError(
            "volume_deleting", f"volume {row.name} is being deleted", hint="use another one", field="volume"
        )
    return row


async def accept(
    tx: Tx, caller: Caller, row: VolumeRow, verb: str, message: str, details: dict[str, Any] | None = None
) -> Accepted[VolumeOut]:
    """Write a changed volume as its next generation and promise it."""
    row = await write(
        tx, row, f"volume.{verb}", message, actor=caller.actor, request_id=caller.request_id, details=details
    )
    return await promise(tx, caller, row, _VERBS.get(verb, verb))


async def write(
    tx: Tx,
    row: VolumeRow,
    event: str,
    message: str,
    *,
    actor: Actor,
    request_id: str = "",
    details: dict[str, Any] | None = None,
    first: bool = False,
) -> VolumeRow:
    """Store a volume as its next generation (unless it is the `first`), tell of it, and ring who acts on it."""
    generation = row.generation if first else row.generation + 1
    row = replace(row, generation=generation, updated_at=tx.now())
    if row.node is None:
        row = replace(row, observed_generation=generation)  # judged here, because no agent will
    if not first:
        await store.save(tx, row)
    tell(tx, row, event, message, actor=actor, request_id=request_id, details=details)
    if row.node is not None:
        tx.wake(node_topic(row.node))
    return row


def tell(
    tx: Tx,
    row: VolumeRow,
    event: str,
    message: str,
    *,
    actor: Actor,
    request_id: str = "",
    details: dict[str, Any] | None = None,
) -> None:
    """Tell of something that happened to a volume."""
    events.emit(
        tx,
        type=event,
        actor=actor,
        noun="volume",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=message,
        request_id=request_id,
        details={"generation": row.generation, **(details or {})},
    )


async def promise(tx: Tx, caller: Caller, row: VolumeRow, verb: str) -> Accepted[VolumeOut]:
    """Begin the operation of a change; it ends at once if there is nothing to wait for."""
    operation = await operations.begin(
        tx,
        type=f"volume.{verb}",
        noun="volume",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        generation=row.generation,
        actor=caller.actor,
    )
    if row.node is None and row.phase is VolumePhase.PENDING:
        await operations.settle(tx, row.id, generation=row.generation, ok=True)
        operation = await operations.get(tx, operation.id) or operation
    return Accepted(
        resource=await volume_views.shown(tx, row.id), generation=row.generation, operation=operations.out(operation)
    )


_VERBS = {
    "updated": "update",
    "delete_requested": "delete",
    "restore_requested": "restore",
    "snapshot_requested": "snapshot",
    "snapshot_delete_requested": "snapshot-delete",
}
