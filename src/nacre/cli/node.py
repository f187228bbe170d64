"""`nacre node …`: the machines that run things. Letting new ones in is in `node_token`."""

from cyclopts import App

from nacre.cli import arguments, node_token, output
from nacre.cli.options import ChangedLabels, Filters, Labels, NodeName, Sort, Yes
from nacre.cli.output import Column, age, moment, pairs
from nacre.cli.session import Here
from nacre.cli.verbs import confirm, finish, on_each
from nacre.model.units import format_size
from nacre.schema.nodes import NodeOut, NodeUpdate


def _with_tokens() -> App:
    made = App(name="node", help="Nodes that run machines.")
    made.command(node_token.app)
    return made


app = _with_tokens()

COLUMNS: list[Column[NodeOut]] = [
    Column("NAME", lambda node: node.name),
    Column("STATE", lambda node: node.state.value),
    Column("VMS", lambda node: str(node.vms)),
    Column("CPUS", lambda node: f"{node.reserved_cpus}/{node.capacity.cpus}" if node.capacity else "-"),
    Column("MEMORY", lambda node: _memory(node)),  # noqa: PLW0108  # defined below
    Column("HYPERVISORS", lambda node: ", ".join(h.name for h in node.hypervisors if h.available) or "-"),
    Column("SEEN", lambda node: age(node.last_seen_at)),
    Column("CONDITIONS", lambda node: ", ".join(c.kind.value for c in node.conditions) or "-"),
]


@app.command(name="list")
async def list_(*, label: Labels = (), filter_: Filters = (), sort: Sort = None, session: Here) -> None:
    """List nodes."""
    from nacre.client.collection import Query

    query = Query(labels=arguments.labels(label), filters=arguments.filters(filter_), sort=sort)
    async with session.client() as nacre:
        found = await nacre.nodes.all(query)
    output.items(session, found, COLUMNS, empty="no nodes yet: nacre node token create says how one joins")


@app.command
async def show(*names: NodeName, session: Here) -> None:
    """Show everything about nodes."""
    wanted = arguments.refs(names, "node")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, nacre.nodes.show)
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def update(name: NodeName, /, *, label: ChangedLabels = (), session: Here) -> None:
    """Change the labels of a node."""
    ref = arguments.ref(name, "node")
    async with session.client() as nacre:
        current = await nacre.nodes.show(ref)
        changes = NodeUpdate(labels=arguments.changed_labels(current.labels, label) if label else None)
        arguments.check_changes(changes)
        changed = await nacre.nodes.update(ref, changes, if_match=current.etag)
    output.outcome(session, [changed], lambda node: f"{node.name}: changed")


@app.command
async def cordon(*names: NodeName, session: Here) -> None:
    """Give nodes nothing new; they keep what they run."""
    wanted = arguments.refs(names, "node")
    async with session.client() as nacre:
        done, failure = await on_each(wanted, nacre.nodes.cordon)
    if done:
        output.outcome(session, done, _state)
    finish(failure)


@app.command
async def uncordon(*names: NodeName, session: Here) -> None:
    """Let nodes take new machines again."""
    wanted = arguments.refs(names, "node")
    async with session.client() as nacre:
        done, failure = await on_each(wanted, nacre.nodes.uncordon)
    if done:
        output.outcome(session, done, _state)
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
async def delete(*names: NodeName, yes: Yes = False, session: Here) -> None:
    """Forget nodes that have no machines. Their certificates are worth nothing from then on."""
    wanted = arguments.refs(names, "node")
    confirm(session, f"forget {', '.join(wanted)}?", yes=yes)
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.nodes.delete(ref)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: forgotten")
    finish(failure)


def facts(node: NodeOut) -> list[tuple[str, str]]:
    """Return everything about a node."""
    hypervisors = [
        f"{h.name} {h.version} {h.accelerator}".strip() + (f" ({h.reason})" if h.reason else "")
        if h.available
        else f"{h.name}: not available ({h.reason})"
        for h in node.hypervisors
    ]
    return [
        ("name", node.name),
        ("id", node.id),
        ("state", node.state.value),
        ("conditions", "\n".join(f"{c.kind}: {c.message} ({c.hint})" for c in node.conditions)),
        ("labels", pairs(node.labels)),
        ("place", "/".join(part for part in (node.region, node.zone) if part)),
        ("host", f"{node.hostname}, {node.os}, {node.kernel}, {node.architecture}"),
        ("agent", node.agent_version),
        ("hypervisors", "\n".join(hypervisors)),
        ("machines", str(node.vms)),
        ("cpus", f"{node.reserved_cpus} given out of {node.capacity.cpus}" if node.capacity else ""),
        ("memory", f"{_memory(node)} given out" if node.capacity else ""),
        ("disk", f"{format_size(node.capacity.disk_bytes)}" if node.capacity else ""),
        ("load", f"{node.usage.load1:.2f}" if node.usage else ""),
        ("seen", f"{age(node.last_seen_at)} ago" if node.last_seen_at else "never"),
        ("certificate until", moment(node.certificate_expires_at)),
        ("created", moment(node.created_at)),
    ]


def _memory(node: NodeOut) -> str:
    if node.capacity is None:
        return "-"
    return f"{format_size(node.reserved_memory_bytes)}/{format_size(node.capacity.memory_bytes)}"


def _state(node: NodeOut) -> str:
    return f"{node.name}: {node.state}"
