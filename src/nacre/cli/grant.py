"""`nacre grant …`: roles of users, on a project or on the whole platform."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.options import Filters, UserName
from nacre.cli.output import Column, age
from nacre.cli.session import Here
from nacre.cli.verbs import finish, on_each
from nacre.errors import InvalidInputError
from nacre.model.access import PLATFORM, Role
from nacre.schema.access import GrantCreate, GrantOut

app = App(name="grant", help="Roles of users on projects and on the platform.")

COLUMNS: list[Column[GrantOut]] = [
    Column("ID", lambda grant: grant.id),
    Column("USER", lambda grant: grant.user_name),
    Column("ROLE", lambda grant: grant.role.value),
    Column("ON", lambda grant: grant.project.name if grant.project else PLATFORM),
    Column("BY", lambda grant: grant.created_by),
    Column("AGE", lambda grant: age(grant.created_at)),
]


@app.command
async def create(
    user: UserName,
    role: Annotated[Literal["viewer", "operator", "editor", "admin"], Parameter(help="Each includes the ones before.")],
    *,
    platform: Annotated[bool, Parameter(negative=(), help="On everything, instead of on one --project.")] = False,
    session: Here,
) -> None:
    """Give a user a role: on the project that --project names, or on the --platform."""
    if platform == (session.project_option is not None):
        raise InvalidInputError(
            "where_is_the_grant",
            "a role is given on one project or on the platform",
            hint="say --project P or --platform",
        )
    project = None if session.project_option is None else arguments.ref(session.project_option, "project")
    body = GrantCreate(user=arguments.ref(user, "user"), role=Role(role), project=project)
    async with session.client() as nacre:
        made = await nacre.grants.create(body)
    output.outcome(session, [made], _sentence)


@app.command(name="list")
async def list_(*, filter_: Filters = (), session: Here) -> None:
    """List roles that are given."""
    from nacre.client.collection import Query

    query = Query(filters=arguments.filters(filter_))
    async with session.client() as nacre:
        found = await nacre.grants.all(query)
    output.items(session, found, COLUMNS, empty="no roles that you may see", narrowed=query.narrowed)


@app.command
async def delete(*ids: Annotated[str, Parameter(help="Id of a grant.")], session: Here) -> None:
    """Take roles away."""
    wanted = arguments.refs(ids, "grant")
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.grants.delete(ref)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: taken away")
    finish(failure)


def _sentence(grant: GrantOut) -> str:
    return f"{grant.user_name}: {grant.role} on {grant.project.name if grant.project else PLATFORM} ({grant.id})"
