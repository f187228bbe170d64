"""`nacre event …`: what happened, and what happens."""

from collections.abc import Mapping
from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.exits import note, one_line
from nacre.cli.options import Filters, Limit
from nacre.cli.output import Column, moment
from nacre.cli.session import Here, Session
from nacre.errors import NacreError
from nacre.schema.events import EventOut

app = App(name="event", help="What happened.")

COLUMNS: list[Column[EventOut]] = [
    Column("CURSOR", lambda event: str(event.cursor)),
    Column("AT", lambda event: moment(event.at)),
    Column("TYPE", lambda event: event.type),
    Column("OBJECT", lambda event: event.object_name or event.object_id),
    Column("BY", lambda event: event.actor.name or event.actor.kind.value),
    Column("MESSAGE", lambda event: event.message),
]


@app.command(name="list")
async def list_(
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=(), help="Stay and show new ones.")] = False,
    filter_: Filters = (),
    after: Annotated[int | None, Parameter(help="Only those after this cursor, from there on.")] = None,
    limit: Limit = 100,
    session: Here,
) -> None:
    """List what happened last, the oldest first; with --project, only what happened in it.

    With --follow, stay and show what happens, each event on a line.
    """
    await show_events(session, arguments.filters(filter_), follow=follow, limit=limit, after=after)


async def show_events(
    session: Session, filters: Mapping[str, str], *, follow: bool, limit: int | None, after: int | None = None
) -> None:
    """Print the last `limit` events that match, or those `after` a cursor, then those to come if `follow`."""
    from nacre.client.collection import Query

    query = Query(project=session.chosen_project, filters=filters, limit=arguments.limit(limit))
    async with session.client() as nacre:
        found = await (nacre.events.latest(query) if after is None else nacre.events.since(after, query))
        if not follow:
            output.items(session, found, COLUMNS, empty="nothing happened here")
            return
        for event in found:
            _print(session, event)
        last = found[-1].cursor if found else after
        async for event in nacre.events.follow(query, after=last, gap=_say_gap):
            _print(session, event)


def _print(session: Session, event: EventOut) -> None:
    if session.output == "table":
        print(one_line(f"{moment(event.at)}  {event.type:<22} {event.object_name}  {event.message}"), flush=True)
    elif session.output == "json":
        print(output.line(event), flush=True)
    else:
        print("---")
        output.document(session, event)


def _say_gap(error: NacreError) -> None:
    note(f"connection lost ({one_line(error.message)}); trying again")
