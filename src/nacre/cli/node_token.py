"""`nacre node token …`: letting new nodes in."""

from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.output import Column, moment
from nacre.cli.session import Here
from nacre.cli.verbs import finish, on_each
from nacre.errors import InvalidInputError
from nacre.schema.nodes import NodeTokenCreate, NodeTokenCreated, NodeTokenOut

app = App(name="token", help="Tokens that let new nodes join, each as often as it says.")

_MOST_USES = 10_000

COLUMNS: list[Column[NodeTokenOut]] = [
    Column("ID", lambda known: known.id),
    Column("NODE", lambda known: known.node_name or "any"),
    Column("BY", lambda known: known.created_by),
    Column("EXPIRES", lambda known: moment(known.expires_at)),
    Column("USED", lambda known: f"{known.used}/{known.uses}"),
    Column("LAST", lambda known: f"{moment(known.used_at)} by {known.used_by}" if known.used_at else "-"),
]


@app.command(name="create")
async def create(
    *,
    node_name: Annotated[
        str | None, Parameter(name=["--node", "--name"], help="Only a node of this name may join with it.")
    ] = None,
    ttl: Annotated[str, Parameter(help="How long it is good for.")] = "24h",
    region: Annotated[str, Parameter(help="Region of the node that joins.")] = "",
    zone: Annotated[str, Parameter(help="Zone of the node that joins.")] = "",
    uses: Annotated[int, Parameter(help="How many nodes may join with it.")] = 1,
    session: Here,
) -> None:
    """Make a token and say how a node joins with it. It is shown once."""
    body = NodeTokenCreate(
        ttl_s=arguments.lifetime(ttl, least=60, most=30 * 86400),
        node_name=None if node_name is None else arguments.new_name(node_name),
        region=region,
        zone=zone,
        uses=_uses(uses),
    )
    async with session.client() as nacre:
        made = await nacre.nodes.tokens.create(body)
    output.details(session, [made], _joining)


@app.command(name="list")
async def list_(*, session: Here) -> None:
    """List enrolment tokens, without their secrets."""
    async with session.client() as nacre:
        found = await nacre.nodes.tokens.all()
    output.items(session, found, COLUMNS, empty="no enrolment tokens")


@app.command(name=["revoke", "delete"])
async def revoke(*ids: Annotated[str, Parameter(help="Id of an enrolment token.")], session: Here) -> None:
    """Make enrolment tokens useless."""
    wanted = arguments.refs(ids, "token")
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.nodes.tokens.revoke(ref)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: revoked")
    finish(failure)


def _uses(number: int) -> int:
    if not 1 <= number <= _MOST_USES:
        raise InvalidInputError(
            "invalid_uses",
            f"a token is for 1 to {_MOST_USES} nodes, not {number}",
            hint="make several tokens for more",
            field="uses",
        )
    return number


def _joining(made: NodeTokenCreated) -> list[tuple[str, str]]:
    return [
        ("id", made.token.id),
        ("good until", moment(made.token.expires_at)),
        ("good for", "one node" if made.token.uses == 1 else f"{made.token.uses} nodes"),
        ("run on the node", made.command),
        ("paste there", made.join),
    ]
