"""Where a machine that is moved may go: the scheduler's answer, and whether it still holds. Used by `moves`."""

from collections.abc import Callable
from dataclasses import replace

from nacre.control.scheduler.explain import summary
from nacre.control.scheduler.placement import fits, place
from nacre.control.scheduler.snapshot import Fleet, Request
from nacre.control.services import vm_room
from nacre.control.store import scheduling
from nacre.control.store.db import Read, Tx
from nacre.control.store.moves import MoveRow
from nacre.control.store.vms import VmRow
from nacre.model.ids import NodeId
from nacre.model.placement import Decision


async def fleet(rd: Read) -> Fleet:
    """Return all nodes with what is left of them, to decide upon."""
    policy, _, _ = await scheduling.get(rd)
    return Fleet(policy, (await vm_room.snapshot(rd)).nodes)


def request_of(move: MoveRow, vm: VmRow) -> Request:
    """Return what a machine needs of another node. Pure."""
    return replace(vm_room.request_of(vm), exclude=frozenset({move.source}), only=move.pinned)


def choose(move: MoveRow, vm: VmRow, among: Fleet, random: Callable[[], float]) -> tuple[Decision, str]:
    """Return where a machine goes, and one sentence. A target that was found is taken in `among`."""
    request = request_of(move, vm)
    decision = place(request, among, random=random)
    if decision.node is not None:
        among.take(decision.node, request)
    return decision, summary(decision)[1]


async def refusal(tx: Tx, move: MoveRow, vm: VmRow, target: NodeId) -> str:
    """Return why a node cannot take a machine, or an empty text. The node's row must be locked.

    What the move has reserved there is not held against it.
    """
    policy, _, _ = await scheduling.get(tx)
    (room,) = (await vm_room.snapshot(tx, [target])).nodes
    if move.target == target:
        room = replace(
            room,
            cpus=room.cpus - vm.reserved_cpus,
            memory_bytes=room.memory_bytes - vm.reserved_memory_bytes,
            disk_bytes=room.disk_bytes - vm.reserved_disk_bytes,
        )
    return "; ".join(reason.message for reason in fits(request_of(move, vm), room, policy))
