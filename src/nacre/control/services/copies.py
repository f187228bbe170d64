"""Copies: what machines leave behind on nodes that they move away from. Made by `relocation`; here is their life.

A copy is being retired until its node says that it has let go, is kept for a while, and is then deleted: when it
expires, when an operator discards it, or when its machine is deleted. Its row goes when its node no longer has it.
"""

from collections.abc import Sequence

from nacre.control.auth.principals import Caller
from nacre.control.services.node_events import tell
from nacre.control.services.node_find import find
from nacre.control.store import copies as store
from nacre.control.store import vms
from nacre.control.store.copies import CopyRow
from nacre.control.store.db import Read, Tx
from nacre.control.store.nodes import NodeRow
from nacre.control.wake import node_topic
from nacre.errors import NotFoundError
from nacre.model.copies import CopyObserved, CopyState
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.protocol.messages import Observed
from nacre.schema.common import Page, VmRef
from nacre.schema.moves import CopyOut
from nacre.schema.vms import NodeRef

UNKNOWN = "unknown"
"""Why a machine moved away that this database knows nothing of, as after a backup was restored."""


async def follow(tx: Tx, node: NodeId, report: Observed) -> None:
    """Store what a node reports of its copies: everything that it keeps, and what it was told to retire. Repeatable."""
    if not report.complete:
        return
    seen = report.copies
    known = {(row.vm, row.fence): row for row in await store.on_node(tx, node)}
    reported = {(copy.id, copy.fence): copy for copy in seen}
    gone: list[tuple[VmId, int]] = []
    changed = False
    for key, row in known.items():
        copy = reported.get(key)
        if copy is None and row.state is CopyState.RETIRING:
            continue  # the node has not been told yet, or is at it
        if copy is None or not copy.exists:
            gone.append(key)
            continue
        state = _kept(tx, row)
        if (state, copy.size_bytes) != (row.state, row.size_bytes):
            await store.set_state(tx, *key, state, size_bytes=copy.size_bytes)
            changed |= state is not row.state
    await store.remove(tx, node, gone)
    for key in sorted(reported.keys() - known.keys()):
        if reported[key].exists:
            await _let_in(tx, node, reported[key])
    if changed or gone:
        tx.wake(node_topic(node))


async def list_(rd: Read, caller: Caller, ref: str) -> Page[CopyOut]:
    """Return what machines have left behind on a node."""
    node = await find(rd, caller, ref)
    return Page(items=[_out(node, row) for row in await store.on_node(rd, node.id)])


async def discard(tx: Tx, caller: Caller, ref: str, wanted: Sequence[str]) -> Page[CopyOut]:
    """Have a node delete the copies of these machines (names or ids; none: of all). Raises NotFoundError.

    What the node has not let go of yet is deleted as soon as it has.
    """
    node = await find(tx, caller, ref, lock=True)
    rows = await store.on_node(tx, node.id)
    for vm in wanted:
        if not any(vm in {row.vm, row.vm_name} for row in rows):
            raise NotFoundError(
                "copy_not_found",
                f"node {node.name} has no copy of {vm}",
                hint=f"list them with `nacre node copies {node.name}`",
            )
    chosen = [row for row in rows if not wanted or row.vm in wanted or row.vm_name in wanted]
    for row in chosen:
        await _discard(tx, row)
    if chosen:
        names = sorted({row.vm_name or row.vm for row in chosen})
        tell(
            tx,
            node,
            "node.copies_discarded",
            f"the copies of {len(names)} machines on node {node.name} are to be deleted",
            actor=caller.actor,
            request_id=caller.request_id,
            details={"vms": names},
        )
    keys = {(row.vm, row.fence) for row in chosen}
    now = await store.on_node(tx, node.id)
    return Page(items=[_out(node, row) for row in now if (row.vm, row.fence) in keys])


async def discard_of(tx: Tx, vm: VmId) -> None:
    """A machine is deleted: nobody will want what it left behind."""
    for row in await store.of_vm(tx, vm):
        await _discard(tx, row)


async def expire(tx: Tx) -> int:
    """Have nodes delete the copies that were kept for long enough, and say how many."""
    rows = await store.expired(tx, tx.now())
    for row in rows:
        await _discard(tx, row)
    return len(rows)


async def _discard(tx: Tx, row: CopyRow) -> None:
    await store.set_expiry(tx, row.vm, row.fence, tx.now())
    if row.state is CopyState.RETIRING:
        return
    await store.set_state(tx, row.vm, row.fence, CopyState.DISCARDING)
    tx.wake(node_topic(row.node))


def _kept(tx: Tx, row: CopyRow) -> CopyState:
    over = row.expires_at is not None and row.expires_at <= tx.now()
    return CopyState.DISCARDING if over or row.state is CopyState.DISCARDING else CopyState.KEPT


async def _let_in(tx: Tx, node: NodeId, copy: CopyObserved) -> None:
    """A copy that this database knows nothing of is kept until an operator decides."""
    if any(row.fence == copy.fence for row in await store.of_vm(tx, copy.id)):
        return  # on record for another node; no placement is on two
    vm = await vms.get(tx, copy.id)
    row = CopyRow(
        vm=copy.id,
        fence=copy.fence,
        node=node,
        vm_name=vm.name if vm is not None else "",
        project=vm.project if vm is not None else ProjectId(""),
        state=CopyState.KEPT,
        reason=UNKNOWN,
        size_bytes=copy.size_bytes,
        created_at=copy.since or tx.now(),
    )
    await store.add(tx, row)


def _out(node: NodeRow, row: CopyRow) -> CopyOut:
    return CopyOut(
        node=NodeRef(id=node.id, name=node.name),
        vm=VmRef(id=row.vm, name=row.vm_name),
        fence=row.fence,
        state=row.state,
        reason=row.reason,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
