"""Nodes that are lost: giving them up, and taking machines off them to be started elsewhere.

Called by `reconcilers.failover`, which measures how long nodes have been silent, by `gateway` and by `api`. Every step
is looked at again under the lock of the node's row: see `failover_rules` for why nothing ever runs twice.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import events, failover_rules, moves, node_views, relocation
from nacre.control.services.node_changes import seen
from nacre.control.services.node_events import tell, tell_state
from nacre.control.store import events as event_store
from nacre.control.store import node_leases, vms
from nacre.control.store import nodes as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.node_leases import Asked, LeaseRow, RestartableRow
from nacre.control.store.nodes import NodeRow
from nacre.control.wake import NODES, VMS, node_topic
from nacre.errors import ConflictError, NotFoundError
from nacre.model.events import SYSTEM, Actor
from nacre.model.ids import NodeId, VmId
from nacre.model.moves import LeaveReason
from nacre.model.nodes import LOST, NodeState
from nacre.schema.failover import FailoverConfirm, FailoverOut, LostNode, WaitingVm
from nacre.schema.nodes import NodeOut

AT_WORK = frozenset({NodeState.READY, NodeState.CORDONED, NodeState.DRAINING})
_MAY_BE_SILENT = frozenset({NodeState.OFFLINE, NodeState.MAINTENANCE})
HELD = "failover.held"
_SHOWN = 100
_PLATFORM = "platform"
"""What events of failing over are about, where they are about no node and no machine."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """When nodes are given up, and how fast what they ran is started elsewhere."""

    lease_s: float
    per_s: float
    max_share: float


@dataclass(frozen=True, kw_only=True)
class Watching:
    """What an operator's requests need of the reconciler of their replica."""

    terms: Terms
    silence: Callable[[LeaseRow], float]
    """For how many seconds a node has surely not renewed its lease; 0 if that is not known."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is to be decided about."""

    watched: Sequence[LeaseRow]
    """Nodes that renew leases, and those out of reach."""
    heard: int
    """How many nodes are at work and heard."""
    waiting: Sequence[RestartableRow]
    """Machines on nodes out of reach that may be started elsewhere once their node is given up, in their order."""


async def load(rd: Read) -> Picture:
    """Return how it stands with all nodes."""
    watched = await node_leases.watched(rd, LOST)
    lost = [node.id for node in watched if node.state in LOST]
    waiting = await node_leases.restartable(rd, lost, failover_rules.WANTED) if lost else []
    return Picture(
        watched=watched,
        heard=await node_leases.count(rd, AT_WORK) if waiting else 0,
        waiting=[vm for vm in waiting if failover_rules.guarded(vm)],
    )


async def renew(tx: Tx, asked: Collection[Asked], lease_s: float) -> frozenset[Asked]:
    """Put leases of `lease_s` seconds on record and return those of the nodes and tenures that have one.

    A node that was given up and asks for its newest tenure knows of every machine that was taken from it, so it is
    heard and has its lease; from this transaction on nothing more is taken.
    """
    granted = await node_leases.renew(tx, asked, lease_s)
    if len(granted) == len(asked):
        return granted
    refused = {node for node, _ in asked} - {node for node, _ in granted}
    back = [
        row
        for row in await store.every(tx, refused, lock=True)
        if row.state is NodeState.FAILED and (row.id, row.tenure) in asked
    ]
    if not back:
        return granted
    for row in back:
        changed = seen(row, tx.now())
        await store.save(tx, row, changed)
        tell_state(tx, row, changed)
    tx.wake(NODES)
    return granted | await node_leases.renew(tx, [(row.id, row.tenure) for row in back], lease_s)


async def give_up(tx: Tx, node: NodeId, *, tenure: int, renewals: int, silent_s: float) -> bool:
    """Give up a node whose lease has ended, unless it has been heard since its renewals were counted. Say whether."""
    row = await store.get(tx, node, lock=True)
    if row is None or not failover_rules.may_give_up(row, tenure, renewals):
        return False
    message = f"node {row.name} is given up: it has not renewed its lease for {silent_s:.0f} s, and the lease has ended"
    await _fail(tx, row, message, {"silent_s": round(silent_s, 1)})
    return True


async def take(tx: Tx, vm: VmId, node: NodeId) -> bool:
    """Take a machine off a node that was given up, so that it gets another. Say whether it was taken.

    It is not if the node has been heard meanwhile, or the machine should be off by now.
    """
    owner = await store.get(tx, node, lock=True)
    row = await vms.get(tx, vm, lock=True)
    if owner is None or row is None or not failover_rules.may_take(owner, row):
        return False
    await store.save(tx, owner, failover_rules.taken_from(owner))
    await relocation.detach(tx, row, reason=LeaveReason.FAILOVER)
    events.emit(
        tx,
        type="vm.failover",
        actor=SYSTEM,
        noun="vm",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"machine {row.name} is started elsewhere: its node {owner.name} was lost",
        details={"node": owner.id, "priority": row.priority, "fence": row.fence},
    )
    return True


async def surely_fenced(rd: Read, node: NodeId) -> bool:
    """Whether nothing that is held by guards can run on a node: it was given up, and has not been heard since.

    Says nothing about machines that no guard holds (see `failover_rules.guarded`). True for as long as the node's row
    stays locked; without a lock it may be over at once.
    """
    row = await store.get(rd, node)
    return row is not None and row.state is NodeState.FAILED


async def was_held(rd: Read) -> bool:
    """Whether the last that was told is that something is held back."""
    equal = {"object_id": _PLATFORM, "noun": "failover"}
    told = await event_store.span(rd, visible=None, after=None, before=None, limit=1, equal=equal)
    return bool(told) and told[-1].type == HELD


async def tell_hold(tx: Tx, held: Sequence[str], lost: int, of: int) -> None:
    """Tell that nodes are held back, or, without names, that none is any more. Once for each, whoever asks."""
    if await was_held(tx) is bool(held):
        return
    if held:
        names = ", ".join(held)
        message = (
            f"{lost} of {of} nodes fell silent at once: machines of {names} are not started elsewhere, "
            "because it may be the control plane that is cut off"
        )
        _tell_platform(tx, HELD, message, {"nodes": list(held), "lost": lost, "of": of})
    else:
        _tell_platform(tx, "failover.released", "no node is held back any more", {})


async def status(rd: Read, caller: Caller, watching: Watching) -> FailoverOut:
    """Return which nodes are waited for and what of theirs is still to be started elsewhere."""
    policy.require(caller, PLATFORM)
    picture = await load(rd)
    nodes = [_shown(one, watching.terms) for one in standings(picture, watching)]
    given_up = {node.id for node in picture.watched if node.state is NodeState.FAILED}
    queue = [vm for vm in picture.waiting if vm.node in given_up]
    return FailoverOut(
        held=any(node.held for node in nodes),
        max_share=watching.terms.max_share,
        per_s=watching.terms.per_s,
        nodes=nodes,
        waiting=len(queue),
        queue=[WaitingVm(id=vm.id, name=vm.name, priority=vm.priority, node=vm.node) for vm in queue[:_SHOWN]],
    )


async def confirm(tx: Tx, caller: Caller, body: FailoverConfirm, watching: Watching) -> NodeOut:
    """Give up a node on an operator's word, however many others are silent. Raises ConflictError while it may run."""
    policy.require(caller, PLATFORM)
    row = await store.get(tx, body.node, lock=True)
    if row is None:
        raise NotFoundError("node_not_found", f"there is no node {body.node}", hint="list them with `nacre node list`")
    if row.state is NodeState.FAILED:
        return await node_views.shown(tx, row)
    if row.state not in _MAY_BE_SILENT:
        raise ConflictError(
            "node_is_heard",
            f"node {row.name} is {row.state}: it is heard, or was a moment ago",
            hint="wait until it is offline; a node that is heard is emptied with `nacre node drain`",
            field="node",
        )
    silent_s = watching.silence(_lease_of(row))
    left_s = _wait_s(row.lease_s, watching.terms) - silent_s
    if left_s > 0 and not body.dead:
        raise ConflictError(
            "lease_not_over",
            f"node {row.name} may hold its lease for {left_s:.0f} s more, and run machines until then",
            hint="ask again after that; if it is certainly switched off, say --confirm-dead",
            field="dead",
        )
    word = "is certainly switched off" if body.dead else "is lost"
    message = f"node {row.name} is given up: {caller.actor.name} says that it {word}"
    details = {"silent_s": round(silent_s, 1), "dead": body.dead}
    given = await _fail(tx, row, message, details, actor=caller.actor, request_id=caller.request_id)
    return await node_views.shown(tx, given)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How it stands with a node out of reach that has machines to be started elsewhere."""

    node: LeaseRow
    vms: int
    silent_s: float
    left_s: float
    """For how long its lease may last; 0 once it has surely ended."""
    lost: int
    of: int


def standings(picture: Picture, watching: Watching) -> list[Standing]:
    """Return how it stands with each node that matters, longest silent first. Pure but for the clock of `watching`."""
    vms_of: dict[NodeId, int] = {}
    for vm in picture.waiting:
        vms_of[vm.node] = vms_of.get(vm.node, 0) + 1
    silent = [
        failover_rules.Silent(id=node.id, last_seen_at=node.last_seen_at)
        for node in picture.watched
        if node.state in LOST
    ]
    found: list[Standing] = []
    for node in picture.watched:
        if node.state not in LOST or node.id not in vms_of:
            continue
        silent_s = watching.silence(node)
        ended = node.state is NodeState.FAILED
        lost, of = failover_rules.share_lost(node.id, silent, picture.heard)
        found.append(
            Standing(
                node=node,
                vms=vms_of[node.id],
                silent_s=silent_s,
                left_s=0.0 if ended else max(0.0, _wait_s(node.lease_s, watching.terms) - silent_s),
                lost=lost,
                of=of,
            )
        )
    return sorted(found, key=lambda one: (-one.silent_s, one.node.id))


def is_due(one: Standing) -> bool:
    """Whether the lease of a node that has not been given up has surely ended. Pure."""
    return one.node.state is NodeState.OFFLINE and one.left_s == 0


def in_mass_loss(one: Standing, terms: Terms) -> bool:
    """Whether a node is not to be given up because of how many fell silent with it. Pure."""
    lost = failover_rules.is_mass_loss(one.lost, one.of, terms.max_share)
    return one.node.state is NodeState.OFFLINE and lost


def _wait_s(lease_s: float, terms: Terms) -> float:
    return failover_rules.wait_s(max(lease_s, terms.lease_s))


def _shown(one: Standing, terms: Terms) -> LostNode:
    return LostNode(
        id=one.node.id,
        name=one.node.name,
        state=one.node.state,
        vms=one.vms,
        silent_s=round(one.silent_s, 1),
        left_s=round(one.left_s, 1),
        held=is_due(one) and in_mass_loss(one, terms),
        lost_at_once=one.lost,
        of=one.of,
    )


async def _fail(
    tx: Tx, row: NodeRow, message: str, details: Mapping[str, object], *, actor: Actor = SYSTEM, request_id: str = ""
) -> NodeRow:
    changed = failover_rules.given_up(row)
    await store.save(tx, row, changed)
    states = {"before": {"state": row.state.value}, "after": {"state": changed.state.value}}
    more = {**details, **states, "tenure": changed.tenure}
    tell(tx, changed, "node.failed", message, actor=actor, request_id=request_id, details=more)
    await moves.node_lost(tx, row.id)
    tx.wake(NODES, VMS, node_topic(row.id))
    return changed


def _lease_of(row: NodeRow) -> LeaseRow:
    return LeaseRow(
        id=row.id,
        name=row.name,
        state=row.state,
        tenure=row.tenure,
        renewals=row.renewals,
        lease_s=row.lease_s,
        last_seen_at=row.last_seen_at,
    )


def _tell_platform(tx: Tx, event: str, message: str, details: dict[str, object]) -> None:
    events.emit(
        tx,
        type=event,
        actor=SYSTEM,
        noun="failover",
        object_id=_PLATFORM,
        object_name=_PLATFORM,
        project=None,
        message=message,
        details=details,
    )
