"""`nacre project …`: what owns machines and images."""

from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.options import ChangedLabels, Filters, Labels, ProjectName, Sort, Yes
from nacre.cli.output import Column, age, moment, pairs
from nacre.cli.session import Here
from nacre.cli.verbs import confirm, finish, on_each
from nacre.schema.access import ProjectCreate, ProjectOut, ProjectUpdate

app = App(name="project", help="Projects, which own machines and images.")

COLUMNS: list[Column[ProjectOut]] = [
    Column("NAME", lambda project: project.name),
    Column("DESCRIPTION", lambda project: project.description),
    Column("LABELS", lambda project: pairs(project.labels)),
    Column("AGE", lambda project: age(project.created_at)),
]

Description = Annotated[str, Parameter(help="What it is for.")]


@app.command
async def create(
    name: Annotated[str, Parameter(help="Name of the new project.")],
    /,
    *,
    description: Description = "",
    label: Labels = (),
    session: Here,
) -> None:
    """Create a project and become its admin."""
    body = ProjectCreate(name=arguments.new_name(name), description=description, labels=arguments.labels(label))
    async with session.client() as nacre:
        made = await nacre.projects.create(body)
    output.outcome(session, [made], lambda project: f"{project.name}: created ({project.id})")


@app.command(name="list")
async def list_(*, label: Labels = (), filter_: Filters = (), sort: Sort = None, session: Here) -> None:
    """List the projects that you may see."""
    from nacre.client.collection import Query

    query = Query(labels=arguments.labels(label), filters=arguments.filters(filter_), sort=sort)
    async with session.client() as nacre:
        found = await nacre.projects.all(query)
    output.items(session, found, COLUMNS, empty="no projects that you may see", narrowed=query.narrowed)


@app.command
async def show(*names: ProjectName, session: Here) -> None:
    """Show projects."""
    wanted = arguments.refs(names, "project")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, nacre.projects.show)
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def update(
    name: ProjectName,
    /,
    *,
    description: Annotated[str | None, Parameter(help="What it is for.")] = None,
    label: ChangedLabels = (),
    session: Here,
) -> None:
    """Change a project."""
    ref = arguments.ref(name, "project")
    async with session.client() as nacre:
        current = await nacre.projects.show(ref)
        labels = arguments.changed_labels(current.labels, label) if label else None
        changes = ProjectUpdate(description=description, labels=labels)
        arguments.check_changes(changes)
        changed = await nacre.projects.update(ref, changes, if_match=current.etag)
    output.outcome(session, [changed], lambda project: f"{project.name}: changed")


@app.command
async def delete(*names: ProjectName, yes: Yes = False, session: Here) -> None:
    """Delete empty projects."""
    wanted = arguments.refs(names, "project")
    confirm(session, f"delete {', '.join(wanted)}?", yes=yes)
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.projects.delete(ref)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: deleted")
    finish(failure)


def facts(project: ProjectOut) -> list[tuple[str, str]]:
    """Return everything about a project."""
    return [
        ("name", project.name),
        ("id", project.id),
        ("description", project.description),
        ("labels", pairs(project.labels)),
        ("created", moment(project.created_at)),
        ("changed", moment(project.updated_at)),
    ]
