"""Nodes as they are shown: rows to `NodeOut`. Used by the services of nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from nacre.control.services.node_changes import conditions
from nacre.control.services.preconditions import etag_of
from nacre.control.store import copies, drains, moves, vms
from nacre.control.store.db import Read
from nacre.control.store.drains import DrainRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import Reserved
from nacre.model.moves import MoveState
from nacre.model.nodes import Condition, ConditionKind
from nacre.protocol.messages import HeldVm
from nacre.schema.moves import DrainOut
from nacre.schema.nodes import NodeOut

_SHOWN_NAMES = 10


@dataclass(frozen=True, kw_only=True)
class Around:
    """What is shown of a node and is not in its row."""

    reserved: Reserved
    copies: int = 0
    drain: DrainOut | None = None


async def shown(rd: Read, row: NodeRow) -> NodeOut:
    """Return one node as it is now, with what its host is made of."""
    (out_,) = await many(rd, [row])
    if row.facts is None:
        return out_
    return msgspec.structs.replace(out_, inventory=row.facts.inventory, hypervisors=row.facts.hypervisors)


async def many(rd: Read, rows: Sequence[NodeRow]) -> list[NodeOut]:
    """Return nodes with what is reserved and left behind on them, in one query for all of each."""
    ids = [row.id for row in rows]
    reserved = await vms.reserved(rd, ids)
    left = await copies.counts(rd, ids)
    newest = await drains.newest(rd, ids)
    counts = await moves.counts(rd, [drain.id for drain in newest.values()])
    return [
        out(
            row,
            Around(
                reserved=reserved.get(row.id, Reserved()),
                copies=left.get(row.id, 0),
                drain=drain_out(drain, counts.get(drain.id, {})) if (drain := newest.get(row.id)) is not None else None,
            ),
        )
        for row in rows
    ]


def out(row: NodeRow, around: Around) -> NodeOut:
    """Show a row. What only an agent can say is empty until it has."""
    facts = row.facts
    return NodeOut(
        id=row.id,
        name=row.name,
        state=row.state,
        wish=row.wish,
        labels=row.labels,
        taints=row.taints,
        region=row.region,
        zone=row.zone,
        hostname=facts.hostname if facts is not None else "",
        os=facts.os if facts is not None else "",
        kernel=facts.kernel if facts is not None else "",
        architecture=facts.architecture if facts is not None else "",
        agent_version=facts.agent_version if facts is not None else "",
        # What they offer is some kilobytes, and shown of one node only.
        hypervisors=tuple(msgspec.structs.replace(info, offer=None) for info in facts.hypervisors) if facts else (),
        conditions=conditions(row),
        capacity=facts.capacity if facts is not None else None,
        usage=row.usage,
        reserved_cpus=around.reserved.cpus,
        reserved_memory_bytes=around.reserved.memory_bytes,
        reserved_disk_bytes=around.reserved.disk_bytes,
        vms=around.reserved.vms,
        copies=around.copies,
        drain=around.drain,
        enrolment=row.enrolment,
        reliability=row.reliability,
        tenure=row.tenure,
        inventory=None,
        last_seen_at=row.last_seen_at,
        certificate_expires_at=row.certificate_expires_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        etag=etag_of(row.version),
    )


def drain_out(row: DrainRow, counts: Mapping[MoveState, int]) -> DrainOut:
    """Show how a drain stands. Pure."""

    def many_of(*states: MoveState) -> int:
        return sum(counts.get(state, 0) for state in states)

    return DrainOut(
        id=row.id,
        state=row.state,
        reason=row.reason,
        wish_after=row.wish_after,
        parallel=row.parallel,
        message=row.message,
        created_by=row.created_by,
        created_at=row.created_at,
        deadline=row.deadline,
        ended_at=row.ended_at,
        machines=sum(counts.values()),
        moved=many_of(MoveState.DONE),
        moving=many_of(MoveState.MIGRATING, MoveState.STOPPING, MoveState.STARTING),
        waiting=many_of(MoveState.PENDING),
        failed=many_of(MoveState.FAILED),
        aborted=many_of(MoveState.ABORTED),
    )


def held_condition(held: Sequence[HeldVm], *, since: datetime) -> Condition | None:
    """Return the condition of a node that holds machines nobody told it of; None if it holds none. Pure."""
    if not held:
        return None
    names = ", ".join(f"{vm.name or vm.id} ({'running' if vm.running else 'off'})" for vm in held[:_SHOWN_NAMES])
    more = f" and {len(held) - _SHOWN_NAMES} more" if len(held) > _SHOWN_NAMES else ""
    return Condition(
        kind=ConditionKind.HELD_WORKLOADS,
        message=f"holds {len(held)} machines that the platform does not know: {names}{more}",
        hint="they are left alone; find out where they come from, and remove them on the node if nobody needs them",
        since=since,
    )
