"""`nacre instance-type …`: named sizes of machines."""

from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from nacre.cli import arguments, configuring, output
from nacre.cli.configuring import UNSIZED, Clear, Sized
from nacre.cli.options import (
    AllProjects,
    ChangedLabels,
    Filters,
    InstanceTypeName,
    Labels,
    Limit,
    Sort,
    Yes,
)
from nacre.cli.output import Column, age, moment, pairs
from nacre.cli.session import Here
from nacre.cli.verbs import confirm, finish, on_each
from nacre.model.units import format_size
from nacre.schema.instance_types import InstanceTypeCreate, InstanceTypeOut, InstanceTypeUpdate
from nacre.schema.vms import VmConfig

app = App(name="instance-type", help="Instance types, which are named sizes of machines.")

_COUNTED = {"cpus", "memory_bytes"}

COLUMNS: list[Column[InstanceTypeOut]] = [
    Column("NAME", lambda found: found.name),
    Column("OF", lambda found: found.project.name if found.project else "the platform"),
    Column("CPUS", lambda found: "-" if found.config.cpus is None else str(found.config.cpus)),
    Column(
        "MEMORY", lambda found: "-" if found.config.memory_bytes is None else format_size(found.config.memory_bytes)
    ),
    Column("BESIDES", lambda found: ", ".join(_besides(found.config))),
    Column("REVISION", lambda found: str(found.revision)),
    Column("MACHINES", lambda found: str(found.vms)),
    Column("AGE", lambda found: age(found.created_at)),
    Column("DESCRIPTION", lambda found: found.description),
]


@app.command
async def create(
    name: Annotated[str, Parameter(help="Name of the new instance type, unique in its project or on the platform.")],
    /,
    *,
    sized: Sized = UNSIZED,
    platform: Annotated[
        bool, Parameter(negative=(), help="For every project, instead of one; needs a role on the platform.")
    ] = False,
    description: Annotated[str, Parameter(help="What it is for.")] = "",
    label: Labels = (),
    session: Here,
) -> None:
    """Create an instance type."""
    body = InstanceTypeCreate(
        name=arguments.new_name(name),
        config=configuring.config(sized),
        description=description,
        labels=arguments.labels(label),
        project=None if platform else session.project,
    )
    async with session.client() as nacre:
        made = await nacre.instance_types.create(body)
    output.outcome(session, [made], lambda found: f"{found.name}: created ({found.id})")


@app.command(name="list")
async def list_(
    *,
    label: Labels = (),
    filter_: Filters = (),
    sort: Sort = None,
    limit: Limit = None,
    all_projects: AllProjects = False,
    session: Here,
) -> None:
    """List instance types of the project, and those of the platform."""
    from nacre.client.collection import ALL_PROJECTS, Query

    query = Query(
        project=ALL_PROJECTS if all_projects else session.project,
        labels=arguments.labels(label),
        filters=arguments.filters(filter_),
        sort=sort,
        limit=arguments.limit(limit),
    )
    async with session.client() as nacre:
        found = await nacre.instance_types.all(query)
    output.items(
        session,
        found,
        COLUMNS,
        empty="no instance types here: nacre instance-type create makes one",
        narrowed=query.narrowed,
    )


@app.command
async def show(*names: InstanceTypeName, session: Here) -> None:
    """Show what instance types give."""
    wanted = arguments.refs(names, "instance-type")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, lambda ref: nacre.instance_types.show(ref, project=session.project))
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def update(
    name: InstanceTypeName,
    /,
    *,
    sized: Sized = UNSIZED,
    clear: Clear = (),
    description: Annotated[str | None, Parameter(help="What it is for.")] = None,
    label: ChangedLabels = (),
    session: Here,
) -> None:
    """Change an instance type, which makes a revision. Machines that exist stay as they are."""
    ref, config = arguments.ref(name, "instance-type"), configuring.config(sized)
    changes = InstanceTypeUpdate(config=None if config == VmConfig() else config, clear=clear, description=description)
    if changes == InstanceTypeUpdate() and not label:
        arguments.nothing_to_change()
    async with session.client() as nacre:
        current = await nacre.instance_types.show(ref, project=session.project)
        if label:
            changes = msgspec.structs.replace(changes, labels=arguments.changed_labels(current.labels, label))
        changed = await nacre.instance_types.update(current.id, changes, if_match=current.etag)
    output.outcome(session, [changed], lambda found: f"{found.name}: revision {found.revision}")


@app.command
async def delete(*names: InstanceTypeName, yes: Yes = False, session: Here) -> None:
    """Delete instance types. Machines that were made from them stay as they are."""
    wanted = arguments.refs(names, "instance-type")
    confirm(session, f"delete {', '.join(wanted)}, for good?", yes=yes)
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.instance_types.delete(ref, project=session.project)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: deleted")
    finish(failure)


def facts(found: InstanceTypeOut) -> list[tuple[str, str]]:
    """Return everything about an instance type."""
    return [
        ("name", found.name),
        ("id", found.id),
        ("of", found.project.name if found.project else "the platform"),
        ("description", found.description),
        ("labels", pairs(found.labels)),
        ("revision", str(found.revision)),
        ("gives", "\n".join(f"{name}: {text}" for name, text in configuring.lines(found.config))),
        ("machines", str(found.vms)),
        ("created", f"{moment(found.created_at)} by {found.created_by}"),
        ("changed", moment(found.updated_at)),
    ]


def _besides(config: VmConfig) -> list[str]:
    return [f"{name}={text}" for name, text in configuring.lines(config) if name not in _COUNTED]
