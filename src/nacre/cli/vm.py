"""`nacre vm …`: virtual machines."""

import sys
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from nacre.cli import (
    arguments,
    checkpoint,
    cloud_init,
    explanation,
    guest,
    move,
    names,
    output,
    preview_views,
    progress,
    vm_views,
    vm_volumes,
)
from nacre.cli.cloud_init import NOTHING, Seeding
from nacre.cli.event import show_events
from nacre.cli.hardware import USUAL, Hardware, changed_hardware, with_hardware
from nacre.cli.options import (
    NO_WAIT,
    AllProjects,
    ChangedLabels,
    Filters,
    Labels,
    Limit,
    Sort,
    VmName,
    Waiting,
    Yes,
)
from nacre.cli.placing import ANYWHERE, Placing, placement
from nacre.cli.session import Here, Session
from nacre.cli.verbs import confirm, finish, on_each
from nacre.cli.vm_verbs import Verb, act_on, settle, settle_all
from nacre.errors import InvalidInputError
from nacre.model.ids import looks_like_id
from nacre.model.placement import Placement
from nacre.model.units import parse_size
from nacre.model.vms import HaPolicy, MachineType, NicSpec, RestartPolicy
from nacre.schema.vms import VmCreate, VmUpdate


def _with_moves() -> App:
    made = App(name="vm", help="Virtual machines.")
    made.command(move.move)
    made.command(move.moves)
    made.command(vm_volumes.attach)
    made.command(vm_volumes.detach)
    made.command(vm_volumes.volumes)
    made.command(guest.exec_, name="exec")
    made.command(guest.commands)
    made.command(guest.display)
    made.command(guest.metrics)
    made.command(guest.top)
    checkpoint.add_to(made)
    return made


app = _with_moves()

Cpus = Annotated[int | None, Parameter(help="Virtual CPUs.")]
Memory = Annotated[
    str | None, Parameter(help="Memory, such as 512MiB; otherwise the image's default.", allow_leading_hyphen=True)
]
Disk = Annotated[
    str | None,
    Parameter(help="Size of the root disk, such as 10GiB; otherwise the image's own.", allow_leading_hyphen=True),
]
Publish = Annotated[
    tuple[str, ...],
    Parameter(negative=(), help="Lead a port of the node to the guest: [ADDRESS:]HOST:GUEST[/udp]. Repeatable."),
]
NoPublish = Annotated[bool, Parameter(negative=(), help="Publish no port at all.")]
Restart = Literal["never", "on-failure", "always"]
StopTimeout = Annotated[str | None, Parameter(help="How long a graceful stop may take, such as 30s.")]


@app.command
async def create(
    name: Annotated[
        str, Parameter(help="Name of the new machine, unique in its project; of many, a pattern such as web-{n}.")
    ],
    /,
    *,
    image: Annotated[
        str | None, Parameter(completer=names.images, help="Name or id of an image; otherwise the template's.")
    ] = None,
    template: Annotated[
        str | None,
        Parameter(completer=names.templates, help="What it is made from: a template, or a revision such as web@3."),
    ] = None,
    from_checkpoint: Annotated[
        str | None, Parameter(completer=names.checkpoints, help="Instead of an image: MACHINE/CHECKPOINT, or its id.")
    ] = None,
    instance_type: Annotated[
        str | None,
        Parameter(completer=names.instance_types, help="Its size by name; goes before what the template says."),
    ] = None,
    count: Annotated[int, Parameter(help="So many at once: all of them or none.")] = 1,
    first_number: Annotated[int, Parameter(help="The number in the name of the first of many.")] = 1,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Only show what would be made, and where every value comes from.")
    ] = False,
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    publish: Publish = (),
    no_publish: NoPublish = False,
    label: Labels = (),
    start: Annotated[bool | None, Parameter(help="Start it at once, as by default, or leave it stopped.")] = None,
    machine: Annotated[
        Literal["q35", "pc", "microvm"] | None, Parameter(help="The board that is emulated; by default q35.")
    ] = None,
    hypervisor: Annotated[str | None, Parameter(help="What runs it; by default qemu.")] = None,
    kernel_args: Annotated[
        str | None, Parameter(help="Added to the kernel's command line.", allow_leading_hyphen=True)
    ] = None,
    restart: Annotated[
        Restart | None, Parameter(help="When a node starts it again by itself; by default on-failure.")
    ] = None,
    stop_timeout: StopTimeout = None,
    nic: Annotated[bool | None, Parameter(help="One network interface, as by default, or none.")] = None,
    hardware: Hardware = USUAL,
    placing: Placing = ANYWHERE,
    seeding: Seeding = NOTHING,
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Create a machine or many, and start them unless --no-start is given.

    What is not given comes from the instance type, then from the template, then from the image's defaults.
    """
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    placed = placement(placing)
    body = VmCreate(
        name=arguments.name_pattern(name),
        image=None if image is None else arguments.ref(image, "image"),
        template=None if template is None else arguments.revision_ref(template),
        checkpoint=from_checkpoint,
        instance_type=None if instance_type is None else arguments.ref(instance_type, "instance-type"),
        count=arguments.count(count),
        first_number=arguments.first_number(first_number),
        labels=arguments.labels(label),
        start=start,
        hypervisor=hypervisor,
        machine=None if machine is None else MachineType(machine),
        cpus=arguments.cpus(cpus),
        memory_bytes=arguments.memory(memory),
        disk_bytes=arguments.disk(disk),
        kernel_args=kernel_args,
        nics=None if nic is None else (NicSpec(),) if nic else (),
        publish=arguments.ports(publish, none=no_publish),
        restart=None if restart is None else RestartPolicy(restart),
        stop_timeout_s=None if stop_timeout is None else arguments.duration(stop_timeout, "stop-timeout"),
        placement=None if placed == Placement() else placed,
        ha=None if placing.ha is None else HaPolicy(placing.ha),
        priority=placing.checked_priority,
        preemptible=placing.preemptible,
        cloud_init=cloud_init.body(seeding),
        project=session.project,  # last: what is wrong with the words is said even to who is not logged in
    )
    if hardware.asked:
        body = with_hardware(hardware, body)
    if (body.image, body.template, body.checkpoint) == (None, None, None):
        hint = "give --image NAME, --template NAME, or --from-checkpoint MACHINE/NAME"
        raise InvalidInputError("image_missing", "no image is named", hint=hint, field="image")
    async with session.client() as nacre:
        if dry_run:
            preview_views.show(session, await nacre.vms.preview(body))
            return
        with progress.spinner(f"create {name}") as say:
            accepted = await nacre.vms.create(body)
            done, failure = await settle_all(nacre, accepted, waiting.wait, timeout_s, say)
    if done:
        output.outcome(session, done, lambda one: vm_views.outcome(one, waiting.wait))
    finish(failure)


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
    """List machines."""
    from nacre.client.collection import ALL_PROJECTS, Query

    query = Query(
        project=ALL_PROJECTS if all_projects else session.project,
        labels=arguments.labels(label),
        filters=arguments.filters(filter_),
        sort=sort,
        limit=arguments.limit(limit),
    )
    async with session.client() as nacre:
        found = await nacre.vms.all(query)
    columns = vm_views.columns(with_project=query.project == ALL_PROJECTS)
    output.items(session, found, columns, empty="no machines here", narrowed=query.narrowed)


@app.command
async def show(*names: VmName, session: Here) -> None:
    """Show everything about machines."""
    wanted = arguments.refs(names, "vm")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, lambda ref: nacre.vms.show(ref, project=session.project))
        disks = await vm_volumes.attached(nacre, found if session.output == "table" else ())
    if found:
        output.details(session, found, lambda vm: vm_views.facts(vm, disks.get(vm.id, ())))
    finish(failure)


@app.command
async def explain(name: VmName, /, *, session: Here) -> None:
    """Say why a machine is on its node, or on none yet: scores, nodes that were rejected, and what to do."""
    async with session.client() as nacre:
        told = await nacre.scheduler.explain(arguments.ref(name, "vm"), project=session.project)
    if session.output != "table":
        output.document(session, told)
    else:
        explanation.show(told)


@app.command
async def update(
    name: VmName,
    /,
    *,
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Annotated[str | None, Parameter(help="Size of the root disk, which only grows.")] = None,
    publish: Publish = (),
    no_publish: NoPublish = False,
    label: ChangedLabels = (),
    restart: Annotated[Restart | None, Parameter(help="When a node starts it again by itself.")] = None,
    stop_timeout: StopTimeout = None,
    hardware: Hardware = USUAL,
    placing: Placing = ANYWHERE,
    anywhere: Annotated[
        bool, Parameter(negative=(), help="Forget what it asked of its place before, such as zones and rules.")
    ] = False,
    seeding: Seeding = NOTHING,
    no_cloud_init: Annotated[bool, Parameter(negative=(), help="Give its cloud-init nothing any more.")] = False,
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Change a machine. What takes effect only at the next start is said; a machine that has a node stays there."""
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    changes = VmUpdate(
        cpus=arguments.cpus(cpus),
        memory_bytes=arguments.memory(memory),
        disk_bytes=arguments.disk(disk),
        publish=arguments.ports(publish, none=no_publish),
        restart=None if restart is None else RestartPolicy(restart),
        stop_timeout_s=None if stop_timeout is None else arguments.duration(stop_timeout, "stop-timeout"),
        ha=None if placing.ha is None else HaPolicy(placing.ha),
        priority=placing.checked_priority,
        preemptible=placing.preemptible,
        cloud_init=cloud_init.changed(seeding, none=no_cloud_init),
    )
    moved = anywhere or placement(placing) != Placement()
    async with session.client() as nacre:
        ref, etag = arguments.ref(name, "vm"), None
        if label or moved or hardware.asked:
            current = await nacre.vms.show(ref, project=session.project)
            etag = current.etag
            before = None if anywhere else current.spec.placement
            changes = msgspec.structs.replace(
                changes,
                labels=arguments.changed_labels(current.labels, label) if label else None,
                placement=placement(placing, before) if moved else None,
            )
            changes = changed_hardware(hardware, changes, current.spec)
        arguments.check_changes(changes)
        with progress.spinner(f"update {name}") as say:
            accepted = await nacre.vms.update(ref, changes, project=session.project, if_match=etag)
            accepted = await settle(nacre, accepted, waiting.wait, timeout_s, say)
    output.outcome(session, [accepted], lambda done: vm_views.outcome(done, waiting.wait))


@app.command
async def start(*names: VmName, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Start machines."""
    await act_on(session, names, Verb.START, waiting)


@app.command
async def stop(
    *names: VmName,
    force: Annotated[bool, Parameter(negative=(), help="Switch off at once instead of asking the guest.")] = False,
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Stop machines: ask the guest, and switch off when it does not comply in time."""
    await act_on(session, names, Verb.FORCE_STOP if force else Verb.STOP, waiting)


@app.command
async def reboot(*names: VmName, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Ask guests to shut down, and start them again."""
    await act_on(session, names, Verb.REBOOT, waiting)


@app.command
async def reset(*names: VmName, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Press the reset button of machines."""
    await act_on(session, names, Verb.RESET, waiting)


@app.command
async def pause(*names: VmName, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Freeze machines; their memory stays."""
    await act_on(session, names, Verb.PAUSE, waiting)


@app.command
async def resume(*names: VmName, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Let paused machines go on."""
    await act_on(session, names, Verb.RESUME, waiting)


@app.command
async def delete(*names: VmName, yes: Yes = False, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Delete machines and their disks."""
    wanted = arguments.refs(names, "vm")
    confirm(session, f"delete {', '.join(wanted)} with disks, for good?", yes=yes)
    await act_on(session, wanted, Verb.DELETE, waiting)


@app.command
async def console(
    name: VmName,
    /,
    *,
    watch: Annotated[bool, Parameter(negative=(), help="Only look; nothing is typed.")] = False,
    linger: Annotated[str, Parameter(help="With piped input: how long the guest must be silent at the end.")] = "2s",
    session: Here,
) -> int:
    """Open the serial console, with what it said before. Detach with ^]."""
    from nacre.cli.terminal import attach

    return await attach(session, arguments.ref(name, "vm"), watch=watch, linger_s=arguments.duration(linger, "linger"))


@app.command
async def log(
    name: VmName,
    /,
    *,
    tail: Annotated[str | None, Parameter(help="Only the end, such as 4KiB.")] = None,
    session: Here,
) -> None:
    """Print what the serial console has said."""
    tail_bytes = None if tail is None else parse_size(tail, field="tail")
    async with session.client() as nacre:
        said = await nacre.vms.log(arguments.ref(name, "vm"), tail_bytes=tail_bytes, project=session.project)
    sys.stdout.buffer.write(said)


@app.command
async def events(
    name: VmName,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=(), help="Stay and show new ones.")] = False,
    limit: Limit = 50,
    session: Here,
) -> None:
    """List what happened to a machine; by id also after it was deleted."""
    vm = await _id_of(session, arguments.ref(name, "vm"))
    await show_events(session, {"noun": "vm", "object": vm}, follow=follow, limit=limit)


async def _id_of(session: Session, ref: str) -> str:
    """The id of a machine; its name is enough as long as it exists."""
    if looks_like_id(ref):
        return ref
    async with session.client() as nacre:
        return (await nacre.vms.show(ref, project=session.project)).id
