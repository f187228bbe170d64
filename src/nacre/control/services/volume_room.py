"""Room in pools for volumes that are made where their machine goes. Used by those who give machines nodes.

A volume of a pool that is not shared lies nowhere until its machine has a node; then that node's pool must have room
for it. What pools have left is measured with the machines that wait, and each that gets a node takes of it; it is
measured again, with the pools locked, before that is written. Of the local pool machines reserve room themselves.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from nacre.control.scheduler.snapshot import Request
from nacre.control.services.pools import left_on
from nacre.control.store import pools, volumes
from nacre.control.store.db import Read, Tx
from nacre.control.store.pools import PoolRow
from nacre.control.store.vms import VmRow
from nacre.model.ids import NodeId, PoolId, VmId


@dataclass(kw_only=True)
class PoolRoom:
    """What pools have left on nodes, and what the volumes of machines without a node will take of it."""

    wanted: dict[VmId, dict[PoolId, int]] = field(default_factory=dict[VmId, dict[PoolId, int]])
    left: dict[PoolId, dict[NodeId, int]] = field(default_factory=dict[PoolId, dict[NodeId, int]])
    """Nodes that have not told of a pool decide themselves."""
    names: dict[PoolId, str] = field(default_factory=dict[PoolId, str])

    def told(self, request: Request) -> Request:
        """Return a request that knows which nodes have no room for the volumes of its machine."""
        wanted = self.wanted.get(request.vm)
        if wanted is None:
            return request
        full = [node for pool, size in wanted.items() for node, left in self.left[pool].items() if left < size]
        names = " or ".join(sorted(self.names[pool] for pool in wanted))
        return replace(request, full=frozenset(full), pools=names)

    def has_room(self, vm: VmId, node: NodeId) -> bool:
        """Whether a node has room for the volumes of a machine."""
        wanted = self.wanted.get(vm, {})
        return all(self.left[pool].get(node, size) >= size for pool, size in wanted.items())

    def take(self, vm: VmId, node: NodeId) -> None:
        """A machine goes to a node, and its volumes with it."""
        for pool, size in self.wanted.get(vm, {}).items():
            if node in self.left[pool]:
                self.left[pool][node] -= size


async def measure(rd: Read, among: Iterable[VmRow]) -> PoolRoom:
    """Return what is left for the volumes of these machines. For machines without any nothing is asked."""
    tied = _tied(among)
    wanted = await volumes.homeless(rd, tied) if tied else {}
    return await _measured(rd, wanted, await pools.many(rd, _named(wanted))) if wanted else PoolRoom()


async def hold(tx: Tx, among: Iterable[VmRow]) -> PoolRoom:
    """Measure so that it stays true until the transaction ends, which has locked the machines.

    What `volume_attachments.placed` locks is locked here, because volumes come before pools.
    """
    tied = _tied(among)
    wanted = await volumes.homeless(tx, tied) if tied else {}
    if not wanted:
        return PoolRoom()
    attached = await volumes.attached(tx, tied)
    await volumes.many(tx, [one.volume for some in attached.values() for one in some], lock=True)
    return await _measured(tx, wanted, await pools.many(tx, _named(wanted), lock=True))


def _tied(among: Iterable[VmRow]) -> list[VmId]:
    return [row.id for row in among if row.tie is not None]


async def _measured(rd: Read, wanted: dict[VmId, dict[PoolId, int]], known: Iterable[PoolRow]) -> PoolRoom:
    rows = {row.id: row for row in known}
    said = await pools.reports(rd, rows)
    promised = await volumes.promised_on(rd, rows)
    return PoolRoom(
        wanted=wanted,
        left={row.id: left_on(row, said.get(row.id, {}), promised.get(row.id, {})) for row in rows.values()},
        names={row.id: row.name for row in rows.values()},
    )


def _named(wanted: dict[VmId, dict[PoolId, int]]) -> set[PoolId]:
    return {pool for some in wanted.values() for pool in some}
