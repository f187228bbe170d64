"""Keep the programs of `nacre up` running: start, watch, start again with growing pauses, stop.

Guests are no children of these programs' sessions and are never touched here.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nacre.cli.datadir import Child, DataDir, Running
from nacre.errors import NacreError
from nacre.lib import processes

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HEALTHY_S = 60.0
"""Who ran for so long starts again with the first pause."""
STOP_S = 20.0
"""How long a program may take to leave before it is killed."""
GIVE_UP_AFTER = 3
"""So many failed starts before the platform was ever ready mean that it will not become ready."""
MAX_LOG_BYTES = 32 << 20
LOG_CHECK_S = 60.0

Say = Callable[[str], None]


@dataclass
class Program:
    """One program to keep running."""

    name: str
    argv: Sequence[str]
    log: Path
    waits: bool = False
    """Whether it is started only once the others are ready."""
    starts: int = 0


class Supervisor:
    """The programs of one data directory."""

    def __init__(self, data: DataDir, running: Running, programs: Sequence[Program], say: Say) -> None:
        self._data = data
        self._running = running
        self._programs = programs
        self._say = say
        self._stopping = asyncio.Event()
        self._released = asyncio.Event()
        self.hopeless = asyncio.Event()
        """Set when a program failed again and again before the platform was ready."""
        self.failing: set[str] = set()
        """The names of such programs."""

    def stop(self) -> None:
        """Begin to stop. May be called by a signal handler, and more than once."""
        self._stopping.set()
        self._released.set()

    @property
    def stopping(self) -> asyncio.Event:
        """Set when it is to stop."""
        return self._stopping

    def release(self) -> None:
        """Start the programs that wait."""
        self._released.set()

    def ready(self) -> None:
        """Note for everybody that the platform is ready."""
        self._note(msgspec.structs.replace(self._running, ready=True))

    async def run(self) -> None:
        """Keep every program running until `stop`; returns when all have ended."""
        async with asyncio.TaskGroup() as tasks:
            for program in self._programs:
                tasks.create_task(self._keep(program))
            tasks.create_task(self._trim_logs())

    async def _keep(self, program: Program) -> None:
        pause = FIRST_PAUSE_S
        clock = asyncio.get_running_loop()
        if program.waits:
            await self._released.wait()
        while not self._stopping.is_set():
            began = clock.time()
            process = self._start(program)
            with process:
                try:
                    ended = await self._ended_before_stop(process)
                except asyncio.CancelledError:
                    process.send(signal.SIGTERM)  # we are torn down; at least nothing stays behind
                    raise
                if not ended:
                    await self._end(program, process)
                    return
                status = process.exit_status
            if clock.time() - began >= HEALTHY_S:
                pause = FIRST_PAUSE_S
            self._say(f"nacre-{program.name} ended ({_status(status)}); starting it again in {pause:g} s")
            if program.starts >= GIVE_UP_AFTER and not self._running.ready:
                self.failing.add(program.name)
                self.hopeless.set()
            await self._pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _start(self, program: Program) -> processes.Process:
        process = processes.spawn(program.argv, output=program.log)
        program.starts += 1
        children = {**self._running.children, program.name: Child(pid=process.pid, start_time=process.start_time)}
        self._note(msgspec.structs.replace(self._running, children=children))
        return process

    async def _ended_before_stop(self, process: processes.Process) -> bool:
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return ended.done()
        finally:
            for task in (ended, stopping):
                task.cancel()
            await asyncio.gather(ended, stopping, return_exceptions=True)

    async def _end(self, program: Program, process: processes.Process) -> None:
        process.send(signal.SIGTERM)
        if not await process.wait(STOP_S):
            self._say(f"nacre-{program.name} did not stop within {STOP_S:g} s and is killed")
            await process.kill()

    async def _trim_logs(self) -> None:
        while not self._stopping.is_set():
            await self._pause(LOG_CHECK_S)
            for program in self._programs:
                await asyncio.to_thread(_trim, program.log)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _note(self, running: Running) -> None:
        self._running = running
        self._data.write_running(running)


async def end_children(running: Running) -> list[str]:
    """Stop the programs that an earlier supervisor left behind, and return their names. Raises NacreError."""
    ended: list[str] = []
    for name, child in running.children.items():
        process = processes.Process.open(child.pid, child.start_time)
        if process is None:
            continue
        with process:
            process.send(signal.SIGTERM)
            if not (await process.wait(STOP_S) or await process.kill()):
                raise NacreError(
                    "will_not_end",
                    f"nacre-{name} (pid {child.pid}) does not end",
                    hint="the kernel holds it, probably for a disk that does not answer; try again later",
                )
        ended.append(name)
    return ended


def programs(data: DataDir) -> list[Program]:
    """Return the two programs of `nacre up`."""
    return [
        Program(
            name=name,
            argv=(sys.executable, "-m", f"nacre.{name}.main", "--config", str(data.config(name))),
            log=data.log(name),
            waits=name == "agent",  # what lets it join is written by the control plane
        )
        for name in ("control", "agent")
    ]


def last_lines(log: Path, count: int = 8, *, after: int = 0) -> str:
    """Return the end of a log, of what was written past the offset `after`."""
    try:
        with log.open("rb") as file:
            file.seek(max(after, log.stat().st_size - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def _trim(log: Path) -> None:
    """Empty a log that has grown long, keeping one old one. Programs append, so they go on at the start."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def _status(status: int | None) -> str:
    if status is None:
        return "nobody knows how"
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
