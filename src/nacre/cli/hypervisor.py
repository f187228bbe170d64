"""`nacre hypervisor …`: what runs machines, and what it can do for them."""

from collections.abc import Iterable
from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.options import NodeName
from nacre.cli.output import Column
from nacre.cli.session import Here
from nacre.errors import NotFoundError
from nacre.model.capabilities import Level
from nacre.schema.capabilities import CapabilityOut, HypervisorOut, Reason
from nacre.schema.nodes import NodeOut

app = App(name="hypervisor", help="What runs machines, and what it can do for them.")

_MARKS = {Level.UNSUPPORTED: "no", Level.NATIVE: "yes"}


@app.command(name="list")
async def list_(*, session: Here) -> None:
    """List hypervisors, and on how many nodes they work."""
    async with session.client() as nacre:
        found = await nacre.capabilities.show()
    output.items(session, list(found.hypervisors), COLUMNS, empty="no node has told of a hypervisor yet")


@app.command
async def show(
    name: Annotated[str, Parameter(help="Such as qemu.")],
    /,
    *,
    node: Annotated[NodeName | None, Parameter(name="--node", help="Only what it can do on this node.")] = None,
    session: Here,
) -> None:
    """Show what a hypervisor can do and, for what it cannot, why."""
    async with session.client() as nacre:
        if node is None:
            known = {each.name: each.capabilities for each in (await nacre.capabilities.show()).hypervisors}
        else:
            known = on_node(await nacre.nodes.show(arguments.ref(node, "node")))
    if name not in known:
        raise NotFoundError(
            "hypervisor_not_found",
            f"no node has told of a hypervisor {name}",
            hint=f"there are: {', '.join(sorted(known)) or 'none yet'}",
        )
    output.items(session, list(known[name]), CAPABILITY_COLUMNS, empty="it does not work on any node")


def on_node(node: NodeOut) -> dict[str, tuple[CapabilityOut, ...]]:
    """Return what each hypervisor of one node can do."""
    return {
        info.name: tuple(
            CapabilityOut(
                capability=name,
                level=group.level,
                nodes=int(group.level is not Level.UNSUPPORTED),
                note=group.note,
            )
            for group in info.offer or ()
            for name in group.capabilities
        )
        for info in node.hypervisors
    }


def reasons(found: Iterable[Reason]) -> str:
    """Return reasons on one line."""
    return "; ".join(f"{reason.note} ({reason.nodes})" if reason.note else "" for reason in found).strip("; ")


def _note(found: CapabilityOut) -> str:
    return "; ".join(part for part in (found.note, reasons(found.missing)) if part)


COLUMNS: list[Column[HypervisorOut]] = [
    Column("NAME", lambda each: each.name),
    Column("NODES", lambda each: str(each.nodes)),
    Column("WORKS ON", lambda each: str(each.available)),
    Column("VERSIONS", lambda each: ", ".join(each.versions) or "-"),
    Column("CAN", lambda each: f"{sum(1 for one in each.capabilities if one.nodes)} of {len(each.capabilities)}"),
    Column("WHY NOT", lambda each: reasons(each.unavailable) or "-"),
]
CAPABILITY_COLUMNS: list[Column[CapabilityOut]] = [
    Column("CAPABILITY", lambda each: each.capability),
    Column("CAN", lambda each: _MARKS.get(each.level, each.level.value)),
    Column("NODES", lambda each: str(each.nodes)),
    Column("NOTE", lambda each: _note(each) or "-"),
]
