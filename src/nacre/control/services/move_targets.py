"""Where a machine that is moved may go: the scheduler's answer, and whether it still holds. Used by `moves`."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from nacre.control.scheduler.explain import summary
from nacre.control.scheduler.placement import fits, place
from nacre.control.scheduler.snapshot import Fleet, NodeRoom, Request
from nacre.control.services import fleet, live_moves, vm_groups, vm_room
from nacre.control.store import vms
from nacre.control.store.db import Read, Tx
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.model.ids import NodeId
from nacre.model.moves import MoveMethod
from nacre.model.placement import Decision


async def everything(rd: Read) -> Fleet:
    """Return all nodes with what is left of them and who lives there, to decide upon."""
    return await fleet.load(rd)


def request_of(move: MoveRow, vm: VmRow) -> Request:
    """Return what a machine needs of another node. Pure."""
    return replace(vm_room.request_of(vm), exclude=frozenset({move.source}), only=move.pinned)


def choose(
    move: MoveRow, vm: VmRow, among: Fleet, random: Callable[[], float], known: Sequence[NodeRow] = ()
) -> tuple[Decision, str]:
    """Return where a machine goes, and one sentence. A target that was found is taken in `among`.

    `known` are all nodes: those to which it can go while it runs come first, and alone if the move asks for that.
    """
    request = request_of(move, vm)
    if live_moves.wanted(move):
        why, cannot = _cannot(move, vm, known)
        if why and move.method is MoveMethod.LIVE:
            nowhere = replace(request, exclude=request.exclude | {node.id for node in known})
            return place(nowhere, among, random=random), why
        if not why:
            decision = place(replace(request, exclude=request.exclude | set(cannot)), among, random=random)
            if decision.node is not None:
                among.take(decision.node, request)
                return decision, ""
            if move.method is MoveMethod.LIVE:
                reasons = "; ".join(sorted(set(cannot.values())))
                message = summary(decision, pinned=move.pinned is not None)[1]
                return decision, f"{message} ({reasons})" if reasons else message
    decision = place(request, among, random=random)
    if decision.node is not None:
        among.take(decision.node, request)
    return decision, summary(decision, pinned=move.pinned is not None)[1]


async def refusal(tx: Tx, move: MoveRow, vm: VmRow, target: NodeId) -> str:
    """Return why a node cannot take a machine, or an empty text. The node's row must be locked.

    What the move has reserved there is not held against it.
    """
    (room,) = await vm_room.rooms(tx, [target])
    if move.target == target:
        room = _without(room, vm)
    found = fits(request_of(move, vm), room, await vm_room.policy(tx), restless=True)
    return "; ".join(reason.message for reason in found)


async def hold_group(tx: Tx, move: MoveRow) -> None:
    """Keep others from placing machines that this one has to do with. Before any node or machine is locked."""
    vm = await vms.get(tx, move.vm)
    if vm is not None:
        await vm_groups.hold(tx, [request_of(move, vm)])


async def breaks_rules(tx: Tx, move: MoveRow, vm: VmRow, target: NodeId) -> bool:
    """Whether a machine would break a rule between machines on a node. Its group must be held."""
    return bool(await vm_groups.refusal(tx, request_of(move, vm), target, random=lambda: 0.0))


def _cannot(move: MoveRow, vm: VmRow, known: Sequence[NodeRow]) -> tuple[str, dict[NodeId, str]]:
    """Return why a machine cannot leave while it runs, and which nodes could not take it in for what reason."""
    source = next((node for node in known if node.id == move.source), None)
    why = live_moves.hindrance(vm, source)
    return why, {} if why or source is None else live_moves.obstacles(vm, source, known)


def _without(room: NodeRoom, vm: VmRow) -> NodeRoom:
    return replace(
        room,
        cpus=room.cpus - vm.reserved_cpus,
        memory_bytes=room.memory_bytes - vm.reserved_memory_bytes,
        disk_bytes=room.disk_bytes - vm.reserved_disk_bytes,
        ports=tuple(port for port in room.ports if port.vm != vm.id),
    )
