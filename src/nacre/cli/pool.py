"""`nacre pool …`: where volumes are."""

from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.options import Filters, PoolName, Sort, Yes
from nacre.cli.output import Column, age, moment
from nacre.cli.session import Here
from nacre.cli.verbs import confirm, finish, on_each
from nacre.errors import InvalidInputError
from nacre.model.ceph import key_in
from nacre.model.units import format_size
from nacre.model.volumes import FormatCapabilities, PoolKind
from nacre.schema.volumes import CephBody, PoolCreate, PoolOnNode, PoolOut, PoolUpdate

app = App(name="pool", help="Pools of storage, in which volumes are.")

COLUMNS: list[Column[PoolOut]] = [
    Column("NAME", lambda pool: pool.name),
    Column("KIND", lambda pool: pool.kind.value),
    Column("SHARED", lambda pool: "yes" if pool.shared else "no"),
    Column("PATH", lambda pool: pool.path or "(the agent's folder)"),
    Column("NODES", lambda pool: str(sum(one.available for one in pool.nodes))),
    Column("VOLUMES", lambda pool: str(pool.volumes)),
    Column("PROMISED", lambda pool: format_size(pool.promised_bytes)),
    Column("AGE", lambda pool: "-" if not pool.path else age(pool.created_at)),
]


@app.command
async def create(
    name: Annotated[str, Parameter(help="Name of the new pool.")],
    path: Annotated[
        str, Parameter(help="Absolute path of its folder on the nodes, or what the Ceph cluster calls the pool.")
    ],
    /,
    *,
    kind: Annotated[PoolKind, Parameter(help="What it is made of.")] = PoolKind.DIRECTORY,
    shared: Annotated[
        bool, Parameter(negative=(), help="All of its nodes see the same folder, such as a mounted NFS.")
    ] = False,
    node: Annotated[
        tuple[str, ...],
        Parameter(name="--node", negative=(), help="Name or id of a node that has it. Repeatable; none means all."),
    ] = (),
    monitor: Annotated[
        tuple[str, ...],
        Parameter(name="--monitor", negative=(), help="Address of a monitor of the Ceph cluster. Repeatable."),
    ] = (),
    user: Annotated[str, Parameter(help="The user in the Ceph cluster, without `client.` before it.")] = "nacre",
    key_file: Annotated[
        str | None, Parameter(help="File with that user's key, such as its keyring; - for stdin.")
    ] = None,
    session: Here,
) -> None:
    """Create a pool. Nodes must allow its folder in `pool_roots` of their agents; a pool in Ceph needs no more."""
    ceph = _cluster(monitor, user, key_file) if kind is PoolKind.CEPH or monitor or key_file else None
    body = PoolCreate(name=arguments.new_name(name), kind=kind, path=path, shared=shared, nodes=node, ceph=ceph)
    async with session.client() as nacre:
        made = await nacre.pools.create(body)
    output.outcome(session, [made], lambda pool: f"{pool.name}: created ({pool.id})")


@app.command(name="list")
async def list_(*, filter_: Filters = (), sort: Sort = None, session: Here) -> None:
    """List pools."""
    from nacre.client.collection import Query

    query = Query(filters=arguments.filters(filter_), sort=sort)
    async with session.client() as nacre:
        found = await nacre.pools.all(query)
    output.items(session, found, COLUMNS, empty="no pools", narrowed=query.narrowed)


@app.command
async def show(*names: PoolName, session: Here) -> None:
    """Show pools, and what each of their nodes says of them."""
    wanted = arguments.refs(names, "pool")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, nacre.pools.show)
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def update(
    name: PoolName,
    /,
    *,
    add_node: Annotated[
        tuple[str, ...], Parameter(name="--add-node", negative=(), help="A node that has it as well. Repeatable.")
    ] = (),
    remove_node: Annotated[
        tuple[str, ...],
        Parameter(name="--remove-node", negative=(), help="A node that does not have it any more. Repeatable."),
    ] = (),
    node: Annotated[
        tuple[str, ...],
        Parameter(name="--node", negative=(), help="A node that has it, instead of those so far. Repeatable."),
    ] = (),
    all_nodes: Annotated[bool, Parameter(negative=(), help="All nodes that there are and will be have it.")] = False,
    session: Here,
) -> None:
    """Change which nodes have a pool. A node whose volumes would be out of reach keeps it."""
    if sum((bool(add_node or remove_node), bool(node), all_nodes)) != 1:
        raise InvalidInputError(
            "nodes_not_clear",
            "it is not clear which nodes are to have the pool",
            hint="give --add-node and --remove-node, or --node for all that have it, or --all-nodes",
            field="node",
        )
    body = PoolUpdate(nodes=node if node or all_nodes else None, add=add_node, remove=remove_node)
    async with session.client() as nacre:
        changed = await nacre.pools.update(name, body)
    output.outcome(session, [changed], lambda pool: f"{pool.name}: {_members(pool)}")


@app.command
async def delete(*names: PoolName, yes: Yes = False, session: Here) -> None:
    """Forget pools without volumes. Their folders, and what is in their clusters, stay."""
    wanted = arguments.refs(names, "pool")
    confirm(session, f"delete {', '.join(wanted)}?", yes=yes)
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.pools.delete(ref)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: deleted")
    finish(failure)


def facts(pool: PoolOut) -> list[tuple[str, str]]:
    """Return everything about a pool."""
    return [
        ("name", pool.name),
        ("id", pool.id),
        ("kind", pool.kind.value),
        ("path", pool.path or "the agent's own folder on each node"),
        ("shared", "yes" if pool.shared else "no"),
        ("cluster", "" if pool.ceph is None else f"{', '.join(pool.ceph.monitors)} as {pool.ceph.user}"),
        ("volumes", f"{pool.volumes}, {format_size(pool.promised_bytes)} in all"),
        ("members", _members(pool)),
        ("nodes", "\n".join(_on(one) for one in pool.nodes)),
        ("changed", moment(pool.updated_at) if pool.path else ""),
    ]


def _cluster(monitors: tuple[str, ...], user: str, key_file: str | None) -> CephBody:
    if not monitors or key_file is None:
        raise InvalidInputError(
            "ceph_needed",
            "a pool in Ceph needs a monitor of the cluster and the key of a user there",
            hint="give --kind ceph with --monitor and --key-file; `ceph auth get client.NAME` prints the key",
            field="monitor" if not monitors else "key-file",
        )
    return CephBody(monitors=monitors, user=user, key=key_in(arguments.text_of(key_file, "key-file")))


def _members(pool: PoolOut) -> str:
    """Which nodes should have it."""
    if pool.members is None:
        return "all nodes"
    return ", ".join(one.name for one in pool.members) or "no node"


def _on(one: PoolOnNode) -> str:
    if not one.available:
        return f"{one.node.name}: not available: {one.reason}; {one.hint}"
    can = one.capabilities
    words = [
        ("snapshots", can.snapshots),
        ("live snapshots", can.live_snapshots),
        ("live grow", can.live_grow),
        ("reflink", can.reflink),
        ("encryption", can.encryption),
    ]
    said = ", ".join(word if has else f"no {word}" for word, has in words)
    used = f"{format_size(one.used_bytes)} of {format_size(one.capacity_bytes)} used"
    about = f"{one.node.name}: {used}; clones by {can.clone}; {said}"
    return "\n".join([about, *(_about(one.node.name, form) for form in can.formats)])


def _about(node: str, can: FormatCapabilities) -> str:
    live = "live snapshots" if can.live_snapshots else "no live snapshots"
    note = f" ({can.live_note})" if can.live_note else ""
    return f"{node}, {can.format}: clones by {can.clone}, snapshots by {can.snapshot}, {live}{note}"
