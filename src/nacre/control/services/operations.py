"""Operations: begun by the service that accepts a change, settled by the one that learns it became true (or cannot).

One per accepted generation of an object. A new one supersedes the older, because the newest intent wins.
"""

from collections.abc import Awaitable, Callable, Mapping

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.store import operations as store
from nacre.control.store import projects
from nacre.control.store.db import Read, Tx
from nacre.control.store.listing import ListQuery
from nacre.control.store.operations import OperationRow
from nacre.control.wake import OPERATIONS
from nacre.errors import ConflictError, NotFoundError
from nacre.model.events import Actor
from nacre.model.ids import OperationId, ProjectId
from nacre.model.operations import TERMINAL, OperationState
from nacre.schema.common import OperationOut, Page, ProjectRef

Canceller = Callable[[Tx, Caller, OperationRow], Awaitable[None]]
"""Locks the object and takes back what an operation began, without an operation of its own.

Raises ConflictError when it is too late.
"""


async def begin(
    tx: Tx,
    *,
    type: str,  # noqa: A002 - the word of the wire
    noun: str,
    object_id: str,
    object_name: str,
    project: str | None,
    generation: int,
    actor: Actor,
    cancellable: bool = False,
) -> OperationRow:
    """Promise that the object will reach `generation`. Supersedes what ran on the object before."""
    await store.finish(
        tx, object_id=object_id, state=OperationState.SUPERSEDED, message="a newer change took its place"
    )
    owner = None if project is None else await projects.get(tx, project)
    now = tx.now()
    row = OperationRow(
        id=OperationId(tx.new_id("operation")),
        type=type,
        state=OperationState.RUNNING,
        noun=noun,
        object_id=object_id,
        object_name=object_name,
        project=None if project is None else ProjectId(project),
        project_name="" if owner is None else owner.name,
        generation=generation,
        progress=None,
        message="",
        error_code="",
        hint="",
        cancellable=cancellable,
        created_by=actor.name,
        created_at=now,
        updated_at=now,
        finished_at=None,
    )
    await store.add(tx, row)
    tx.wake(OPERATIONS)
    return row


async def settle(
    tx: Tx, object_id: str, *, generation: int, ok: bool, code: str = "", message: str = "", hint: str = ""
) -> bool:
    """End what runs on the object up to `generation`, and say whether anything did. May be repeated."""
    state = OperationState.SUCCEEDED if ok else OperationState.FAILED
    ended = await store.finish(
        tx, object_id=object_id, state=state, up_to=generation, code=code, message=message, hint=hint
    )
    if ended:
        tx.wake(OPERATIONS)
    return ended > 0


async def progress(tx: Tx, object_id: str, fraction: float | None, message: str = "") -> None:
    """Record how far the running operation of the object is, from 0 to 1."""
    if await store.advance(tx, object_id, progress=fraction, message=message):
        tx.wake(OPERATIONS)


async def show(rd: Read, caller: Caller, operation: str) -> OperationOut:
    """Return an operation on something that the caller may see. Raises NotFoundError."""
    return out(await _find(rd, caller, operation))


async def get(rd: Read, operation: str) -> OperationRow | None:
    """Return an operation without asking who wants it. For waiting on one's own request."""
    return await store.get(rd, operation)


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[OperationOut]:
    """Return the operations on what the caller may see."""
    visible = policy.visible_projects(caller)
    if query.project is not None:
        row = await projects.get(rd, query.project)
        if row is None or (visible is not None and row.id not in visible):
            return Page(items=[])
        visible = frozenset({row.id})
    rows, following = await store.page(rd, query, visible)
    return Page(items=[out(row) for row in rows], next=following)


async def cancel(tx: Tx, caller: Caller, operation: str, cancellers: Mapping[str, Canceller]) -> OperationOut:
    """Take back a running operation with the canceller of its noun. Raises ConflictError when that cannot be done."""
    row = await _find(tx, caller, operation)
    if row.state in TERMINAL:
        raise _finished(row)
    if not row.cancellable or row.noun not in cancellers:
        raise ConflictError(
            "operation_not_cancellable",
            f"{row.type} cannot be cancelled",
            hint=f"ask for the opposite instead, on {row.noun} {row.object_name}",
        )
    # The object is locked before its operations, as in every change of it: else two could wait for each other.
    await cancellers[row.noun](tx, caller, row)
    ended = await store.finish(
        tx,
        object_id=row.object_id,
        state=OperationState.CANCELLED,
        only=row.id,
        message=f"cancelled by {caller.actor.name}",
    )
    row = await store.get(tx, row.id) or row
    if not ended:
        raise _finished(row)
    tx.wake(OPERATIONS)
    return out(row)


def out(row: OperationRow) -> OperationOut:
    """Show a row."""
    return OperationOut(
        id=row.id,
        type=row.type,
        state=row.state,
        noun=row.noun,
        object_id=row.object_id,
        object_name=row.object_name,
        project=None if row.project is None else ProjectRef(id=row.project, name=row.project_name),
        generation=row.generation,
        progress=row.progress,
        message=row.message,
        error_code=row.error_code,
        hint=row.hint,
        cancellable=row.cancellable,
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
    )


def _finished(row: OperationRow) -> ConflictError:
    return ConflictError(
        "operation_finished", f"the operation has already {row.state}", hint="there is nothing left to cancel"
    )


async def _find(rd: Read, caller: Caller, operation: str) -> OperationRow:
    missing = NotFoundError(
        "operation_not_found", f"there is no operation {operation}", hint="list them with `nacre operation list`"
    )
    row = await store.get(rd, operation)
    if row is None:
        caller.checked = True
        raise missing
    policy.require(caller, row.project or PLATFORM, missing=missing)
    return row
