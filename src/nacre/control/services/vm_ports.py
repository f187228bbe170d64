"""Published ports: nobody gets one that another machine holds, and whoever is refused learns by whom, if allowed to.

Used by the services of machines, with the node's row locked.
"""

from collections.abc import Iterable

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.store import nodes, published_ports
from nacre.control.store.db import Tx
from nacre.control.store.vms import VmRow
from nacre.errors import ConflictError
from nacre.model.ids import NodeId, VmId
from nacre.model.vm_checks import ports_overlap
from nacre.model.vms import PublishedPort, RunInfo, VmSpec


def needed(spec: VmSpec, run: RunInfo | None) -> tuple[PublishedPort, ...]:
    """Return what a machine must hold: what it is to publish next, and what it still publishes."""
    still = run.publish if run is not None and run.exited_at is None else ()
    return tuple(dict.fromkeys((*spec.publish, *still)))


async def hold(tx: Tx, row: VmRow) -> None:
    """Let a machine hold what it needs, and nothing else."""
    await published_ports.replace(tx, row.id, row.node, needed(row.spec, row.run))


async def check_free(tx: Tx, caller: Caller, ports: tuple[PublishedPort, ...], row: VmRow | None = None) -> None:
    """Raise ConflictError if one of `ports` is held by another machine where `row` is or will be.

    Where a machine without a node will be is known only if there is one node; otherwise placement finds a node on
    which the ports are free. Locks the node; who has locked `row` has locked the node before.
    """
    if not ports:
        return
    node = row.node if row is not None else None
    unplaced_too = node is None
    if node is None:
        node = await only_node(tx)
    if node is None:
        return
    await nodes.every(tx, [node], lock=True)
    await _refuse_held(tx, caller, ports, node, unplaced_too=unplaced_too, besides=row.id if row is not None else None)


async def only_node(tx: Tx) -> NodeId | None:
    """Return the node where every machine will be; None if there are several, or none."""
    there = await nodes.ids(tx, limit=2)
    return there[0] if len(there) == 1 else None


async def _refuse_held(
    tx: Tx, caller: Caller, ports: Iterable[PublishedPort], node: NodeId, *, unplaced_too: bool, besides: VmId | None
) -> None:
    wanted = tuple(ports)
    for held in await published_ports.candidates(tx, wanted, node, unplaced_too=unplaced_too, besides=besides):
        for index, port in enumerate(wanted):
            if not ports_overlap(port, held.port):
                continue
            known = policy.allowed(caller, held.project, "vm:view")
            holder = f"machine {held.vm_name}" if known else "another machine"
            raise ConflictError(
                "port_in_use",
                f"port {port.host_address}:{port.host_port}/{port.protocol} is used by {holder}",
                hint="publish another port" + (f", or delete {held.vm_name}" if known else ""),
                field=f"publish[{index}].host_port",
            )
