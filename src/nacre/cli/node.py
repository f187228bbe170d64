"""`nacre node …`: the machines that run things. Letting new ones in is in `node_token`, emptying in `node_drains`."""

from collections.abc import Callable
from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, node_copies, node_drains, node_token, node_views, output
from nacre.cli.options import ChangedLabels, Filters, Labels, NodeName, Sort, Yes
from nacre.cli.session import Here, Session
from nacre.cli.verbs import confirm, finish, on_each
from nacre.errors import NotFoundError
from nacre.model.placement import Taint
from nacre.schema.nodes import NodeUpdate


def _with_others() -> App:
    made = App(name="node", help="Nodes that run machines.")
    made.command(node_token.app)
    emptying = (node_drains.drain, node_drains.abort_drain, node_drains.maintenance, node_drains.evacuate)
    for command in (*emptying, node_copies.copies, node_copies.discard):
        made.command(command)
    return made


app = _with_others()


@app.command(name="list")
async def list_(*, label: Labels = (), filter_: Filters = (), sort: Sort = None, session: Here) -> None:
    """List nodes."""
    from nacre.client.collection import Query

    query = Query(labels=arguments.labels(label), filters=arguments.filters(filter_), sort=sort)
    async with session.client() as nacre:
        found = await nacre.nodes.all(query)
    output.items(
        session,
        found,
        node_views.COLUMNS,
        empty="no nodes yet: nacre node token create says how one joins",
        narrowed=query.narrowed,
    )


@app.command
async def show(*names: NodeName, session: Here) -> None:
    """Show everything about nodes."""
    wanted = arguments.refs(names, "node")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, nacre.nodes.show)
    if found:
        output.details(session, found, node_views.facts)
    finish(failure)


@app.command
async def update(
    name: NodeName,
    /,
    *,
    label: ChangedLabels = (),
    region: Annotated[str | None, Parameter(help="Where it is, in the large.")] = None,
    zone: Annotated[str | None, Parameter(help="Where it is, in the small: what fails together.")] = None,
    session: Here,
) -> None:
    """Change labels, region or zone of a node."""
    ref = arguments.ref(name, "node")
    async with session.client() as nacre:
        current = await nacre.nodes.show(ref)
        labels = arguments.changed_labels(current.labels, label) if label else None
        changes = NodeUpdate(labels=labels, region=region, zone=zone)
        arguments.check_changes(changes)
        changed = await nacre.nodes.update(ref, changes, if_match=current.etag)
    output.outcome(session, [changed], lambda node: f"{node.name}: changed")


@app.command
async def taint(
    name: NodeName,
    /,
    *taints: Annotated[str, Parameter(help="key[=value]:no-schedule or key[=value]:prefer-no-schedule.")],
    session: Here,
) -> None:
    """Keep machines away that do not tolerate a taint. What runs there already stays."""
    added = tuple(arguments.taint(text) for text in arguments.some(taints, "taint"))
    names = {(each.key, each.effect) for each in added}
    await _change_taints(
        session, name, lambda old: (*(each for each in old if (each.key, each.effect) not in names), *added)
    )


@app.command
async def untaint(
    name: NodeName,
    /,
    *taints: Annotated[str, Parameter(help="Key of a taint, or key:effect, or all of it.")],
    session: Here,
) -> None:
    """Remove taints."""
    gone = arguments.some(taints, "taint")

    def without(old: tuple[Taint, ...]) -> tuple[Taint, ...]:
        for text in gone:
            if not any(arguments.names_taint(text, each) for each in old):
                raise NotFoundError(
                    "taint_not_found", f"{name} has no taint {text}", hint=f"see them with `nacre node show {name}`"
                )
        return tuple(each for each in old if not any(arguments.names_taint(text, each) for text in gone))

    await _change_taints(session, name, without)


@app.command
async def cordon(*names: NodeName, session: Here) -> None:
    """Give nodes nothing new; they keep what they run."""
    wanted = arguments.refs(names, "node")
    async with session.client() as nacre:
        done, failure = await on_each(wanted, nacre.nodes.cordon)
    if done:
        output.outcome(session, done, node_views.state_sentence)
    finish(failure)


@app.command
async def uncordon(*names: NodeName, session: Here) -> None:
    """Let nodes take new machines again: ends a cordon, a drain, or maintenance."""
    wanted = arguments.refs(names, "node")
    async with session.client() as nacre:
        done, failure = await on_each(wanted, nacre.nodes.uncordon)
    if done:
        output.outcome(session, done, node_views.state_sentence)
    finish(failure)


@app.command(name="allow-teardown")
async def allow_teardown(name: NodeName, /, *, yes: Yes = False, session: Here) -> None:
    """Let a node tear down, once, more machines than its guard lets through."""
    ref = arguments.ref(name, "node")
    confirm(session, f"let {ref} tear down every machine that is marked absent?", yes=yes)
    async with session.client() as nacre:
        done = await nacre.nodes.allow_teardown(ref)
    output.outcome(session, [done], lambda node: f"{node.name}: may tear down what is absent, once")


@app.command
async def delete(
    *names: NodeName,
    force: Annotated[
        bool, Parameter(negative=(), help="Free what a dead node held, and forget the copies on it.")
    ] = False,
    confirm_dead: Annotated[
        bool, Parameter(negative=(), help="Your word that its host is off, so that its machines may start elsewhere.")
    ] = False,
    yes: Yes = False,
    session: Here,
) -> None:
    """Forget nodes that have no machines. Their certificates are worth nothing from then on."""
    wanted = arguments.refs(names, "node")
    sure = " Is its host off for good?" if confirm_dead else ""
    confirm(session, f"forget {', '.join(wanted)}?{sure}", yes=yes)
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.nodes.delete(ref, force=force, confirm_dead=confirm_dead)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: forgotten")
    finish(failure)


async def _change_taints(session: Session, name: str, change: Callable[[tuple[Taint, ...]], tuple[Taint, ...]]) -> None:
    ref = arguments.ref(name, "node")
    async with session.client() as nacre:
        current = await nacre.nodes.show(ref)
        changes = NodeUpdate(taints=change(current.taints))
        changed = await nacre.nodes.update(ref, changes, if_match=current.etag)
    output.outcome(
        session, [changed], lambda node: f"{node.name}: {', '.join(str(each) for each in node.taints) or 'no taints'}"
    )
