"""The table of published ports: who listens where. A row is held from the request on, and binds from placement on.

`node` is null until the machine is placed. Wildcard addresses overlap, which no unique constraint can say, so the
writer looks under the lock of the node's row first; the constraint is the second line of defence.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    Select,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.types import Choice
from nacre.control.store.vms import vms
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.vms import PublishedPort, TransportProtocol

published_ports = Table(
    "published_ports",
    metadata,
    Column("vm", Text, ForeignKey("vms.id", ondelete="CASCADE"), primary_key=True),
    Column("protocol", Choice(TransportProtocol), primary_key=True),
    Column("host_port", Integer, primary_key=True),
    Column("host_address", Text, primary_key=True),
    Column("guest_port", Integer, nullable=False),
    Column("node", Text, ForeignKey("nodes.id")),
    UniqueConstraint("node", "protocol", "host_port", "host_address"),
)


@dataclass(frozen=True, kw_only=True)
class HeldPort:
    """A published port and the machine that holds it."""

    port: PublishedPort
    vm: VmId
    vm_name: str
    project: ProjectId
    node: NodeId | None


async def held(rd: Read, nodes: Collection[NodeId] | None = None) -> list[HeldPort]:
    """Return the ports held on these nodes (None: on all)."""
    query = _held().where(published_ports.c.node.is_not(None))
    if nodes is not None:
        query = query.where(published_ports.c.node.in_(nodes))
    return await _load(rd, query)


async def of_vms(rd: Read, among: Collection[VmId]) -> list[HeldPort]:
    """Return the ports that these machines hold, wherever they are."""
    return await _load(rd, _held().where(published_ports.c.vm.in_(sorted(among))))


async def candidates(
    rd: Read, ports: Iterable[PublishedPort], node: NodeId, *, unplaced_too: bool, besides: VmId | None
) -> list[HeldPort]:
    """Return what holds the same numbers on `node` (and where nothing is placed yet), leaving out machine `besides`.

    The addresses may differ: the caller decides whether they overlap.
    """
    numbers = {port.host_port for port in ports}
    place = published_ports.c.node == node
    query = _held().where(
        published_ports.c.host_port.in_(numbers),
        or_(place, published_ports.c.node.is_(None)) if unplaced_too else place,
    )
    if besides is not None:
        query = query.where(published_ports.c.vm != besides)
    return await _load(rd, query)


async def replace(tx: Tx, vm: VmId, node: NodeId | None, ports: Iterable[PublishedPort]) -> None:
    """Let the machine hold exactly these ports."""
    await tx.connection.execute(delete(published_ports).where(published_ports.c.vm == vm))
    rows = {
        (port.protocol, port.host_port, port.host_address): {
            "vm": vm,
            "node": node,
            "protocol": port.protocol,
            "host_port": port.host_port,
            "host_address": port.host_address,
            "guest_port": port.guest_port,
        }
        for port in ports
    }
    if rows:
        await tx.connection.execute(insert(published_ports), list(rows.values()))


async def bind(tx: Tx, vm: VmId, node: NodeId) -> None:
    """The machine has been placed: its ports are now held on `node`."""
    await bind_all(tx, {vm: node})


async def bind_all(tx: Tx, placed: Mapping[VmId, NodeId]) -> None:
    """Machines have been placed: their ports are now held on their nodes."""
    if not placed:
        return
    statement = update(published_ports).where(published_ports.c.vm == bindparam("of")).values(node=bindparam("at"))
    await tx.connection.execute(statement, [{"of": vm, "at": placed[vm]} for vm in sorted(placed)])


def _held() -> Select[tuple[object, ...]]:
    return select(
        published_ports,
        vms.c.name.label("vm_name"),
        vms.c.project.label("project"),
    ).join(vms, vms.c.id == published_ports.c.vm)


async def _load(rd: Read, query: Select[tuple[object, ...]]) -> list[HeldPort]:
    found = await rd.connection.execute(query.order_by(published_ports.c.vm, published_ports.c.host_port))
    return [
        HeldPort(
            port=PublishedPort(
                guest_port=row.guest_port,
                host_port=row.host_port,
                host_address=row.host_address,
                protocol=row.protocol,
            ),
            vm=row.vm,
            vm_name=row.vm_name,
            project=row.project,
            node=row.node,
        )
        for row in found
    ]
