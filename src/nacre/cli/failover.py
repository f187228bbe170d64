"""`nacre failover …`: nodes that are lost, and what of theirs is started elsewhere."""

from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.options import NodeName, Yes
from nacre.cli.session import Here
from nacre.cli.verbs import confirm as ask
from nacre.schema.failover import FailoverConfirm, FailoverOut, LostNode

app = App(name="failover", help="Lost nodes, and what of theirs is started elsewhere.")


@app.command
async def status(*, session: Here) -> None:
    """Show which nodes are waited for, whether any is held back, and what is still to be started elsewhere."""
    async with session.client() as nacre:
        found = await nacre.failover.status()
    output.details(session, [found], facts)


@app.command
async def confirm(
    name: NodeName,
    /,
    *,
    confirm_dead: Annotated[
        bool, Parameter(negative=(), help="It is certainly switched off: do not wait for its lease to end.")
    ] = False,
    yes: Yes = False,
    session: Here,
) -> None:
    """Give up a node that is out of reach, although so many are that it is held back.

    Without --confirm-dead only once its lease has surely ended: nothing runs twice, whether you are right or not.
    """
    ref = arguments.ref(name, "node")
    if confirm_dead:
        ask(session, f"start what {ref} runs elsewhere now? If it is not switched off, machines run twice", yes=yes)
    async with session.client() as nacre:
        done = await nacre.failover.confirm(FailoverConfirm(node=ref, dead=confirm_dead))
    output.outcome(session, [done], lambda node: f"{node.name}: {node.state}")


def facts(found: FailoverOut) -> list[tuple[str, str]]:
    """Return what is shown of it, line by line."""
    lines = [("held", _held(found)), ("rate", f"{found.per_s:g} machines per second")]
    lines += [(node.name, _node(node)) for node in found.nodes] or [("lost nodes", "none")]
    if found.waiting:
        names = ", ".join(vm.name for vm in found.queue[:10])
        more = f" and {found.waiting - 10} more" if found.waiting > 10 else ""
        lines.append(("next", f"{names}{more}"))
    return lines


def _held(found: FailoverOut) -> str:
    if not found.held:
        return "no"
    return "yes: too many nodes fell silent at once; nacre failover confirm gives up those that you know are lost"


def _node(node: LostNode) -> str:
    machines = f"{node.vms} machine{'' if node.vms == 1 else 's'}"
    if node.held:
        return f"{node.state}, held back: one of {node.lost_at_once} that fell silent, of {node.of}; {machines}"
    if node.left_s > 0:
        return f"{node.state}, may hold its lease for {node.left_s:.0f} s more; {machines} to start elsewhere then"
    return f"{node.state}; {machines} to start elsewhere"
