"""`nacre template …`: configurations that machines are made from."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from nacre.cli import arguments, configuring, output, preview_views
from nacre.cli.configuring import UNSIZED, Clear, Sized
from nacre.cli.options import (
    AllProjects,
    ChangedLabels,
    Filters,
    InstanceTypeName,
    Labels,
    Limit,
    Sort,
    TemplateName,
    Yes,
)
from nacre.cli.options import ImageName as Image
from nacre.cli.output import Column, age, moment, pairs
from nacre.cli.session import Here
from nacre.cli.verbs import confirm, finish, on_each
from nacre.errors import InvalidInputError
from nacre.model.images import Visibility
from nacre.model.units import format_size
from nacre.schema.templates import RevisionOut, TemplateCreate, TemplateOut, TemplateUpdate
from nacre.schema.vms import VmConfig

app = App(name="template", help="Templates, which machines are made from.")

Public = Annotated[bool | None, Parameter(negative="--private", help="Every project may use it, or no other.")]
VmLabels = Annotated[tuple[str, ...], Parameter(negative=(), help="Label key=value of its machines. Repeatable.")]
Publish = Annotated[
    tuple[str, ...],
    Parameter(negative=(), help="Lead a port of the node to the guest: [ADDRESS:]HOST:GUEST[/udp]. Repeatable."),
]

COLUMNS: list[Column[TemplateOut]] = [
    Column("NAME", lambda template: template.name),
    Column("PROJECT", lambda template: template.project.name),
    Column("REVISION", lambda template: str(template.revision)),
    Column("IMAGE", lambda template: template.image.name if template.image else "-"),
    Column("CPUS", lambda template: _count(template.config.cpus)),
    Column("MEMORY", lambda template: _size(template.config.memory_bytes)),
    Column("VISIBILITY", lambda template: template.visibility.value),
    Column("MACHINES", lambda template: str(template.vms)),
    Column("AGE", lambda template: age(template.created_at)),
    Column("DESCRIPTION", lambda template: template.description),
]
REVISIONS: list[Column[RevisionOut]] = [
    Column("REVISION", lambda revision: str(revision.revision)),
    Column("BY", lambda revision: revision.created_by),
    Column("AGE", lambda revision: age(revision.created_at)),
    Column("GIVES", lambda revision: ", ".join(f"{name}={text}" for name, text in configuring.lines(revision.config))),
]


@app.command
async def create(
    name: Annotated[str, Parameter(help="Name of the new template, unique in its project.")],
    /,
    *,
    from_vm: Annotated[
        str | None, Parameter(help="Machine whose configuration is taken over; what is on its disks is not.")
    ] = None,
    image: Image | None = None,
    sized: Sized = UNSIZED,
    publish: Publish = (),
    vm_label: VmLabels = (),
    description: Annotated[str, Parameter(help="What it is for.")] = "",
    label: Labels = (),
    public: Public = None,
    session: Here,
) -> None:
    """Create a template from parts of a configuration, from that of a machine, or from both."""
    body = TemplateCreate(
        name=arguments.new_name(name),
        from_vm=None if from_vm is None else arguments.ref(from_vm, "vm"),
        config=_config(sized, image, publish, vm_label),
        description=description,
        labels=arguments.labels(label),
        visibility=Visibility.PUBLIC if public else Visibility.PRIVATE,
        project=session.project,
    )
    async with session.client() as nacre:
        made = await nacre.templates.create(body)
    output.outcome(session, [made], lambda template: f"{template.name}: created ({template.id})")


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
    """List templates of the project, and public ones."""
    from nacre.client.collection import ALL_PROJECTS, Query

    query = Query(
        project=ALL_PROJECTS if all_projects else session.project,
        labels=arguments.labels(label),
        filters=arguments.filters(filter_),
        sort=sort,
        limit=arguments.limit(limit),
    )
    async with session.client() as nacre:
        found = await nacre.templates.all(query)
    output.items(
        session, found, COLUMNS, empty="no templates here: nacre template create makes one", narrowed=query.narrowed
    )


@app.command
async def show(*names: TemplateName, session: Here) -> None:
    """Show what templates give."""
    wanted = arguments.refs(names, "template")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, lambda ref: nacre.templates.show(ref, project=session.project))
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def revisions(name: TemplateName, /, *, session: Here) -> None:
    """List what a template has said, the newest first."""
    async with session.client() as nacre:
        found = await nacre.templates.revisions(arguments.ref(name, "template"), project=session.project)
    output.items(session, found, REVISIONS, empty="no revisions")


@app.command
async def preview(name: TemplateName, /, *, instance_type: InstanceTypeName | None = None, session: Here) -> None:
    """Show what a template would make, or a revision such as web@3, and where every value comes from."""
    size = None if instance_type is None else arguments.ref(instance_type, "instance-type")
    async with session.client() as nacre:
        seen = await nacre.templates.preview(arguments.revision_ref(name), instance_type=size, project=session.project)
    preview_views.show(session, seen)


@app.command
async def diff(
    name: TemplateName,
    other: Annotated[str | None, Parameter(help="Another template, or a revision such as web@3.")] = None,
    /,
    *,
    vm: Annotated[str | None, Parameter(help="A machine, compared with what the template would make now.")] = None,
    session: Here,
) -> None:
    """Show where two templates, two revisions, or a template and a machine differ."""
    if (other is None) == (vm is None):
        raise InvalidInputError(
            "nothing_to_compare", "a template is compared with one thing", hint="name another template, or give --vm"
        )
    async with session.client() as nacre:
        found = await nacre.templates.diff(
            arguments.revision_ref(name),
            other=None if other is None else arguments.revision_ref(other),
            vm=None if vm is None else arguments.ref(vm, "vm"),
            project=session.project,
        )
    preview_views.show_differences(session, found)


@app.command
async def update(
    name: TemplateName,
    /,
    *,
    image: Image | None = None,
    sized: Sized = UNSIZED,
    publish: Publish = (),
    vm_label: VmLabels = (),
    clear: Clear = (),
    description: Annotated[str | None, Parameter(help="What it is for.")] = None,
    label: ChangedLabels = (),
    public: Public = None,
    session: Here,
) -> None:
    """Change a template, which makes a revision. Machines that exist stay as they are."""
    ref, config = arguments.ref(name, "template"), _config(sized, image, publish, vm_label)
    changes = TemplateUpdate(
        config=None if config == VmConfig() else config,
        clear=clear,
        description=description,
        visibility=None if public is None else Visibility.PUBLIC if public else Visibility.PRIVATE,
    )
    if changes == TemplateUpdate() and not label:
        arguments.nothing_to_change()
    async with session.client() as nacre:
        current = await nacre.templates.show(ref, project=session.project)
        if label:
            changes = msgspec.structs.replace(changes, labels=arguments.changed_labels(current.labels, label))
        changed = await nacre.templates.update(current.id, changes, if_match=current.etag)
    output.outcome(session, [changed], lambda template: f"{template.name}: revision {template.revision}")


@app.command
async def delete(*names: TemplateName, yes: Yes = False, session: Here) -> None:
    """Delete templates with all revisions. Machines that were made from them stay."""
    wanted = arguments.refs(names, "template")
    confirm(session, f"delete {', '.join(wanted)}, for good?", yes=yes)
    async with session.client() as nacre:

        async def one(ref: str) -> str:
            await nacre.templates.delete(ref, project=session.project)
            return ref

        done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda ref: f"{ref}: deleted")
    finish(failure)


def facts(template: TemplateOut) -> Sequence[tuple[str, str]]:
    """Return everything about a template."""
    given = [(name, template.image.name if name == "image" and template.image else text)
             for name, text in configuring.lines(template.config)]  # fmt: skip
    return [
        ("name", template.name),
        ("id", template.id),
        ("project", template.project.name),
        ("description", template.description),
        ("labels", pairs(template.labels)),
        ("visibility", template.visibility.value),
        ("revision", str(template.revision)),
        ("gives", "\n".join(f"{name}: {text}" for name, text in given)),
        ("gives hidden", ", ".join(template.hidden)),
        ("machines", str(template.vms)),
        ("created", f"{moment(template.created_at)} by {template.created_by}"),
        ("changed", moment(template.updated_at)),
    ]


def _config(sized: Sized, image: str | None, publish: Sequence[str], vm_label: Sequence[str]) -> VmConfig:
    return configuring.config(
        sized,
        image=None if image is None else arguments.ref(image, "image"),
        publish=arguments.publish(publish),
        labels=arguments.labels(vm_label),
    )


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _size(size: int | None) -> str:
    return "-" if size is None else format_size(size)
