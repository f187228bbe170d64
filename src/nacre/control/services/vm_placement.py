"""Machines without a node: which there are, and writing down where they go or why nowhere yet.

Called by `reconcilers.vms`, which decides between the two. A decision was made from a snapshot that may be old: it is
checked again here under the lock of the node, so that no node is overcommitted and no port given twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nacre.control.scheduler import former as filters
from nacre.control.scheduler.former import NoPlacement
from nacre.control.scheduler.snapshot import Request, Snapshot
from nacre.control.services import events, operations, vm_room
from nacre.control.store import published_ports
from nacre.control.store import vms as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.vms import VmRow
from nacre.control.wake import node_topic
from nacre.model.convergence import Failure, FailureClass
from nacre.model.events import SYSTEM
from nacre.model.ids import NodeId


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A machine without a node."""

    row: VmRow
    request: Request


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A machine and the node that was chosen for it."""

    waiting: Waiting
    node: NodeId


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A machine that no node can take now."""

    waiting: Waiting
    why: NoPlacement


async def waiting(rd: Read) -> list[Waiting]:
    """Return the machines that wait for a node, longest first."""
    return [Waiting(row=row, request=vm_room.request_of(row)) for row in await store.unplaced(rd)]


async def room(rd: Read) -> Snapshot:
    """Return all nodes with what is left of them."""
    return await vm_room.snapshot(rd)


async def place(tx: Tx, chosen: Sequence[Placed]) -> int:
    """Write down placements that still hold, and say how many did not: those are to be decided again."""
    now = await vm_room.snapshot(tx, {placed.node for placed in chosen}, lock=True)
    nodes = {node.id: node for node in now.nodes}
    lost = 0
    for placed in sorted(chosen, key=lambda one: one.waiting.row.id):
        row, request = placed.waiting.row, placed.waiting.request
        node = nodes.get(placed.node)
        if node is None or filters.reasons(request, node):
            lost += 1
            continue
        if not await store.place(tx, row.id, row.generation, node.id):
            continue  # its intent has changed, which has rung
        nodes[node.id] = node.with_machine(request)
        if request.publish:
            await published_ports.bind(tx, row.id, node.id)
        events.emit(
            tx,
            type="vm.placed",
            actor=SYSTEM,
            noun="vm",
            object_id=row.id,
            object_name=row.name,
            project=row.project,
            message=f"machine {row.name} goes to node {node.name}",
            details={"node": node.id, "generation": row.generation},
        )
        tx.wake(node_topic(node.id))
    return lost


def is_news(refused: Refused) -> bool:
    """Whether the machine does not say already why it waits. Pure."""
    failure = refused.waiting.row.failure
    return failure is None or (failure.message, failure.generation) != (
        refused.why.message,
        refused.waiting.row.generation,
    )


async def refuse(tx: Tx, refused: Sequence[Refused]) -> None:
    """Write down why machines wait, where that is news."""
    for one in sorted(refused, key=lambda refusal: refusal.waiting.row.id):
        row, why = one.waiting.row, one.why
        failure = Failure(
            failure_class=FailureClass.WAITING,
            code=why.code,
            message=why.message,
            hint=_HINTS.get(why.code, "add a node, delete machines that are not needed, or ask for less"),
            generation=row.generation,
            at=tx.now(),
        )
        if not await store.refuse(tx, row.id, row.generation, failure):
            continue
        await operations.progress(tx, row.id, None, f"waits: {why.message}")
        events.emit(
            tx,
            type="vm.waiting",
            actor=SYSTEM,
            noun="vm",
            object_id=row.id,
            object_name=row.name,
            project=row.project,
            message=f"machine {row.name} waits: {why.message}",
            details={"code": why.code, "generation": row.generation},
        )


_HINTS = {
    "no_nodes": "add a node with `nacre node token create`",
    "node_not_ready": "wait for a node to come back, or uncordon one with `nacre node uncordon`",
    "port_in_use": "publish another port, or delete the machine that holds it",
    "no_hypervisor": "add a node with this hypervisor, or choose another",
    "hypervisor_unavailable": "see why with `nacre node show`, or choose another hypervisor",
    "no_machine_type": "choose another machine type",
}
