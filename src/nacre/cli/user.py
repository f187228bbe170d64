"""`nacre user …`: who may use the cloud."""

from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.options import UserName, Yes
from nacre.cli.output import Column, age, moment
from nacre.cli.session import Here
from nacre.cli.verbs import confirm, finish, on_each
from nacre.schema.access import UserCreate, UserOut

app = App(name="user", help="Users.")

COLUMNS: list[Column[UserOut]] = [
    Column("NAME", lambda user: user.name),
    Column("DISPLAY NAME", lambda user: user.display_name),
    Column("ID", lambda user: user.id),
    Column("AGE", lambda user: age(user.created_at)),
]


@app.command
async def create(
    name: Annotated[str, Parameter(help="Name of the new user.")],
    /,
    *,
    display_name: Annotated[str, Parameter(help="The name that people read.")] = "",
    session: Here,
) -> None:
    """Create a user. There is no password: give a role with nacre grant and a token with nacre token."""
    body = UserCreate(name=arguments.new_name(name), display_name=display_name)
    async with session.client() as nacre:
        made = await nacre.users.create(body)
    output.outcome(session, [made], lambda user: f"{user.name}: created ({user.id})")


@app.command(name="list")
async def list_(*, session: Here) -> None:
    """List users."""
    async with session.client() as nacre:
        found = await nacre.users.all()
    output.items(session, found, COLUMNS, empty="no users that you may see")


@app.command
async def show(*names: UserName, session: Here) -> None:
    """Show users."""
    wanted = arguments.refs(names, "user")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, nacre.users.show)
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def delete(*names: UserName, yes: Yes = False, session: Here) -> None:
    """Delete users with their tokens and roles."""
    wanted = arguments.refs(names, "user")
    confirm(session, f"delete {', '.join(wanted)} with all tokens and roles?", yes=yes)
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.users.delete(ref)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: deleted")
    finish(failure)


def facts(user: UserOut) -> list[tuple[str, str]]:
    """Return everything about a user."""
    return [
        ("name", user.name),
        ("display name", user.display_name),
        ("id", user.id),
        ("created", moment(user.created_at)),
    ]
