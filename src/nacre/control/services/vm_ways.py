"""The way to the node of a machine: which node that is, and whether it can be asked. Used before streams open."""

from dataclasses import dataclass

from nacre.control.store import nodes
from nacre.control.store.db import Read
from nacre.control.store.vms import VmRow
from nacre.errors import ConflictError, UnavailableError, UnsupportedError
from nacre.model.ids import NodeId
from nacre.model.nodes import LOST


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A machine and where it is."""

    vm: VmRow
    node: NodeId


async def way(rd: Read, row: VmRow, kind: str, *, field: str | None = None) -> Placed:
    """Return where a machine is, if a stream of this kind can be opened to its node.

    Raises ConflictError for one without a node, UnavailableError if its node is out of reach, and UnsupportedError if
    the node's agent is too old. `field` is what the caller has named it by.
    """
    if row.node is None:
        raise ConflictError(
            "vm_not_placed",
            f"{row.name} is on no node yet",
            hint="start it, and look at its conditions if it stays pending",
            field=field,
        )
    node = await nodes.get(rd, row.node)
    if node is None or node.state in LOST:
        name = row.node if node is None else node.name
        raise UnavailableError(
            "node_away",
            f"{name}, the node of {row.name}, is out of reach",
            hint=f"look at it with `nacre node show {name}`; this works again when it is back",
            field=field,
        )
    if node.facts is None or kind not in node.facts.streams:
        raise UnsupportedError(
            "agent_too_old",
            f"the agent of {node.name} cannot do this",
            hint="update nacre-agent on the node; simulated nodes cannot",
            field=field,
        )
    return Placed(vm=row, node=row.node)
