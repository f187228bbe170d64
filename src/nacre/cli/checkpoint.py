"""`nacre vm checkpoint`, `checkpoints`, `restore` and their kin: machines kept as they are, and put back."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output, progress, vm_views
from nacre.cli.options import NO_WAIT, CheckpointName, VmName, Waiting, Yes
from nacre.cli.output import Column, moment
from nacre.cli.session import Here, Session
from nacre.cli.verbs import confirm, finish, on_each
from nacre.cli.vm_verbs import settle
from nacre.model.units import format_size
from nacre.schema.checkpoints import CheckpointCreate, CheckpointOut, CheckpointUpdate, VmRestore
from nacre.schema.common import Accepted
from nacre.schema.vms import VmOut

if TYPE_CHECKING:
    from nacre.client.api import Nacre

COLUMNS: list[Column[CheckpointOut]] = [
    Column("NAME", lambda one: one.name),
    Column("PHASE", lambda one: one.phase.value),
    Column("HOLDS", lambda one: one.consistency.value if one.consistency is not None else "-"),
    Column("DISKS", lambda one: format_size(one.size_bytes)),
    Column("MEMORY", lambda one: format_size(one.memory_bytes) if one.memory_bytes else "-"),
    Column("TAKEN", lambda one: moment(one.taken_at)),
    Column("EXPIRES", lambda one: moment(one.expires_at) or "-"),
    Column("PROTECTED", lambda one: "yes" if one.protected else "no"),
    Column("NOTE", lambda one: one.failure.message if one.failure is not None else one.description),
]


def add_to(app: App) -> None:
    """Make the commands of this file commands of machines."""
    for command in (checkpoint, checkpoints, restore):
        app.command(command)
    for kin in (show_checkpoint, protect_checkpoint, expire_checkpoint, delete_checkpoint):
        app.command(kin, name=kin.__name__.replace("_", "-"))


async def checkpoint(
    vm: VmName,
    name: Annotated[str, Parameter(help="Name of the new checkpoint, unique among those of the machine.")],
    /,
    *,
    memory: Annotated[
        bool, Parameter(negative=(), help="Memory and devices as well, so that it goes on where it was.")
    ] = False,
    description: Annotated[str, Parameter(help="What it is for.")] = "",
    expires: Annotated[str | None, Parameter(help="Delete it after this time, such as 7d.")] = None,
    protect: Annotated[bool, Parameter(negative=(), help="Neither delete nor expire it.")] = False,
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Take a checkpoint of a machine: all of its disks at one instant, also while it runs."""
    ref = arguments.ref(vm, "vm")
    body = CheckpointCreate(
        name=arguments.new_name(name),
        description=description,
        memory=memory,
        expires_at=_after(expires),
        protected=protect,
    )
    await _change(
        session, waiting, f"checkpoint {ref}", lambda nacre: nacre.vms.checkpoint(ref, body, project=session.project)
    )


async def checkpoints(vm: VmName, /, *, session: Here) -> None:
    """List the checkpoints of a machine."""
    from nacre.client.collection import Query

    ref = arguments.ref(vm, "vm")
    async with session.client() as nacre:
        found = await nacre.vms.checkpoints(ref, Query(project=session.project))
    output.items(session, found, COLUMNS, empty="no checkpoints")


async def restore(
    vm: VmName,
    name: CheckpointName,
    /,
    *,
    memory: Annotated[
        bool | None, Parameter(help="Go on where it was, as by default if it can, or put back only its disks.")
    ] = None,
    stop: Annotated[bool, Parameter(negative=(), help="End the machine if it runs.")] = False,
    paused: Annotated[bool, Parameter(negative=(), help="With memory: leave it paused.")] = False,
    yes: Yes = False,
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Put a machine back to a checkpoint. What was written since is lost."""
    ref = arguments.ref(vm, "vm")
    confirm(session, f"put {ref} back to {name} and lose what was written since?", yes=yes)
    body = VmRestore(checkpoint=arguments.ref(name, "checkpoint"), memory=memory, stop=stop, paused=paused)
    await _change(
        session, waiting, f"restore {ref}", lambda nacre: nacre.vms.restore(ref, body, project=session.project)
    )


async def show_checkpoint(vm: VmName, *names: CheckpointName, session: Here) -> None:
    """Show everything about checkpoints of a machine."""
    ref, wanted = arguments.ref(vm, "vm"), arguments.refs(names, "checkpoint")
    async with session.client() as nacre:
        found, failure = await on_each(
            wanted, lambda name: nacre.vms.show_checkpoint(ref, name, project=session.project)
        )
    if found:
        output.details(session, found, facts)
    finish(failure)


async def protect_checkpoint(
    vm: VmName,
    name: CheckpointName,
    /,
    *,
    off: Annotated[bool, Parameter(negative=(), help="Take the protection back.")] = False,
    session: Here,
) -> None:
    """Protect a checkpoint, and with it its machine, from being deleted."""
    await _update(session, vm, name, CheckpointUpdate(protected=not off))


async def expire_checkpoint(
    vm: VmName,
    name: CheckpointName,
    /,
    *,
    after: Annotated[str | None, Parameter(help="Delete it after this time from now, such as 7d.")] = None,
    session: Here,
) -> None:
    """Say when a checkpoint expires; without --after, that it does not."""
    when = _after(after)
    await _update(session, vm, name, CheckpointUpdate(expires_at=when, keep=when is None))


async def delete_checkpoint(
    vm: VmName, *names: CheckpointName, yes: Yes = False, waiting: Waiting = NO_WAIT, session: Here
) -> None:
    """Delete checkpoints of a machine. The machine, and machines made from them, stay as they are."""
    ref, wanted = arguments.ref(vm, "vm"), arguments.refs(names, "checkpoint")
    confirm(session, f"delete {', '.join(wanted)} of {ref}?", yes=yes)
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    async with session.client() as nacre:
        with progress.spinner(f"delete {', '.join(wanted)}") as say:

            async def one(name: str) -> Accepted[VmOut]:
                accepted = await nacre.vms.delete_checkpoint(ref, name, project=session.project)
                return await settle(nacre, accepted, waiting.wait, timeout_s, say)

            done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda accepted: vm_views.outcome(accepted, waiting.wait))
    finish(failure)


def facts(one: CheckpointOut) -> Sequence[tuple[str, str]]:
    """Return everything about a checkpoint."""
    failure = one.failure
    return [
        ("name", one.name),
        ("id", one.id),
        ("description", one.description),
        ("machine", one.vm.name),
        ("phase", one.phase.value),
        ("problem", f"{failure.message} ({failure.code})" if failure else ""),
        ("hint", failure.hint if failure else ""),
        ("holds", one.consistency.value if one.consistency is not None else ""),
        ("volumes", ", ".join(volume.name for volume in one.volumes)),
        ("disks", format_size(one.size_bytes)),
        ("memory", format_size(one.memory_bytes) if one.memory_bytes else ""),
        ("taken", moment(one.taken_at)),
        ("expires", moment(one.expires_at)),
        ("protected", "yes" if one.protected else "no"),
        ("by", one.created_by),
        ("asked for", moment(one.created_at)),
    ]


def _after(text: str | None) -> datetime | None:
    if text is None:
        return None
    return datetime.now(UTC) + timedelta(seconds=arguments.lifetime(text, least=1, most=100 * 366 * 86400))


async def _update(session: Session, vm: str, name: str, body: CheckpointUpdate) -> None:
    ref = arguments.ref(vm, "vm")
    async with session.client() as nacre:
        changed = await nacre.vms.update_checkpoint(ref, name, body, project=session.project)
    output.outcome(session, [changed], lambda one: f"{one.name}: changed")


async def _change(
    session: Session, waiting: Waiting, what: str, act: "Callable[[Nacre], Awaitable[Accepted[VmOut]]]"
) -> None:
    """Make one change, wait for it if wanted, and print what came of it."""
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    async with session.client() as nacre:
        with progress.spinner(what) as say:
            done = await settle(nacre, await act(nacre), waiting.wait, timeout_s, say)
    output.outcome(session, [done], lambda accepted: vm_views.outcome(accepted, waiting.wait))
