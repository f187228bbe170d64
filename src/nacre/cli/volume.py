"""`nacre volume …`: disks that outlive machines, and their snapshots."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import App, Parameter

from nacre.cli import arguments, output, progress
from nacre.cli.options import (
    NO_WAIT,
    AllProjects,
    ChangedLabels,
    Filters,
    Labels,
    Limit,
    PoolName,
    SnapshotName,
    Sort,
    VolumeName,
    Waiting,
    Yes,
)
from nacre.cli.output import Column, age, moment, pairs
from nacre.cli.session import Here, Session
from nacre.cli.verbs import confirm, finish, on_each
from nacre.cli.waiting import until_done
from nacre.errors import NotFoundError
from nacre.model.units import format_size
from nacre.model.volumes import DiskFormat
from nacre.schema.common import Accepted
from nacre.schema.volumes import (
    SnapshotCreate,
    SnapshotOut,
    SnapshotUpdate,
    VolumeClone,
    VolumeCreate,
    VolumeOut,
    VolumeUpdate,
)

if TYPE_CHECKING:
    from nacre.client.api import Nacre

app = App(name="volume", help="Volumes: disks that outlive machines.")

Size = Annotated[str | None, Parameter(help="Size, such as 10GiB.", allow_leading_hyphen=True)]
Full = Annotated[bool, Parameter(negative=(), help="Copy all of it, so that it needs no file of its origin.")]
Form = Annotated[
    DiskFormat | None,
    Parameter(name="--format", help="How it is kept: qcow2, in layers; raw, which every hypervisor opens."),
]
NewName = Annotated[str, Parameter(help="Name of the new volume, unique in its project.")]


@app.command
async def create(
    name: NewName,
    /,
    *,
    size: Size = None,
    pool: PoolName = "local",
    image: Annotated[str | None, Parameter(help="Image whose disk it starts as.")] = None,
    full: Full = False,
    form: Form = None,
    label: Labels = (),
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Create a volume, blank or from an image. It is made when it is first attached to a machine with a node."""
    body = VolumeCreate(
        name=arguments.new_name(name),
        labels=arguments.labels(label),
        pool=pool,
        size_bytes=arguments.volume_size(size),
        image=image,
        full=full,
        format=form,
        project=session.project,
    )
    await _change(session, waiting, f"create {name}", lambda nacre: nacre.volumes.create(body))


@app.command
async def clone(
    volume: VolumeName,
    name: NewName,
    /,
    *,
    snapshot: Annotated[str | None, Parameter(help="Snapshot to clone instead of what is in it now.")] = None,
    full: Full = False,
    form: Form = None,
    label: Labels = (),
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Clone a volume, as it is now or as a snapshot keeps it; with --full also in another format."""
    ref = arguments.ref(volume, "volume")
    body = VolumeClone(
        name=arguments.new_name(name),
        snapshot=snapshot,
        full=full,
        format=form,
        labels=arguments.labels(label),
    )
    await _change(
        session, waiting, f"clone {ref}", lambda nacre: nacre.volumes.clone(ref, body, project=session.project)
    )


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
    """List volumes."""
    from nacre.client.collection import ALL_PROJECTS, Query

    query = Query(
        project=ALL_PROJECTS if all_projects else session.project,
        labels=arguments.labels(label),
        filters=arguments.filters(filter_),
        sort=sort,
        limit=arguments.limit(limit),
    )
    async with session.client() as nacre:
        found = await nacre.volumes.all(query)
    output.items(session, found, columns(with_project=all_projects), empty="no volumes here", narrowed=query.narrowed)


@app.command
async def show(*names: VolumeName, session: Here) -> None:
    """Show volumes."""
    wanted = arguments.refs(names, "volume")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, lambda ref: nacre.volumes.show(ref, project=session.project))
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def update(
    name: VolumeName,
    /,
    *,
    size: Annotated[str | None, Parameter(help="Larger size, such as 20GiB.", allow_leading_hyphen=True)] = None,
    label: ChangedLabels = (),
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Make a volume larger, or change its labels. A machine that uses it sees it grow."""
    ref = arguments.ref(name, "volume")
    size_bytes = arguments.volume_size(size)

    async def change(nacre: "Nacre") -> Accepted[VolumeOut]:
        current = await nacre.volumes.show(ref, project=session.project)
        labels = arguments.changed_labels(current.labels, label) if label else None
        changes = VolumeUpdate(labels=labels, size_bytes=size_bytes)
        arguments.check_changes(changes)
        return await nacre.volumes.update(current.id, changes, if_match=current.etag)

    await _change(session, waiting, f"update {ref}", change)


@app.command
async def delete(*names: VolumeName, yes: Yes = False, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Delete volumes that are attached to nothing and have no snapshots."""
    wanted = arguments.refs(names, "volume")
    confirm(session, f"delete {', '.join(wanted)} and what is in them?", yes=yes)
    await _on_each(session, waiting, wanted, lambda nacre, ref: nacre.volumes.delete(ref, project=session.project))


@app.command
async def snapshot(
    volume: VolumeName,
    name: Annotated[str, Parameter(help="Name of the new snapshot, unique among those of the volume.")],
    /,
    *,
    expires: Annotated[str | None, Parameter(help="Delete it after this time, such as 7d.")] = None,
    protect: Annotated[bool, Parameter(negative=(), help="Neither delete nor expire it.")] = False,
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Take a snapshot of a volume, also while a machine writes to it."""
    ref = arguments.ref(volume, "volume")
    body = SnapshotCreate(name=arguments.new_name(name), expires_at=_after(expires), protected=protect)
    await _change(
        session, waiting, f"snapshot {ref}", lambda nacre: nacre.volumes.snapshot(ref, body, project=session.project)
    )


@app.command
async def snapshots(volume: VolumeName, /, *, session: Here) -> None:
    """List the snapshots of a volume."""
    from nacre.client.collection import Query

    ref = arguments.ref(volume, "volume")
    async with session.client() as nacre:
        found = await nacre.volumes.snapshots(ref, Query(project=session.project))
    output.items(session, found, SNAPSHOTS, empty="no snapshots")


@app.command
async def restore(
    volume: VolumeName,
    name: SnapshotName,
    /,
    *,
    yes: Yes = False,
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Put a volume back to a snapshot. What was written since is lost; no machine may be using it."""
    ref = arguments.ref(volume, "volume")
    confirm(session, f"put {ref} back to {name} and lose what was written since?", yes=yes)
    await _change(
        session, waiting, f"restore {ref}", lambda nacre: nacre.volumes.restore(ref, name, project=session.project)
    )


@app.command
async def protect(
    volume: VolumeName,
    name: SnapshotName,
    /,
    *,
    off: Annotated[bool, Parameter(negative=(), help="Take the protection back.")] = False,
    session: Here,
) -> None:
    """Protect a snapshot from being deleted and from expiring."""
    await _update_snapshot(session, volume, name, SnapshotUpdate(protected=not off))


@app.command
async def expire(
    volume: VolumeName,
    name: SnapshotName,
    /,
    *,
    after: Annotated[str | None, Parameter(help="Delete it after this time from now, such as 7d.")] = None,
    session: Here,
) -> None:
    """Say when a snapshot expires; without --after, that it does not."""
    when = _after(after)
    await _update_snapshot(session, volume, name, SnapshotUpdate(expires_at=when, keep=when is None))


@app.command(name="delete-snapshot")
async def delete_snapshot(
    volume: VolumeName, *names: SnapshotName, yes: Yes = False, waiting: Waiting = NO_WAIT, session: Here
) -> None:
    """Delete snapshots of a volume. The volume and clones stay as they are."""
    ref = arguments.ref(volume, "volume")
    wanted = arguments.refs(names, "snapshot")
    confirm(session, f"delete {', '.join(wanted)} of {ref}?", yes=yes)
    await _on_each(
        session,
        waiting,
        wanted,
        lambda nacre, name: nacre.volumes.delete_snapshot(ref, name, project=session.project),
    )


def columns(*, with_project: bool) -> list[Column[VolumeOut]]:
    """Return the columns of `nacre volume list`."""
    project = [Column[VolumeOut]("PROJECT", lambda volume: volume.project.name)] if with_project else []
    return [
        Column("NAME", lambda volume: volume.name),
        *project,
        Column("PHASE", lambda volume: volume.phase.value),
        Column("SIZE", lambda volume: format_size(volume.size_bytes)),
        Column("USED", lambda volume: format_size(volume.used_bytes)),
        Column("FORMAT", lambda volume: volume.format.value),
        Column("POOL", lambda volume: volume.pool.name),
        Column("NODE", lambda volume: volume.node.name if volume.node else "-"),
        Column("VM", lambda volume: volume.vm.name if volume.vm else "-"),
        Column("AGE", lambda volume: age(volume.created_at)),
        Column("NOTE", _note),
    ]


SNAPSHOTS: list[Column[SnapshotOut]] = [
    Column("NAME", lambda one: one.name),
    Column("PHASE", lambda one: one.phase.value),
    Column("SIZE", lambda one: format_size(one.size_bytes)),
    Column("TAKEN", lambda one: moment(one.taken_at)),
    Column("CONSISTENCY", lambda one: one.consistency.value if one.consistency else "-"),
    Column("EXPIRES", lambda one: moment(one.expires_at) or "-"),
    Column("PROTECTED", lambda one: "yes" if one.protected else "no"),
]


def facts(volume: VolumeOut) -> Sequence[tuple[str, str]]:
    """Return everything about a volume."""
    failure, source = volume.conditions.degraded, volume.source
    origin = source.snapshot or source.volume or source.image or ""
    return [
        ("name", volume.name),
        ("id", volume.id),
        ("project", volume.project.name),
        ("labels", pairs(volume.labels)),
        ("phase", volume.phase.value),
        ("converged", "yes" if volume.conditions.converged else "no"),
        ("problem", f"{failure.message} ({failure.code}, {failure.failure_class})" if failure else ""),
        ("hint", failure.hint if failure else ""),
        ("pool", volume.pool.name),
        ("node", volume.node.name if volume.node else "none yet: it is made when it is first needed"),
        ("size", format_size(volume.size_bytes)),
        ("used", format_size(volume.used_bytes)),
        ("format", volume.format.value),
        ("from", f"{source.kind} {origin}".strip()),
        ("attached to", volume.vm.name if volume.vm else ""),
        ("created", moment(volume.created_at)),
        ("changed", moment(volume.updated_at)),
    ]


def _note(volume: VolumeOut) -> str:
    if volume.conditions.degraded is not None:
        return f"{volume.conditions.degraded.code}: {volume.conditions.degraded.message}"
    return "" if volume.conditions.converged else "changes"


def _after(text: str | None) -> datetime | None:
    if text is None:
        return None
    return datetime.now(UTC) + timedelta(seconds=arguments.lifetime(text, least=1, most=100 * 366 * 86400))


async def _update_snapshot(session: Session, volume: str, name: str, body: SnapshotUpdate) -> None:
    ref = arguments.ref(volume, "volume")
    async with session.client() as nacre:
        changed = await nacre.volumes.update_snapshot(ref, name, body, project=session.project)
    output.outcome(session, [changed], lambda one: f"{one.name}: changed")


async def _change(
    session: Session, waiting: Waiting, what: str, act: "Callable[[Nacre], Awaitable[Accepted[VolumeOut]]]"
) -> None:
    """Make one change, wait for it if wanted, and print what came of it."""
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    async with session.client() as nacre:
        with progress.spinner(what) as say:
            done = await _settle(nacre, await act(nacre), waiting.wait, timeout_s, say)
    output.outcome(session, [done], lambda accepted: _outcome(accepted, waiting.wait))


async def _on_each(
    session: Session,
    waiting: Waiting,
    wanted: Sequence[str],
    act: "Callable[[Nacre, str], Awaitable[Accepted[VolumeOut]]]",
) -> None:
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    async with session.client() as nacre:
        with progress.spinner(", ".join(wanted)) as say:

            async def one(ref: str) -> Accepted[VolumeOut]:
                return await _settle(nacre, await act(nacre, ref), waiting.wait, timeout_s, say)

            done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda accepted: _outcome(accepted, waiting.wait))
    finish(failure)


async def _settle(
    nacre: "Nacre", accepted: Accepted[VolumeOut], wait: bool, timeout_s: float, say: progress.Say
) -> Accepted[VolumeOut]:
    if not wait:
        return accepted
    operation = await until_done(nacre, accepted.operation, timeout_s, say)
    try:
        volume = await nacre.volumes.show(accepted.resource.id)
    except NotFoundError:  # deleted: what was accepted is the last that is known of it
        volume = accepted.resource
    return msgspec.structs.replace(accepted, resource=volume, operation=operation)


def _outcome(done: Accepted[VolumeOut], waited: bool) -> str:
    volume, operation = done.resource, done.operation
    if not waited:
        return f"{volume.name}: {operation.type} accepted (operation {operation.id})"
    return f"{volume.name}: " + ("deleted" if operation.type == "volume.delete" else volume.phase.value)
