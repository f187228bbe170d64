"""`nacre image …`: what machines boot from."""

from typing import Annotated, Literal

from cyclopts import App, Parameter
from msgspec.structs import replace

from nacre.cli import arguments, output, progress
from nacre.cli.image_import import Source, bring_in, plan_import
from nacre.cli.options import (
    NO_WAIT,
    UNTIL_DONE,
    AllProjects,
    ChangedLabels,
    Filters,
    ImageName,
    Labels,
    Limit,
    LongWaiting,
    Sort,
    Waiting,
    Yes,
)
from nacre.cli.output import Column, age, moment, pairs
from nacre.cli.session import Here
from nacre.cli.verbs import confirm, finish, on_each
from nacre.cli.waiting import until_done
from nacre.errors import InvalidInputError
from nacre.model.images import ImageDefaults, Visibility
from nacre.model.units import format_size
from nacre.schema.common import Accepted
from nacre.schema.images import ImageCreate, ImageOut, ImageUpdate

app = App(name="image", help="Images that machines boot from.")

DEFAULTS = {"cpus": "cpus", "memory": "memory_bytes", "disk": "disk_bytes"}
"""What an image has defaults of, and the API's names of them."""

Public = Annotated[bool, Parameter(negative=(), help="Every project may boot from it.")]
KernelArgs = Annotated[str, Parameter(help="Kernel command line.", allow_leading_hyphen=True)]
Cpus = Annotated[int | None, Parameter(help="Virtual CPUs of a machine that asks for none.")]
Memory = Annotated[str | None, Parameter(help="Memory of a machine that asks for none.")]
Disk = Annotated[str | None, Parameter(help="Root disk of a machine that asks for none.")]
Sha256 = Annotated[str | None, Parameter(help="What the SHA-256 of the disk must be.")]


@app.command(name="import")
async def import_(
    name: Annotated[str, Parameter(help="Name of the new image, unique in its project.")],
    source: Annotated[str | None, Parameter(help="Disk image: a file here, or a URL that the server fetches.")] = None,
    /,
    *,
    path: Annotated[str | None, Parameter(help="Disk image: a path on the server, under a folder it allows.")] = None,
    kernel: Annotated[str | None, Parameter(help="Kernel: a file here, or a URL.")] = None,
    initrd: Annotated[str | None, Parameter(help="Initial ramdisk: a file here, or a URL.")] = None,
    iso: Annotated[
        str | None, Parameter(help="Medium to start from, such as an installer: a file here, or a URL.")
    ] = None,
    kernel_args: KernelArgs = "",
    sha256: Sha256 = None,
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    public: Public = False,
    label: Labels = (),
    waiting: LongWaiting = UNTIL_DONE,
    session: Here,
) -> None:
    """Bring in an image from files, URLs or paths. An upload that broke off goes on when it is repeated."""
    sources = plan_import(
        Source(disk=source, disk_path=path, disk_sha256=sha256, kernel=kernel, initrd=initrd, iso=iso)
    )
    body = ImageCreate(
        name=arguments.new_name(name),
        artifacts=tuple(found.artifact for found in sources),
        project=session.project,
        labels=arguments.labels(label),
        visibility=Visibility.PUBLIC if public else Visibility.PRIVATE,
        kernel_args=kernel_args,
        defaults=_defaults(cpus, memory, disk),
    )
    made = await bring_in(session, body, sources, arguments.duration(waiting.timeout, "timeout"), wait=waiting.wait)
    output.outcome(session, [made], _imported)


@app.command
async def create(
    name: Annotated[str, Parameter(help="Name of the new image, unique in its project.")],
    /,
    *,
    from_checkpoint: Annotated[
        str, Parameter(help="Checkpoint whose root disk it gets: machine/checkpoint, or an id.")
    ],
    kernel_args: KernelArgs = "",
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    public: Public = False,
    label: Labels = (),
    waiting: LongWaiting = UNTIL_DONE,
    session: Here,
) -> None:
    """Make an image of a machine's root disk as a checkpoint keeps it. Machines from it are others, not the same."""
    body = ImageCreate(
        name=arguments.new_name(name),
        checkpoint=from_checkpoint,
        project=session.project,
        labels=arguments.labels(label),
        visibility=Visibility.PUBLIC if public else Visibility.PRIVATE,
        kernel_args=kernel_args,
        defaults=_defaults(cpus, memory, disk),
    )
    made = await bring_in(session, body, [], arguments.duration(waiting.timeout, "timeout"), wait=waiting.wait)
    output.outcome(session, [made], _imported)


@app.command
async def build(
    recipe: Annotated[Literal["tiny"], Parameter(help="What to build.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="Name of the image; otherwise the recipe's.")] = None,
    public: Public = False,
    timeout: Annotated[str, Parameter(help="How long to wait until the image is ready.")] = "10m",
    session: Here,
) -> None:
    """Build an image on this machine from its distribution's packages, and import it."""
    from nacre.cli.image_build import build_tiny

    made = await build_tiny(
        session, arguments.new_name(name or recipe), public=public, timeout_s=arguments.duration(timeout, "timeout")
    )
    output.outcome(session, [made], _imported)


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
    """List images."""
    from nacre.client.collection import ALL_PROJECTS, Query

    query = Query(
        project=ALL_PROJECTS if all_projects else session.project,
        labels=arguments.labels(label),
        filters=arguments.filters(filter_),
        sort=sort,
        limit=arguments.limit(limit),
    )
    async with session.client() as nacre:
        found = await nacre.images.all(query)
    output.items(
        session, found, COLUMNS, empty="no images here: nacre image build tiny makes one", narrowed=query.narrowed
    )


@app.command
async def show(*names: ImageName, session: Here) -> None:
    """Show everything about images."""
    wanted = arguments.refs(names, "image")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, lambda ref: nacre.images.show(ref, project=session.project))
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def update(
    name: ImageName,
    /,
    *,
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    clear: Annotated[
        tuple[Literal["cpus", "memory", "disk"], ...],
        Parameter(negative=(), help="Default that is no longer given. Repeatable."),
    ] = (),
    public: Annotated[
        bool | None, Parameter(negative="--private", help="Every project may boot from it, or no other.")
    ] = None,
    label: ChangedLabels = (),
    session: Here,
) -> None:
    """Change an image's labels, who may use it, and what machines get that ask for nothing else."""
    ref, given = arguments.ref(name, "image"), _given(cpus, memory, disk)
    both = sorted(given.keys() & {DEFAULTS[one] for one in clear})
    if both:
        raise InvalidInputError(
            "default_given_and_cleared", f"{both[0]} is given and cleared", hint="leave one of the two out"
        )
    visibility = None if public is None else Visibility.PUBLIC if public else Visibility.PRIVATE
    if not given and not clear and not label and visibility is None:
        arguments.nothing_to_change()
    async with session.client() as nacre:
        current = await nacre.images.show(ref, project=session.project)
        defaults = replace(current.defaults, **{DEFAULTS[one]: None for one in clear}, **given)
        changes = ImageUpdate(
            labels=arguments.changed_labels(current.labels, label) if label else None,
            visibility=visibility,
            defaults=defaults if given or clear else None,
        )
        changed = await nacre.images.update(current.id, changes, if_match=current.etag)
    output.outcome(session, [changed], lambda image: f"{image.name}: changed")


@app.command
async def delete(*names: ImageName, yes: Yes = False, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Delete images that no machine uses."""
    wanted = arguments.refs(names, "image")
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    confirm(session, f"delete {', '.join(wanted)}, for good?", yes=yes)
    async with session.client() as nacre:
        with progress.spinner(f"delete {', '.join(wanted)}") as say:

            async def one(ref: str) -> Accepted[ImageOut]:
                accepted = await nacre.images.delete(ref, project=session.project)
                if waiting.wait:
                    await until_done(nacre, accepted.operation, timeout_s, say)
                return accepted

            done, failure = await on_each(wanted, one)
    if done:
        word = "deleted" if waiting.wait else "being deleted"
        output.outcome(session, done, lambda accepted: f"{accepted.resource.name}: {word}")
    finish(failure)


def facts(image: ImageOut) -> list[tuple[str, str]]:
    """Return everything about an image."""
    artifacts = [f"{a.role}: {a.format}, {format_size(a.size_bytes)}, sha256 {a.sha256}" for a in image.artifacts]
    defaults = image.defaults
    wanted = {
        "cpus": str(defaults.cpus) if defaults.cpus is not None else "",
        "memory": format_size(defaults.memory_bytes) if defaults.memory_bytes is not None else "",
        "disk": format_size(defaults.disk_bytes) if defaults.disk_bytes is not None else "",
    }
    return [
        ("name", image.name),
        ("id", image.id),
        ("project", image.project.name),
        ("labels", pairs(image.labels)),
        ("state", image.state.value),
        ("arrived", _arrived(image)),
        ("problem", f"{image.error} ({image.error_code})" if image.error else ""),
        ("hint", image.hint),
        ("visibility", image.visibility.value),
        ("artifacts", "\n".join(artifacts)),
        ("made from", f"{image.captured.vm_name}/{image.captured.checkpoint_name}" if image.captured else ""),
        ("kernel args", image.kernel_args),
        ("defaults", ", ".join(f"{key} {text}" for key, text in wanted.items() if text)),
        ("machines", str(image.vms)),
        ("created", moment(image.created_at)),
        ("changed", moment(image.updated_at)),
    ]


def _given(cpus: int | None, memory: str | None, disk: str | None) -> dict[str, int]:
    """The defaults that options name."""
    found = (arguments.cpus(cpus), arguments.memory(memory), arguments.disk(disk))
    return {field: value for field, value in zip(DEFAULTS.values(), found, strict=True) if value is not None}


def _defaults(cpus: int | None, memory: str | None, disk: str | None) -> ImageDefaults:
    return ImageDefaults(**_given(cpus, memory, disk))


def _size(image: ImageOut) -> str:
    return format_size(sum(a.size_bytes for a in image.artifacts)) if image.artifacts else "-"


def _arrived(image: ImageOut) -> str:
    parts = [
        f"{p.role} {format_size(p.received_bytes)}"
        + (f" of {format_size(p.total_bytes)}" if p.total_bytes is not None else "")
        for p in image.progress
    ]
    return "" if image.state == "ready" else ", ".join(parts)


def _imported(image: ImageOut) -> str:
    return f"{image.name}: {image.state} ({_size(image)})" if image.artifacts else f"{image.name}: {image.state}"


COLUMNS: list[Column[ImageOut]] = [
    Column("NAME", lambda image: image.name),
    Column("PROJECT", lambda image: image.project.name),
    Column("STATE", lambda image: image.state.value),
    Column("SIZE", _size),
    Column("VISIBILITY", lambda image: image.visibility.value),
    Column("VMS", lambda image: str(image.vms)),
    Column("AGE", lambda image: age(image.created_at)),
    Column("NOTE", lambda image: image.error or _arrived(image)),
]
