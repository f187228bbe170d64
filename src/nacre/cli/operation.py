"""`nacre operation …`: changes that were accepted, and how they stand."""

from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output, progress
from nacre.cli.options import Filters, Limit, OperationName
from nacre.cli.output import Column, age, moment
from nacre.cli.session import Here
from nacre.cli.verbs import finish, on_each
from nacre.cli.waiting import until_done
from nacre.schema.common import OperationOut

app = App(name="operation", help="Changes that are under way.")

COLUMNS: list[Column[OperationOut]] = [
    Column("ID", lambda operation: operation.id),
    Column("TYPE", lambda operation: operation.type),
    Column("OBJECT", lambda operation: operation.object_name),
    Column("STATE", lambda operation: operation.state.value),
    Column("PROGRESS", lambda operation: "-" if operation.progress is None else f"{operation.progress:.0%}"),
    Column("AGE", lambda operation: age(operation.created_at)),
    Column("MESSAGE", lambda operation: operation.message),
]


@app.command(name="list")
async def list_(*, filter_: Filters = (), limit: Limit = 50, session: Here) -> None:
    """List operations, the newest first; with --project, only those in it."""
    from nacre.client.collection import Query

    query = Query(
        project=session.chosen_project,
        filters=arguments.filters(filter_),
        sort="-created_at",
        limit=arguments.limit(limit),
    )
    async with session.client() as nacre:
        found = await nacre.operations.all(query)
    output.items(session, found, COLUMNS, empty="no operations here", narrowed=query.narrowed)


@app.command
async def show(*ids: OperationName, session: Here) -> None:
    """Show how operations stand."""
    wanted = arguments.refs(ids, "operation")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, nacre.operations.show)
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def wait(
    *ids: OperationName,
    timeout: Annotated[str, Parameter(help="How long, such as 30s or 10m.")] = "5m",
    session: Here,
) -> None:
    """Stay until operations have ended. Fails if one did not succeed."""
    timeout_s = arguments.duration(timeout, "timeout")
    wanted = arguments.refs(ids, "operation")
    async with session.client() as nacre:
        with progress.spinner("waiting") as say:

            async def one(ref: str) -> OperationOut:
                operation = await nacre.operations.show(ref)
                return await until_done(nacre, operation, timeout_s, say)

            done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, sentence)
    finish(failure)


@app.command
async def cancel(*ids: OperationName, session: Here) -> None:
    """Call off operations that have not taken effect."""
    wanted = arguments.refs(ids, "operation")
    async with session.client() as nacre:
        done, failure = await on_each(wanted, nacre.operations.cancel)
    if done:
        output.outcome(session, done, sentence)
    finish(failure)


def sentence(operation: OperationOut) -> str:
    """Say how an operation stands."""
    return f"{operation.object_name}: {operation.type} {operation.state}"


def facts(operation: OperationOut) -> list[tuple[str, str]]:
    """Return everything about an operation."""
    return [
        ("id", operation.id),
        ("type", operation.type),
        ("state", operation.state.value),
        ("object", f"{operation.object_name} ({operation.object_id})"),
        ("project", operation.project.name if operation.project else ""),
        ("generation", str(operation.generation)),
        ("progress", "" if operation.progress is None else f"{operation.progress:.0%}"),
        ("message", operation.message),
        ("error", operation.error_code),
        ("hint", operation.hint),
        ("can be cancelled", "yes" if operation.cancellable else "no"),
        ("by", operation.created_by),
        ("begun", moment(operation.created_at)),
        ("changed", moment(operation.updated_at)),
        ("ended", moment(operation.finished_at)),
    ]
