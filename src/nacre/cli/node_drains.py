"""`nacre node drain`, `abort-drain`, `maintenance`, `evacuate`: emptying nodes. Registered by `node`."""

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nacre.cli import arguments, node_views, output, progress
from nacre.cli.move import LOOK_S, Method, told
from nacre.cli.options import NodeName, Yes
from nacre.cli.session import Here, Session
from nacre.cli.verbs import confirm
from nacre.errors import ConflictError
from nacre.model.moves import DrainState, MoveMethod
from nacre.schema.moves import MAX_DRAIN_S, NodeDrain, NodeEvacuate
from nacre.schema.nodes import NodeEvacuated, NodeOut

if TYPE_CHECKING:
    from nacre.client.api import Nacre

Parallel = Annotated[int, Parameter(help="How many machines may be on their way at once.")]
GiveUp = Annotated[str | None, Parameter(help="When to give up, such as 10m; what has not left by then stays.")]
Wait = Annotated[bool, Parameter(name=["--wait", "-w"], negative=(), help="Stay until it has ended, and say how.")]


async def drain(
    name: NodeName,
    /,
    *,
    parallel: Parallel = 4,
    timeout: GiveUp = None,
    method: Method = MoveMethod.AUTO,
    abort: Annotated[bool, Parameter(negative=(), help="End the drain that runs, half way.")] = False,
    wait: Wait = False,
    session: Here,
) -> None:
    """Move every machine of a node to others, and keep it cordoned: while they run where that is possible."""
    if abort:
        await abort_drain(name, session=session)
        return
    body = _body(parallel, timeout, method)
    async with session.client() as nacre:
        begun = await nacre.nodes.drain(arguments.ref(name, "node"), body)
        await _told(session, nacre, begun, wait=wait)


async def abort_drain(name: NodeName, /, *, session: Here) -> None:
    """End a drain half way: what has not left stays, and the node is what it was before."""
    async with session.client() as nacre:
        done = await nacre.nodes.abort_drain(arguments.ref(name, "node"))
    output.outcome(session, [done], node_views.drain_sentence)


async def maintenance(
    name: NodeName,
    /,
    *,
    parallel: Parallel = 4,
    timeout: GiveUp = None,
    method: Method = MoveMethod.AUTO,
    wait: Wait = False,
    session: Here,
) -> None:
    """Drain a node; once it is empty it may be switched off without that being news. Ended by uncordon."""
    body = _body(parallel, timeout, method)
    async with session.client() as nacre:
        begun = await nacre.nodes.maintenance(arguments.ref(name, "node"), body)
        await _told(session, nacre, begun, wait=wait)


async def evacuate(
    name: NodeName,
    /,
    *,
    confirm_dead: Annotated[
        bool, Parameter(negative=(), help="Your word that the host of a node out of reach is switched off.")
    ] = False,
    parallel: Parallel = 16,
    wait: Wait = False,
    yes: Yes = False,
    session: Here,
) -> None:
    """Empty a node in a hurry: guests are not asked. Off a node out of reach machines are taken at once."""
    ref = arguments.ref(name, "node")
    if confirm_dead:
        confirm(session, f"is the host of {ref} switched off, and will it stay off until it is looked after?", yes=yes)
    body = NodeEvacuate(confirm_dead=confirm_dead, parallel=arguments.parallel(parallel))
    async with session.client() as nacre:
        done = await nacre.nodes.evacuate(ref, body)
        if done.node.drain is not None and done.node.drain.ended_at is None:
            await _told(session, nacre, done.node, wait=wait)
            return
    output.outcome(session, [done], _evacuated)


def _body(parallel: int, timeout: str | None, method: MoveMethod) -> NodeDrain:
    timeout_s = None if timeout is None else arguments.duration(timeout, "timeout")
    if timeout_s is not None:
        arguments.check_range(timeout_s, "timeout", least=0.001, most=MAX_DRAIN_S)
    return NodeDrain(parallel=arguments.parallel(parallel), timeout_s=timeout_s, method=method)


async def _told(session: Session, nacre: "Nacre", node: NodeOut, *, wait: bool) -> None:
    """Say how a drain stands, or with `wait` how it ended. Raises ConflictError unless the node is empty then."""
    if not wait:
        output.outcome(session, [node], node_views.drain_sentence)
        return
    with progress.spinner(f"drain {node.name}") as say:
        while node.drain is not None and node.drain.ended_at is None:
            say(node_views.drain_sentence(node))
            await asyncio.sleep(LOOK_S)
            node = await nacre.nodes.show(node.id)
    output.outcome(session, [node], node_views.drain_sentence)
    if node.drain is None or node.drain.state is DrainState.DONE:
        return
    from nacre.client.collection import Query

    told(await nacre.moves.all(Query(filters={"drain": node.drain.id})))
    raise ConflictError(
        f"drain_{node.drain.state.value.replace('-', '_')}",
        f"node {node.name} is not empty: {node.drain.message}",
        hint=f"see what stays with `nacre vm list --all-projects --filter node={node.name}`, make room, and repeat",
    )


def _evacuated(done: NodeEvacuated) -> str:
    left = f"; {len(done.left)} stay ({done.left[0].vm}: {done.left[0].reason})" if done.left else ""
    return f"{done.node.name}: {len(done.taken)} machines taken off{left}"
