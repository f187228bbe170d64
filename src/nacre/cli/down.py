"""`nacre down`: stop what `nacre up` runs on a data directory, and its guests if that is wanted."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nacre.cli import arguments
from nacre.cli.datadir import DataDir, Running, default_root
from nacre.cli.exits import note, one_line
from nacre.cli.session import Here
from nacre.cli.supervisor import STOP_S, end_children
from nacre.errors import NacreError, NotFoundError, TimeoutExpiredError
from nacre.lib.processes import Process

GUESTS_PROGRAM = "nacre.agent.guests"
"""Stops the guests that an agent's records name. A program of its own: the command line knows no agent."""


async def down(
    *,
    data: Annotated[Path | None, Parameter(help="Where it is kept; as for nacre up.")] = None,
    vms: Annotated[
        bool, Parameter(negative=(), help="Stop the guests too: asked first, then switched off. Disks stay.")
    ] = False,
    timeout: Annotated[
        str, Parameter(help="With --vms: how long guests may take before they are switched off.")
    ] = "30s",
    session: Here,
) -> None:
    """Stop a running nacre up. Guests go on unless --vms is given. May be repeated."""
    patience_s = arguments.duration(timeout, "timeout")
    root = DataDir((data or default_root(session.environment)).resolve())
    if not root.root.is_dir():
        raise NotFoundError(
            "no_data_directory", f"there is nothing at {root.root}", hint="name the folder of nacre up with --data"
        )
    running = root.running()
    if running is None:
        note("nacre up does not run here")
    else:
        await _stop(root, running)
    if vms:
        await _stop_guests(root, patience_s)


async def _stop(root: DataDir, running: Running) -> None:
    """End the supervisor, which ends its programs; end those that a dead one left behind."""
    process = Process.open(running.supervisor.pid, running.supervisor.start_time)
    if process is None:
        note("nacre up does not run here any more")
    else:
        with process:
            process.send(signal.SIGTERM)
            if not await process.wait(STOP_S + 10):
                note("nacre up does not stop and is killed")
                await process.kill()
        note(f"stopped nacre up (pid {process.pid})")
    for name in await end_children(root.running() or running):
        note(f"stopped nacre-{name}, which was left behind")
    root.record.unlink(missing_ok=True)


async def _stop_guests(root: DataDir, patience_s: float) -> None:
    if not root.config("agent").exists():
        note("there are no guests here")
        return
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        GUESTS_PROGRAM,
        "--config",
        str(root.config("agent")),
        "--timeout",
        f"{patience_s:g}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(patience_s + 60):
            said, complained = await program.communicate()
    except TimeoutError as error:
        program.kill()
        await program.wait()
        raise TimeoutExpiredError(
            "guests_not_stopped", "the guests did not stop in time", hint="run nacre down --vms again"
        ) from error
    for line in said.decode(errors="replace").splitlines():
        note(one_line(line))
    if program.returncode != 0:
        last = complained.decode(errors="replace").strip().splitlines()[-1:]
        raise NacreError(
            "guests_not_stopped",
            f"not all guests were stopped: {one_line(' '.join(last)) or f'exit status {program.returncode}'}",
            hint=f"run nacre down --vms again; the agent's log is {root.log('agent')}",
        )
