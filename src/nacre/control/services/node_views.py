"""Nodes as they are shown: rows to `NodeOut`. Used by the services of nodes."""

from collections.abc import Sequence
from datetime import datetime

from nacre.control.services.node_changes import conditions
from nacre.control.services.preconditions import etag_of
from nacre.control.store import vms
from nacre.control.store.db import Read
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import Reserved
from nacre.model.nodes import Condition, ConditionKind
from nacre.protocol.messages import HeldVm
from nacre.schema.nodes import NodeOut

_SHOWN_NAMES = 10


async def shown(rd: Read, row: NodeRow) -> NodeOut:
    """Return one node as it is now."""
    return (await many(rd, [row]))[0]


async def many(rd: Read, rows: Sequence[NodeRow]) -> list[NodeOut]:
    """Return nodes with what is reserved on them, in one query for all."""
    reserved = await vms.reserved(rd, [row.id for row in rows])
    return [out(row, reserved.get(row.id, Reserved())) for row in rows]


def out(row: NodeRow, reserved: Reserved) -> NodeOut:
    """Show a row. What only an agent can say is empty until it has."""
    facts = row.facts
    return NodeOut(
        id=row.id,
        name=row.name,
        state=row.state,
        labels=row.labels,
        region=row.region,
        zone=row.zone,
        hostname=facts.hostname if facts is not None else "",
        os=facts.os if facts is not None else "",
        kernel=facts.kernel if facts is not None else "",
        architecture=facts.architecture if facts is not None else "",
        agent_version=facts.agent_version if facts is not None else "",
        hypervisors=facts.hypervisors if facts is not None else (),
        conditions=conditions(row),
        capacity=facts.capacity if facts is not None else None,
        usage=row.usage,
        reserved_cpus=reserved.cpus,
        reserved_memory_bytes=reserved.memory_bytes,
        vms=reserved.vms,
        last_seen_at=row.last_seen_at,
        certificate_expires_at=row.certificate_expires_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        etag=etag_of(row.version),
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
