"""How the platform places machines: its policy, shown and changed; and why a machine is where it is."""

from collections.abc import Callable
from typing import Any

import msgspec

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.scheduler.explain import summary
from nacre.control.scheduler.placement import place
from nacre.control.services import events, fleet, vm_room, vms, volume_room
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.services.vm_advice import advice
from nacre.control.services.vm_placement import without_own
from nacre.control.store import scheduling as store
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Read, Tx
from nacre.control.store.vms import VmView
from nacre.control.wake import VMS
from nacre.errors import InvalidInputError
from nacre.model.placement import Decision, Policy, Weights
from nacre.model.vms import Desired
from nacre.schema.common import ProjectRef
from nacre.schema.scheduling import ExplanationOut, MachineRef, SchedulerOut, SchedulerUpdate, WeightsUpdate
from nacre.schema.vms import NodeRef

WANTS_A_NODE = frozenset({Desired.RUNNING, Desired.PAUSED})


async def show(rd: Read, caller: Caller) -> SchedulerOut:
    """Return the policy. Needs a role on the platform."""
    policy.require(caller, PLATFORM)
    known, version, at = await store.get(rd)
    return SchedulerOut(policy=known, updated_at=at, etag=etag_of(version))


async def update(tx: Tx, caller: Caller, body: SchedulerUpdate, *, if_match: str | None = None) -> SchedulerOut:
    """Change what `body` gives. Machines that have a node stay there."""
    policy.require(caller, PLATFORM)
    before, version, at = await store.locked(tx)
    require_match(if_match, etag_of(version))
    after = merged(before, body)
    if after == before:
        return SchedulerOut(policy=before, updated_at=at, etag=etag_of(version))
    await store.put(tx, after, version + 1)
    old: dict[str, Any] = msgspec.to_builtins(before)
    new: dict[str, Any] = msgspec.to_builtins(after)
    names = [name for name in new if new[name] != old[name]]
    events.emit(
        tx,
        type="scheduler.updated",
        actor=caller.actor,
        noun="scheduler",
        object_id="platform",
        object_name="platform",
        project=None,
        message=f"how machines are placed was changed: {', '.join(names)}",
        request_id=caller.request_id,
        details={"before": {name: old[name] for name in names}, "after": {name: new[name] for name in names}},
    )
    tx.wake(VMS)
    return SchedulerOut(policy=after, updated_at=tx.now(), etag=etag_of(version + 1))


def merged(known: Policy, body: SchedulerUpdate) -> Policy:
    """Return the policy with what `body` gives. Raises InvalidInputError. Pure."""
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}
    weights = given.pop("weights", None)
    if isinstance(weights, WeightsUpdate):
        given["weights"] = _weights(known.weights, weights)
    return msgspec.structs.replace(known, **given)


async def explain(
    rd: Read, caller: Caller, ref: str, project: str | None = None, *, random: Callable[[], float]
) -> ExplanationOut:
    """Say why a machine is where it is; for one that waits, why no node can take it now."""
    row = await vms.resolve(rd, caller, ref, project)
    view = await vm_store.view(rd, row.id)
    if view.node is None and view.desired not in WANTS_A_NODE:
        return _explanation(view, caller, None, "not_wanted", "it is off and has no node; it gets one when it starts")
    if view.node is not None and view.decision is None:
        return _explanation(view, caller, None, "placed", "it was placed before decisions were kept")
    if view.node is not None and view.decision is not None:
        return _explanation(view, caller, view.decision, *summary(view.decision))
    decision = await _now(rd, view, random)
    code, sentence = summary(decision)
    if decision.node is not None:
        sentence = f"it will be placed in a moment: {sentence}"
    return _explanation(view, caller, decision, code, sentence, fresh=True)


def shown_to(caller: Caller, decision: Decision) -> Decision:
    """Return a decision without what names nodes, for those who may not view them."""
    if policy.allowed(caller, PLATFORM, "node:view"):
        return decision
    return msgspec.structs.replace(decision, candidates=())


async def _now(rd: Read, view: VmView, random: Callable[[], float]) -> Decision:
    everything = await fleet.load(rd)
    for room in everything.rooms():
        if room.id == view.nominated:
            everything.put(without_own(room, view))
    pools = await volume_room.measure(rd, [view])
    decision = place(pools.told(vm_room.request_of(view)), everything, random=random)
    preempted = view.decision.preempted if view.decision is not None else ()
    return msgspec.structs.replace(decision, decided_at=rd.now(), preempted=preempted)


def _explanation(
    view: VmView, caller: Caller, decision: Decision | None, code: str, sentence: str, *, fresh: bool = False
) -> ExplanationOut:
    return ExplanationOut(
        vm=MachineRef(id=view.id, name=view.name, project=ProjectRef(id=view.project, name=view.project_name)),
        node=None if view.node is None else NodeRef(id=view.node, name=view.node_name or ""),
        code=code,
        summary=sentence,
        hint="" if decision is None else advice(decision),
        fresh=fresh,
        decision=None if decision is None else shown_to(caller, decision),
    )


def _weights(known: Weights, body: WeightsUpdate) -> Weights:
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}
    weights = msgspec.structs.replace(known, **given)
    if not any(msgspec.structs.astuple(weights)):
        raise InvalidInputError(
            "no_weights",
            "all weights are zero, which leaves nothing to choose by",
            hint="give at least one factor a weight",
            field="weights",
        )
    return weights
