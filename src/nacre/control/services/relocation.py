"""Taking a machine off its node: the one step that all moves share, whoever decided them and whatever follows.

From the moment it commits, the placement that it ends is void: its token is smaller than the machine's, the node is
told to let go of what it has of it, and what the node reports about it is nobody's business any more. Whoever calls
this knows that nothing of the old placement runs: the node has said so, or its lease has ended.
"""

from dataclasses import replace
from datetime import timedelta

from nacre.control.services import checkpoint_facts, events, vm_ports, vm_room, volume_attachments
from nacre.control.store import copies
from nacre.control.store import vms as store
from nacre.control.store.copies import CopyRow
from nacre.control.store.db import Tx
from nacre.control.store.vms import VmRow
from nacre.control.wake import MOVES, VMS, node_topic
from nacre.model.copies import CopyState
from nacre.model.events import SYSTEM, Actor
from nacre.model.ids import NodeId, StreamId
from nacre.model.moves import LeaveReason
from nacre.model.vms import Desired, Phase

COPIES_KEPT_FOR = timedelta(days=7)
"""How long disks that a machine left behind are kept, counted from when it left."""


async def detach(
    tx: Tx,
    row: VmRow,
    *,
    reason: LeaveReason,
    to: NodeId | None = None,
    to_name: str = "",
    arrived_by: StreamId | None = None,
    actor: Actor = SYSTEM,
) -> VmRow:
    """Take a placed machine off its node and return its new row, which is stored.

    With `to`, whose row must be locked and have room, it is placed there at once; else it waits for the scheduler. Both
    nodes' rows are locked before the machine's, which this transaction holds. `arrived_by` is the stream by which it is
    there already and stands still.
    """
    if row.node is None:
        raise ValueError(f"{row.id} is on no node")
    now, left = tx.now(), row.node
    row = await checkpoint_facts.left_behind(tx, row)
    await copies.add(
        tx,
        CopyRow(
            vm=row.id,
            fence=row.fence,
            node=left,
            vm_name=row.name,
            project=row.project,
            state=CopyState.RETIRING,
            reason=reason.value,
            created_at=now,
            expires_at=now + COPIES_KEPT_FOR,
        ),
    )
    stopped = row.desired is Desired.STOPPED and to is None
    # No node that it is on from now on has known it without, unless its process is there already: of that one it is not
    # known what it was told when it was taken in, until the node says so.
    ha_since = min(row.ha_since, 1) if arrived_by is None or row.ha_since == 0 else row.generation + 1
    moved = replace(
        vm_room.reserve(replace(row, run=None)),
        node=to,
        fence=row.fence if to is None else row.fence + 1,
        moving=None,
        arrived_by=arrived_by,
        ha_since=ha_since,
        generation=row.generation + 1,
        observed_generation=row.generation + 1 if stopped else 0,
        phase=Phase.STOPPED if stopped else Phase.PENDING,
        since=now,
        failure=None,
        restarts=0,
        finalizers=[] if to is None else ["node"],
        updated_at=now,
    )
    await store.save(tx, moved)
    await vm_ports.hold(tx, moved)
    if to is not None and moved.tie is not None:
        await volume_attachments.placed(tx, {moved.id: to})
    events.emit(
        tx,
        type="vm.moved",
        actor=actor,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"machine {row.name} leaves its node" + (f" for {to_name}" if to_name else "") + f" ({reason})",
        details={"reason": reason, "before": {"node": left, "fence": row.fence}, "after": {"node": to}},
    )
    tx.wake(VMS, MOVES, node_topic(left), *(() if to is None else (node_topic(to),)))
    return moved
