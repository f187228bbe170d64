"""`nacre move …`, `nacre vm move` and `nacre vm moves`: machines on their way between nodes."""

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, names, output, progress
from nacre.cli.exits import note
from nacre.cli.options import NO_WAIT, AllProjects, Filters, Limit, Sort, VmName, Waiting
from nacre.cli.output import Column, age, moment
from nacre.cli.session import Here
from nacre.cli.verbs import finish, on_each
from nacre.errors import ConflictError, InvalidInputError, TimeoutExpiredError
from nacre.model.migrations import SendState
from nacre.model.moves import MOVE_ENDS, MoveMethod, MoveState
from nacre.model.units import format_size
from nacre.schema.moves import MAX_DOWNTIME_MS, LiveProgress, MoveOut, VmMove

if TYPE_CHECKING:
    from nacre.client.api import Nacre

app = App(name="move", help="Machines on their way between nodes.")

LOOK_S = 0.3
"""How often what is waited for is looked at."""

MoveName = Annotated[str, Parameter(completer=names.moves, help="Id of a move.")]
Target = Annotated[
    str | None, Parameter(completer=names.nodes, help="Node to move to; otherwise the scheduler chooses one.")
]

Method = Annotated[
    MoveMethod, Parameter(help="live: while it runs or not at all; restart: stop and start; auto: what is possible.")
]

COLUMNS: list[Column[MoveOut]] = [
    Column("ID", lambda move: move.id),
    Column("VM", lambda move: move.vm.name),
    Column("REASON", lambda move: move.reason.value),
    Column("STATE", lambda move: move.state.value),
    Column("WAY", lambda move: move.way.value if move.way else "-"),
    Column("FROM", lambda move: move.source.name),
    Column("TO", lambda move: move.target.name if move.target else "-"),
    Column("AGE", lambda move: age(move.created_at)),
    Column("MESSAGE", lambda move: standing(move)),  # noqa: PLW0108  # it is made further down
]


@app.command(name="list")
async def list_(*, filter_: Filters = (), sort: Sort = None, limit: Limit = 50, session: Here) -> None:
    """List moves, the newest first; with --project, only those in it."""
    from nacre.client.collection import Query

    query = Query(
        project=session.chosen_project,
        filters=arguments.filters(filter_),
        sort=sort or "-created_at",
        limit=arguments.limit(limit),
    )
    async with session.client() as nacre:
        found = await nacre.moves.all(query)
    output.items(session, found, COLUMNS, empty="no moves", narrowed=query.narrowed)


@app.command
async def show(*ids: MoveName, session: Here) -> None:
    """Show how moves stand."""
    wanted = arguments.refs(ids, "move")
    async with session.client() as nacre:
        found, failure = await on_each(wanted, nacre.moves.show)
    if found:
        output.details(session, found, facts)
    finish(failure)


@app.command
async def abort(*ids: MoveName, session: Here) -> None:
    """Take moves back while their machines have not left their nodes."""
    wanted = arguments.refs(ids, "move")
    async with session.client() as nacre:
        done, failure = await on_each(wanted, nacre.moves.abort)
    if done:
        output.outcome(session, done, sentence)
    finish(failure)


async def move(
    *vms: VmName,
    to: Target = None,
    method: Method = MoveMethod.AUTO,
    live: Annotated[bool, Parameter(negative=(), help="The same as --method live.")] = False,
    cold: Annotated[bool, Parameter(negative=(), help="The same as --method restart.")] = False,
    bandwidth: Annotated[
        str | None, Parameter(help="How much may flow per second while it runs, such as 100MiB; else all there is.")
    ] = None,
    downtime: Annotated[
        str | None, Parameter(help="How long a guest may stand still for its last pages, such as 300ms.")
    ] = None,
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Move machines to another node, while they run where that is possible.

    One that is stopped for it begins there with a fresh root disk: what it had written, and its checkpoints, stay
    behind as a copy for seven days. --live does nothing instead.
    """
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    wanted = arguments.refs(vms, "vm")
    body = VmMove(
        to=None if to is None else arguments.ref(to, "node"),
        method=_method(method, live=live, cold=cold),
        bandwidth_bytes=arguments.rate(bandwidth, "bandwidth"),
        downtime_ms=None if downtime is None else _milliseconds(downtime),
    )
    async with session.client() as nacre:
        with progress.spinner(f"move {', '.join(wanted)}") as say:

            async def one(ref: str) -> MoveOut:
                begun = await nacre.vms.move(ref, body, project=session.project)
                return await ended(nacre, begun, timeout_s, say) if waiting.wait else begun

            done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, sentence)
    finish(failure)


def _method(method: MoveMethod, *, live: bool, cold: bool) -> MoveMethod:
    found = {MoveMethod.LIVE} if live else set[MoveMethod]()
    found |= {MoveMethod.RESTART} if cold else set()
    found |= {method} - {MoveMethod.AUTO}
    if len(found) > 1:
        raise InvalidInputError(
            "methods_differ",
            "the options ask for different ways to move the machine",
            hint="give one of --live, --cold and --method",
            field="method",
        )
    return found.pop() if found else MoveMethod.AUTO


def _milliseconds(text: str) -> int:
    found = round(arguments.duration(text, "downtime") * 1000)
    arguments.check_range(found, "downtime", least=1, most=MAX_DOWNTIME_MS)
    return found


async def moves(*vms: VmName, all_projects: AllProjects = False, limit: Limit = 50, session: Here) -> None:
    """List moves of machines, the newest first: of those that are named, or of all in the project."""
    from nacre.client.collection import ALL_PROJECTS, Query

    project = ALL_PROJECTS if all_projects else session.project
    filters: list[dict[str, str]] = [{"vm": ref} for ref in arguments.refs(vms, "vm")] if vms else [{}]
    async with session.client() as nacre:
        found = [
            each
            for which in filters
            for each in await nacre.moves.all(
                Query(project=project, filters=which, sort="-created_at", limit=arguments.limit(limit))
            )
        ]
    output.items(session, found, COLUMNS, empty="no moves")


async def ended(nacre: "Nacre", begun: MoveOut, timeout_s: float, say: progress.Say) -> MoveOut:
    """Return a move that was carried out. Raises NacreError if it ends otherwise or time runs out."""
    clock = asyncio.get_running_loop()
    deadline = clock.time() + timeout_s
    now = begun
    while now.state not in MOVE_ENDS:
        say(sentence(now))
        if clock.time() >= deadline:
            raise TimeoutExpiredError(
                "move_timeout",
                f"the move of {now.vm.name} has not ended within {timeout_s:g} s: it is {now.state}",
                hint=f"it goes on; see it with `nacre move show {now.id}`",
            )
        await asyncio.sleep(LOOK_S)
        now = await nacre.moves.show(now.id)
    if now.state is not MoveState.DONE:
        raise ConflictError(
            f"move_{now.state.value}",
            f"the move of {now.vm.name} was {now.state}: {now.message}"
            if now.state is MoveState.ABORTED
            else f"the move of {now.vm.name} failed: {now.message}",
            hint=f"see the machine with `nacre vm show {now.vm.name}`",
        )
    return now


def told(moves_: list[MoveOut]) -> None:
    """Say on stderr which machines were not moved, and why."""
    for each in moves_:
        if each.state in {MoveState.FAILED, MoveState.ABORTED}:
            note(f"{each.vm.name}: {each.state}: {each.message}")


def sentence(move: MoveOut) -> str:
    """Say how a move stands."""
    where = f" to {move.target.name}" if move.target else ""
    message = f": {move.message}" if move.message else ""
    far = f", {copied(move.live)}" if move.live is not None and _is_copied(move) else ""
    return f"{move.vm.name}: move from {move.source.name}{where} is {move.state}{far} ({move.id}){message}"


def standing(move: MoveOut) -> str:
    """Say what there is to know about a move besides its state."""
    if move.live is not None and _is_copied(move):
        return ": ".join(filter(None, (copied(move.live), move.message)))
    return move.message or move.stopped_because


def _is_copied(move: MoveOut) -> bool:
    return move.state is MoveState.MIGRATING


def copied(live: LiveProgress) -> str:
    """Say how far a machine is copied."""
    if live.sending is SendState.WAITING:
        return "its new node gets ready"
    return f"{format_size(live.transferred_bytes)} copied, {format_size(live.remaining_bytes)} left"


def _stood_still(move: MoveOut) -> str:
    lasted = move.live.downtime_ms if move.live is not None else None
    return "" if lasted is None else f"{lasted:.0f} ms"


def facts(move: MoveOut) -> list[tuple[str, str]]:
    """Return everything about a move."""
    return [
        ("id", move.id),
        ("machine", f"{move.vm.name} ({move.vm.id})"),
        ("project", move.project.name),
        ("state", move.state.value),
        ("message", move.message),
        ("method", move.method.value),
        ("way", move.way.value if move.way else ""),
        ("not while it ran", move.stopped_because),
        ("attempts", str(move.attempts) if move.attempts else ""),
        ("copied", copied(move.live) if move.live is not None else ""),
        ("stood still", _stood_still(move)),
        ("reason", move.reason.value),
        ("from", move.source.name),
        ("to", move.target.name if move.target else ""),
        ("asked for", move.pinned.name if move.pinned else ""),
        ("drain", move.drain or ""),
        ("by", move.created_by),
        ("begun", moment(move.created_at)),
        ("changed", moment(move.updated_at)),
        ("ended", moment(move.ended_at)),
    ]
