"""The inside of guests, and what machines use: commands, screens, metrics. Registered by `vm.py`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nacre.cli import arguments, exits, output
from nacre.cli.options import AllProjects, VmName
from nacre.cli.output import Column, age, moment
from nacre.cli.session import Here, Session
from nacre.errors import InvalidInputError, NacreError, TimeoutExpiredError, UnavailableError
from nacre.lib.configuration import split_address
from nacre.model.commands import MAX_STDIN_BYTES, Channel, ExecRequest, ExecResult
from nacre.model.metrics import MetricPoint
from nacre.model.units import format_size
from nacre.schema.guests import CommandOut
from nacre.schema.vms import VmOut

if TYPE_CHECKING:
    from nacre.client.api import Nacre

KILLED = 128
"""Added to the number of a signal, as shells do."""
ROUND_S = 10.0
_AT_ONCE = 8
_CHUNK = 64 << 10
_CLEAR = "\x1b[H\x1b[2J"

COMMANDS: list[Column[CommandOut]] = [
    Column("ID", lambda one: one.id),
    Column("PROGRAM", lambda one: one.program),
    Column("STATE", lambda one: one.state.value),
    Column("EXIT", lambda one: "-" if one.exit_code is None else str(one.exit_code)),
    Column("BY", lambda one: one.created_by),
    Column("AGE", lambda one: age(one.started_at)),
]
POINTS: list[Column[MetricPoint]] = [
    Column("AT", lambda point: moment(point.at)),
    Column("CPU", lambda point: _cores(point.cpu_cores)),
    Column("MEMORY", lambda point: _size(point.memory_resident_bytes)),
    Column("READ/S", lambda point: _size(point.disk_read_bytes_per_second)),
    Column("WRITTEN/S", lambda point: _size(point.disk_written_bytes_per_second)),
    Column("RECEIVED/S", lambda point: _size(point.network_received_bytes_per_second)),
    Column("SENT/S", lambda point: _size(point.network_sent_bytes_per_second)),
    Column("LOAD", lambda point: "-" if point.guest_load_1m is None else f"{point.guest_load_1m:.2f}"),
]


async def exec_(
    name: VmName,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True, help="After --: the program and its arguments.")],
    stdin: Annotated[
        bool, Parameter(name=["--stdin", "-i"], negative=(), help="Pass standard input on, all of it first.")
    ] = False,
    env: Annotated[tuple[str, ...], Parameter(negative=(), help="Variable NAME=VALUE. Repeatable.")] = (),
    timeout: Annotated[str, Parameter(help="Kill it when it runs for longer.")] = "60s",
    session: Here,
) -> int:
    """Run a command in a guest, through its agent: vm exec web -- systemctl status. Its exit code is passed on."""
    if not command:
        raise InvalidInputError(
            "command_missing", "there is no command", hint="write it behind --: nacre vm exec web -- uname -a"
        )
    request = ExecRequest(
        command=tuple(command),
        environment=arguments.labels_like(env, "env"),
        stdin=stdin,
        timeout_s=arguments.duration(timeout, "timeout"),
    )
    ref = arguments.ref(name, "vm")
    given = _typed() if stdin else None
    async with session.client() as nacre, nacre.command(ref, request, given, project=session.project) as running:
        async for channel, data in running.outputs():
            to = sys.stderr if channel is Channel.STDERR else sys.stdout
            to.buffer.write(data)
            to.flush()
        result = running.result
    assert result is not None
    return _exit_code(result, timeout)


async def commands(name: VmName, /, *, session: Here) -> None:
    """List the recorded commands of a machine: those that programs ran over the API."""
    async with session.client() as nacre:
        found = await nacre.vms.commands(arguments.ref(name, "vm"), project=session.project)
    output.items(session, found, COMMANDS, empty="no recorded commands")


async def display(
    name: VmName,
    /,
    *,
    listen: Annotated[str, Parameter(help="Where VNC viewers of this machine connect to.")] = "127.0.0.1:0",
    session: Here,
) -> int:
    """Serve a machine's screen on a local port for a VNC viewer, until ^C."""
    host, port = split_address(listen, field="listen")
    ref = arguments.ref(name, "vm")
    async with session.client() as nacre:
        async with nacre.display(ref, project=session.project):
            pass  # what is to be refused is refused before anybody connects

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _view(nacre, ref, session.project, reader, writer)

        try:
            server = await asyncio.start_server(serve, host, port)
        except OSError as error:
            raise InvalidInputError(
                "address_unusable", f"cannot listen on {listen}: {error.strerror}", hint="use another", field="listen"
            ) from error
        address, number, *_ = server.sockets[0].getsockname()
        print(f"vnc://{address}:{number}", flush=True)
        exits.note(f"point a VNC viewer at {address}::{number}; ^C ends it")
        async with server:
            await server.serve_forever()
    return exits.OK


async def metrics(
    name: VmName,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=(), help="Stay and show new points.")] = False,
    since: Annotated[str, Parameter(help="How far back, such as 1h or 14d.")] = "1h",
    step: Annotated[
        str | None, Parameter(help="Time between points, such as 1m; otherwise as fine as there is.")
    ] = None,
    session: Here,
) -> None:
    """Show what a machine used: CPUs of the host, memory, disks, network."""
    ref = arguments.ref(name, "vm")
    if follow:
        await _follow(session, ref)
        return
    begin = datetime.now(UTC) - timedelta(seconds=arguments.duration(since, "since"))
    step_s = None if step is None else max(1, int(arguments.duration(step, "step")))
    async with session.client() as nacre:
        series = await nacre.vms.metrics(ref, begin=begin, step_s=step_s, project=session.project)
    if session.output != "table":
        output.document(session, series)
        return
    output.items(session, series.points, POINTS, empty="nothing was measured in that time")


async def top(
    *,
    once: Annotated[bool, Parameter(negative=(), help="Show it once, not again every ten seconds.")] = False,
    all_projects: AllProjects = False,
    session: Here,
) -> None:
    """Show what running machines use, the busiest first. Again every ten seconds on a terminal, until ^C."""
    from nacre.client.collection import ALL_PROJECTS, Query

    query = Query(project=ALL_PROJECTS if all_projects else session.project, filters={"phase": "running"})
    again = not once and sys.stdout.isatty() and session.output == "table"
    columns = [Column[tuple[VmOut, MetricPoint]]("NAME", lambda row: row[0].name), *_columns()]
    async with session.client() as nacre:
        while True:
            rows = await _rows(nacre, query)
            if again:
                print(_CLEAR, end="")
            if session.output == "table":
                output.items(session, rows, columns, empty="no machine runs here")
            else:
                output.document(session, [{"vm": vm.name, "metrics": point} for vm, point in rows])
            if not again:
                return
            await asyncio.sleep(ROUND_S)


def _columns() -> list[Column[tuple[VmOut, MetricPoint]]]:
    return [
        Column(column.title, lambda row, text=column.text: text(row[1])) for column in POINTS if column.title != "AT"
    ]


async def _rows(nacre: "Nacre", query: object) -> list[tuple[VmOut, MetricPoint]]:
    from nacre.client.collection import Query

    assert isinstance(query, Query)
    limit = asyncio.Semaphore(_AT_ONCE)
    begin = datetime.now(UTC) - timedelta(seconds=3 * ROUND_S)

    async def newest(vm: VmOut) -> MetricPoint:
        async with limit:
            try:
                points = (await nacre.vms.metrics(vm.id, begin=begin)).points
            except NacreError:
                points = ()  # its node is away, or too old: a line of dashes
        return points[-1] if points else MetricPoint(at=begin)

    machines = await nacre.vms.all(query)
    points = await asyncio.gather(*(newest(vm) for vm in machines))
    return sorted(zip(machines, points, strict=True), key=lambda row: -(row[1].cpu_cores or 0.0))


async def _follow(session: Session, ref: str) -> None:
    async with session.client() as nacre:
        head = True
        async for point in nacre.vms.follow_metrics(ref, project=session.project):
            if session.output != "table":
                output.document(session, point)
            else:
                line = [column.text(point) for column in POINTS]
                if head:
                    print("  ".join(f"{column.title:<20}" for column in POINTS).rstrip())
                    head = False
                print("  ".join(f"{text:<20}" for text in line).rstrip(), flush=True)
        raise UnavailableError(
            "stream_ended", "the server ended the stream", hint="is the machine's node connected? try again"
        )


async def _typed() -> AsyncIterator[bytes]:
    """Yield standard input to its end."""
    left = MAX_STDIN_BYTES + 1
    while left > 0 and (data := await asyncio.to_thread(sys.stdin.buffer.read, min(_CHUNK, left))):
        left -= len(data)
        yield data


def _exit_code(result: ExecResult, timeout: str) -> int:
    if result.code:
        raise UnavailableError(result.code, result.message, hint=result.hint)
    if result.timed_out:
        raise TimeoutExpiredError(
            "command_timeout", f"the command ran for longer than {timeout} and was killed", hint="give it --timeout"
        )
    if result.stdout_truncated or result.stderr_truncated:
        exits.note("some of the output was left out")
    if result.signal is not None:
        return KILLED + result.signal
    return result.exit_code or 0


async def _view(
    nacre: "Nacre", ref: str, project: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry one viewer. What goes wrong is said, and the next viewer may try."""
    try:
        async with nacre.display(ref, project=project) as screen:

            async def out() -> None:
                async for data in screen.output():
                    writer.write(data)
                    await writer.drain()

            async def back() -> None:
                while data := await reader.read(_CHUNK):
                    await screen.write(data)

            tasks = [asyncio.create_task(out()), asyncio.create_task(back())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    except NacreError as error:
        exits.report(error)
    except OSError:
        pass  # the viewer has left
    finally:
        writer.close()


def _cores(cores: float | None) -> str:
    return "-" if cores is None else f"{cores * 100:.0f}%"


def _size(size: float | None) -> str:
    return "-" if size is None else format_size(int(size))
