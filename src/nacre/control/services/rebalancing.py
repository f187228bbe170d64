"""Rebalancing: moves that make the load of nodes more even, proposed by the scheduler and begun if asked for."""

import asyncio
from collections.abc import Sequence

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.scheduler.rebalance import Proposal, propose, spread
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.services import events, fleet, moves
from nacre.control.store import projects
from nacre.control.store import vms as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.vms import VmRow
from nacre.model.ids import MoveId, ProjectId, VmId
from nacre.model.moves import MoveReason, MoveTerms
from nacre.model.vms import Desired
from nacre.schema.common import ProjectRef
from nacre.schema.scheduling import MachineRef, ProposedMove, RebalanceBody, RebalanceOut
from nacre.schema.vms import NodeRef


async def preview(rd: Read, caller: Caller, body: RebalanceBody) -> RebalanceOut:
    """Return the moves that would be begun."""
    policy.require(caller, PLATFORM)
    everything, proposed = await _proposals(rd, body)
    return await _out(rd, everything, proposed, {}, dry_run=True)


async def rebalance(tx: Tx, caller: Caller, body: RebalanceBody) -> RebalanceOut:
    """Begin the moves. Each looks for room on its target again before its machine is stopped."""
    policy.require(caller, PLATFORM)
    everything, proposed = await _proposals(tx, body)
    begun: dict[VmId, MoveId] = {}
    for proposal in sorted(proposed, key=lambda one: one.resident.vm):
        row = await store.get(tx, proposal.resident.vm, lock=True)
        if row is None or not _is_still_there(row, proposal):
            continue
        move = await moves.begin(
            tx,
            row,
            reason=MoveReason.REBALANCE,
            source=proposal.source,
            pinned=proposal.target,
            terms=MoveTerms(),
            created_by=caller.actor.name,
        )
        begun[row.id] = move.id
    if begun:
        events.emit(
            tx,
            type="scheduler.rebalanced",
            actor=caller.actor,
            noun="scheduler",
            object_id="platform",
            object_name="platform",
            project=None,
            message=f"{len(begun)} machines are moved to even out the load of nodes",
            request_id=caller.request_id,
            details={"moves": len(begun), "min_gain": body.min_gain},
        )
    return await _out(tx, everything, proposed, begun, dry_run=False)


async def _proposals(rd: Read, body: RebalanceBody) -> tuple[Fleet, list[Proposal]]:
    everything = await fleet.load(rd, movable=True)
    proposed = await asyncio.to_thread(propose, everything, min_gain=body.min_gain, max_moves=body.max_moves)
    return everything, proposed


def _is_still_there(row: VmRow, proposal: Proposal) -> bool:
    return row.node == proposal.source and row.moving is None and row.desired is not Desired.ABSENT


async def _out(
    rd: Read, everything: Fleet, proposed: Sequence[Proposal], begun: dict[VmId, MoveId], *, dry_run: bool
) -> RebalanceOut:
    names: dict[ProjectId, str] = {}
    for project in {one.resident.project for one in proposed}:
        row = await projects.get(rd, project)
        names[project] = "" if row is None else row.name
    now = spread(everything)
    return RebalanceOut(
        moves=[
            ProposedMove(
                vm=MachineRef(
                    id=one.resident.vm,
                    name=one.resident.name,
                    project=ProjectRef(id=one.resident.project, name=names[one.resident.project]),
                ),
                source=NodeRef(id=one.source, name=everything.room(one.source).name),
                target=NodeRef(id=one.target, name=everything.room(one.target).name),
                gain=one.gain,
                move=begun.get(one.resident.vm),
            )
            for one in proposed
        ],
        spread_before=proposed[0].before if proposed else now,
        spread_after=proposed[-1].after if proposed else now,
        dry_run=dry_run,
    )
