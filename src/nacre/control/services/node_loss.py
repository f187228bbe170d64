"""Machines are taken off a node that is out of reach, on an operator's word. Used by `nodes`, with its row locked.

A machine may only be taken if nothing of it can run there any more. Those that guards hold are fenced once the node is
given up (see `failover_rules`); of all others nobody but a person can know, who says so with `confirm_dead`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from nacre.control.services import copies, events, operations, relocation, volume_attachments
from nacre.control.services.failover_rules import guarded, taken_from, wait_s
from nacre.control.store import nodes, vms
from nacre.control.store.db import Tx
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.control.wake import MOVES, VMS
from nacre.model.events import Actor
from nacre.model.moves import LeaveReason
from nacre.model.nodes import NodeState
from nacre.model.vms import Desired
from nacre.schema.nodes import LeftBehind


def why_not(node: NodeRow, vm: VmRow, now: datetime, *, confirm_dead: bool) -> str:
    """Return why a machine may not be taken off a node out of reach; an empty text if it may. Pure."""
    if guarded(vm):
        if node.state is NodeState.FAILED:
            return ""
        if not confirm_dead:
            return "its node has not been given up yet; that happens by itself, soon after its lease has ended"
        lasts = timedelta(seconds=wait_s(node.lease_s))
        if node.last_seen_at is not None and now - node.last_seen_at < lasts:
            return f"the lease of its node may last for {lasts.total_seconds():.0f} s from when it was last heard"
        return ""
    if not confirm_dead:
        return "it has no ha: restart, so only a person can know that it does not run there any more"
    return ""


async def take_off(
    tx: Tx, node: NodeRow, *, confirm_dead: bool, reason: LeaveReason, actor: Actor, request_id: str = ""
) -> tuple[list[str], list[LeftBehind]]:
    """Take every machine that may be taken off a node; return their names, and those that stay with the reason.

    Each is placed anew as there is room; one that was being deleted is gone. The node is told when it comes back.
    """
    taken: list[str] = []
    left: list[LeftBehind] = []
    for vm in await vms.on_node(tx, node.id, lock=True):
        why = why_not(node, vm, tx.now(), confirm_dead=confirm_dead)
        if why:
            left.append(LeftBehind(vm=vm.name, reason=why))
            continue
        gone = await relocation.detach(tx, vm, reason=reason, actor=actor)
        if vm.desired is Desired.ABSENT:
            await _deleted(tx, gone, actor, request_id)
        taken.append(vm.name)
    if taken:
        await nodes.save(tx, node, taken_from(node))
        tx.wake(VMS, MOVES)
    return taken, left


def stays(node: NodeRow, machines: Sequence[VmRow], now: datetime, *, confirm_dead: bool) -> list[LeftBehind]:
    """Return what `take_off` would leave, without doing anything. Pure."""
    found = [(vm.name, why_not(node, vm, now, confirm_dead=confirm_dead)) for vm in machines]
    return [LeftBehind(vm=name, reason=why) for name, why in found if why]


async def _deleted(tx: Tx, vm: VmRow, actor: Actor, request_id: str) -> None:
    await copies.discard_of(tx, vm.id)
    await volume_attachments.released(tx, vm)
    await vms.remove(tx, vm.id)
    await operations.settle(tx, vm.id, generation=vm.generation, ok=True)
    events.emit(
        tx,
        type="vm.deleted",
        actor=actor,
        noun="vm",
        object_id=vm.id,
        object_name=vm.name,
        project=vm.project,
        message=f"machine {vm.name} is gone; its node was lost while it was being deleted",
        request_id=request_id,
    )
