"""`nacre node copies` and `nacre node discard`: what machines left behind on nodes. Registered by `node`."""

from typing import Annotated

from cyclopts import Parameter

from nacre.cli import arguments, output
from nacre.cli.options import NodeName, Yes
from nacre.cli.output import Column, age, moment
from nacre.cli.session import Here
from nacre.cli.verbs import confirm
from nacre.model.units import format_size
from nacre.schema.moves import CopyOut

COLUMNS: list[Column[CopyOut]] = [
    Column("VM", lambda copy: copy.vm.name or copy.vm.id),
    Column("STATE", lambda copy: copy.state.value),
    Column("SIZE", lambda copy: format_size(copy.size_bytes)),
    Column("LEFT", lambda copy: f"{age(copy.created_at)} ago"),
    Column("BECAUSE", lambda copy: copy.reason),
    Column("KEPT UNTIL", lambda copy: moment(copy.expires_at) or "discarded by hand"),
]


async def copies(name: NodeName, /, *, session: Here) -> None:
    """List the disks that machines left behind on a node when they moved away."""
    async with session.client() as nacre:
        found = await nacre.nodes.copies(arguments.ref(name, "node"))
    output.items(session, found, COLUMNS, empty="no copies here")


async def discard(
    name: NodeName,
    /,
    *vms: Annotated[str, Parameter(help="Machine whose copies are deleted, by name or id; without any, all.")],
    yes: Yes = False,
    session: Here,
) -> None:
    """Delete disks that machines left behind on a node, for good."""
    ref = arguments.ref(name, "node")
    wanted = arguments.refs(vms, "vm") if vms else []
    confirm(session, f"delete what {', '.join(wanted) or 'every machine'} left behind on {ref}, for good?", yes=yes)
    async with session.client() as nacre:
        done = await nacre.nodes.discard(ref, wanted)
    output.outcome(session, done, _discarded)


def _discarded(copy: CopyOut) -> str:
    return f"{copy.vm.name or copy.vm.id}: what it left on {copy.node.name} is to be deleted"
