"""`nacre token …`: API tokens."""

from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.exits import note
from nacre.cli.options import Filters, UserName
from nacre.cli.output import Column, age, moment
from nacre.cli.session import Here
from nacre.cli.verbs import finish, on_each
from nacre.model.access import check_action_patterns
from nacre.schema.access import TokenCreate, TokenCreated, TokenOut

app = App(name="token", help="API tokens.")

COLUMNS: list[Column[TokenOut]] = [
    Column("ID", lambda token: token.id),
    Column("NAME", lambda token: token.name),
    Column("USER", lambda token: token.user_name),
    Column("ACTIONS", lambda token: ", ".join(token.actions)),
    Column("PROJECT", lambda token: token.project.name if token.project else "any"),
    Column("EXPIRES", lambda token: moment(token.expires_at)),
    Column("USED", lambda token: age(token.last_used_at)),
    Column("REVOKED", lambda token: moment(token.revoked_at) or "-"),
]


@app.command
async def create(
    name: Annotated[str, Parameter(help="What it is for.")],
    /,
    *,
    user: Annotated[UserName | None, Parameter(help="Whose it is; otherwise your own.")] = None,
    action: Annotated[
        tuple[str, ...], Parameter(negative=(), help="What it may do: vm:*, *:view, image:create. Repeatable.")
    ] = ("*:*",),
    ttl: Annotated[str, Parameter(help="How long it is good for.")] = "90d",
    session: Here,
) -> None:
    """Make a token that can do what its owner can, or less with --action and --project. It is shown once."""
    project = session.project_option
    body = TokenCreate(
        name=arguments.new_name(name),
        user=None if user is None else arguments.ref(user, "user"),
        actions=check_action_patterns(action),
        project=None if project is None else arguments.ref(project, "project"),
        ttl_s=arguments.lifetime(ttl, least=60, most=366 * 86400),
    )
    async with session.client() as nacre:
        made = await nacre.tokens.create(body)
    output.outcome(session, [made], _secret)
    if session.output == "table":
        note(f"{made.token.id}, good until {moment(made.token.expires_at)}; this is the only time that it is shown")


@app.command(name="list")
async def list_(*, filter_: Filters = (), session: Here) -> None:
    """List tokens, without their secrets."""
    from nacre.client.collection import Query

    query = Query(filters=arguments.filters(filter_))
    async with session.client() as nacre:
        found = await nacre.tokens.all(query)
    output.items(session, found, COLUMNS, empty="no tokens", narrowed=query.narrowed)


@app.command
async def revoke(*tokens: Annotated[str, Parameter(help="Id or name of a token.")], session: Here) -> None:
    """Make tokens useless, at once and for good."""
    wanted = arguments.refs(tokens, "token")
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.tokens.revoke(ref)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: revoked")
    finish(failure)


def _secret(made: TokenCreated) -> str:
    return made.secret
