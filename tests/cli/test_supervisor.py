import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nacre.cli import supervisor
from nacre.cli.datadir import Child, DataDir, Running
from nacre.cli.supervisor import Program, Supervisor, end_children, last_lines
from nacre.lib import processes
from support.patience import within
from support.waiting import until

pytestmark = pytest.mark.anyio

STAY = "echo started; trap 'echo leaving; exit 0' TERM; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo started; while :; do sleep 0.05; done"


class House:
    """A supervisor of shell scripts."""

    def __init__(self, folder: Path, scripts: dict[str, str]) -> None:
        self.data = DataDir(folder)
        self.said: list[str] = []
        own = Child(pid=os.getpid(), start_time=processes.start_time(os.getpid()) or 0)
        running = Running(boot_id=processes.boot_id(), supervisor=own, url="http://x")
        self.data.write_running(running)
        kept = [
            Program(name=name, argv=("/bin/sh", "-c", script), log=self.data.log(name))
            for name, script in scripts.items()
        ]
        self.supervisor = Supervisor(self.data, running, kept, self.said.append)

    def child(self, name: str) -> Child | None:
        running = self.data.running()
        return running.children.get(name) if running else None

    def log(self, name: str) -> str:
        log = self.data.log(name)
        return log.read_text() if log.exists() else ""


@asynccontextmanager
async def house(folder: Path, **scripts: str) -> AsyncGenerator[House, None]:
    made = House(folder, scripts)
    keeping = asyncio.create_task(made.supervisor.run())
    try:
        yield made
    finally:
        made.supervisor.stop()
        await asyncio.wait_for(keeping, 20)


async def test_programs_are_asked_to_leave_and_leave_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, control=STAY, agent=STAY) as made:
        await until(lambda: "started" in made.log("control") and "started" in made.log("agent"))
        children = [made.child("control"), made.child("agent")]
    assert all(child is not None and not child.alive() for child in children)
    assert "leaving" in made.log("control")
    assert made.said == []


async def test_a_program_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)
    async with house(tmp_path, control=STAY) as made:
        first = await until(lambda: made.child("control"))
        os.kill(first.pid, signal.SIGKILL)
        second = await until(lambda: (found := made.child("control")) != first and found)
        assert second.alive()
        assert made.said == ["nacre-control ended (killed by SIGKILL); starting it again in 0.05 s"]


async def test_pauses_grow_and_a_start_that_never_works_is_hopeless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)
    async with house(tmp_path, control="echo bad setting; exit 3") as made:
        async with within(10):
            await made.supervisor.hopeless.wait()
        assert "exit status 3" in made.said[0]
        assert made.said[1].endswith("in 0.1 s")
    assert last_lines(made.data.log("control")).endswith("bad setting")


async def test_who_does_not_leave_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_S", 0.2)
    async with house(tmp_path, agent=STUBBORN) as made:
        await until(lambda: "started" in made.log("agent"))
        child = made.child("agent")
    assert child is not None
    assert not child.alive()
    assert "is killed" in made.said[0]


async def test_what_a_dead_supervisor_left_behind_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with processes.spawn(["/bin/sh", "-c", STAY], output=log) as left:
        await until(lambda: log.exists() and "started" in log.read_text())
        own = Child(pid=1 << 22, start_time=1)
        running = Running(
            boot_id=processes.boot_id(),
            supervisor=own,
            url="",
            children={"agent": Child(pid=left.pid, start_time=left.start_time), "control": own},
        )
        assert await end_children(running) == ["agent"]
        assert not left.alive()
        assert await end_children(running) == []


async def test_a_log_that_grew_long_is_emptied_under_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 100)
    monkeypatch.setattr(supervisor, "LOG_CHECK_S", 0.05)
    chatty = "while :; do echo a line that is long enough; sleep 0.02; done"
    async with house(tmp_path, control=chatty) as made:
        old = made.data.log("control").with_suffix(".log.1")
        await until(old.exists)
        await until(lambda: 0 < made.data.log("control").stat().st_size < 5000)
        assert old.stat().st_size > 100
