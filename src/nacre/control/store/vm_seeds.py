"""The table of what machines' cloud-inits are given, sealed, and its queries. Goes with its machine."""

from collections.abc import Collection

from sqlalchemy import Column, ForeignKey, LargeBinary, Table, Text, delete, insert, select

from nacre.control.store.db import Read, Tx, metadata
from nacre.model.ids import VmId

vm_seeds = Table(
    "vm_seeds",
    metadata,
    Column("vm", Text, ForeignKey("vms.id", ondelete="CASCADE"), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)


async def put(tx: Tx, vm: VmId, sealed: bytes | None) -> None:
    """Store what a machine that this transaction has locked is given, in place of what it was; None: nothing."""
    await tx.connection.execute(delete(vm_seeds).where(vm_seeds.c.vm == vm))
    if sealed is not None:
        await tx.connection.execute(insert(vm_seeds).values(vm=vm, sealed=sealed))


async def of(rd: Read, among: Collection[VmId]) -> dict[VmId, bytes]:
    """Return what these machines are given. Those that are given nothing are left out."""
    if not among:
        return {}
    query = select(vm_seeds.c.vm, vm_seeds.c.sealed).where(vm_seeds.c.vm.in_(among))
    return {VmId(row.vm): bytes(row.sealed) for row in await rd.connection.execute(query)}
