"""What becomes of the programs that reach a cluster: their exits in our words, their keys nowhere to be seen."""

import errno
import os
from pathlib import Path

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.ceph import commands
from nacre.agent.storage.ceph.answers import Snapshot
from nacre.agent.storage.ceph.reach import Reach
from nacre.model.ceph import CephAccess
from nacre.model.convergence import FailureClass

pytestmark = pytest.mark.anyio

KEY = "AQCoMgJrX239HRAAix+2xAXXA9T88NXleONDkQ=="


@pytest.fixture
def reach(tmp_path):
    access = CephAccess(monitors=("10.0.0.1", "10.0.0.2"), user="nacre", key=KEY)
    made = Reach(pool="fast", access=access, folder=tmp_path / "deep" / "pool")
    made.write()
    return made


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Have `rbd` be a program that does what it is told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CEPH_ARGS", "--id somebody-else")

    def write(text: str) -> None:
        (folder / "rbd").write_text("#!/bin/sh\n" + text)
        (folder / "rbd").chmod(0o755)

    return write


async def refusal(asked) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await asked
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("status", "said", "code", "failure_class"),
    [
        (errno.ETIMEDOUT, "rbd: couldn't connect to the cluster!", "ceph_unreachable", FailureClass.TRANSIENT),
        (errno.EACCES, "rbd: couldn't connect to the cluster!", "ceph_refused", FailureClass.BLOCKED),
        (errno.EPERM, "rbd: listing images failed: (1) Operation not permitted", "ceph_refused", FailureClass.BLOCKED),
        (errno.ENOSPC, "", "storage_full", FailureClass.TRANSIENT),
        (errno.EBUSY, "", "volume_in_use", FailureClass.WAITING),
        (errno.EIO, "", "storage_failed", FailureClass.TRANSIENT),
        (1, "rbd: unrecognised option", "storage_failed", FailureClass.TRANSIENT),
        (
            errno.ENOENT,
            "rbd: error opening pool 'fast': (2) No such file or directory",
            "ceph_pool_missing",
            FailureClass.BLOCKED,
        ),
    ],
)
async def test_every_end_has_words_of_ours(reach, program, status, said, code, failure_class):
    program(f'echo "{said}" >&2; exit {status}')
    error = await refusal(commands.rbd(reach, "ls", allow=(errno.ENOENT,)))
    assert (error.code, error.failure_class) == (code, failure_class)
    assert "rbd:" not in error.message


async def test_an_end_that_was_reckoned_with_is_an_answer(reach, program):
    program("exit 2")
    assert await commands.rbd(reach, "info", "x", allow=(errno.ENOENT,)) is None
    program("echo '{}'")
    assert await commands.rbd(reach, "info", "x", allow=(errno.ENOENT,)) == b"{}\n"


async def test_a_question_is_asked_again_if_the_program_crashes_and_an_order_is_not(reach, program, tmp_path):
    program(f"mkdir {tmp_path}/crashed && kill -SEGV $$; echo '{{}}'")
    assert await commands.question(reach, "du", "x") == b"{}\n"
    (tmp_path / "crashed").rmdir()
    error = await refusal(commands.rbd(reach, "rm", "x"))
    assert (error.code, error.failure_class) == ("storage_program_crashed", FailureClass.TRANSIENT)
    assert error.message == "rbd rm was ended on the node by SIGSEGV"
    program("kill -SEGV $$")
    assert (await refusal(commands.question(reach, "du", "x"))).code == "storage_program_crashed"


async def test_a_question_that_is_refused_is_not_asked_again(reach, program, tmp_path):
    program(f"echo x >> {tmp_path}/asked; exit 5")
    assert (await refusal(commands.question(reach, "du", "x"))).code == "storage_failed"
    assert (tmp_path / "asked").read_text() == "x\n"


async def test_who_takes_too_long_is_ended_and_nothing_is_concluded(reach, program, tmp_path):
    program(f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    error = await refusal(commands.rbd(reach, "ls", limit_s=0.5))
    assert (error.code, error.failure_class) == ("storage_slow", FailureClass.TRANSIENT)
    if (tmp_path / "pid").exists():
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


async def test_without_the_programs_it_is_said_what_to_install(reach, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    error = await refusal(commands.usage(reach))
    assert "ceph-common" in error.hint


async def test_a_key_is_in_files_of_the_agent_alone_and_not_in_words(reach, program):
    program('echo "$@ $CEPH_ARGS"')
    said = (await commands.rbd(reach, "ls") or b"").decode()
    assert "--id nacre" in said
    assert "somebody-else" not in said
    assert KEY not in said
    holders = {path.name for path in reach.folder.iterdir() if KEY in path.read_text()}
    assert holders == {"keyring", "key"}
    assert {path.stat().st_mode & 0o777 for path in reach.folder.iterdir()} == {0o600}
    assert reach.folder.stat().st_mode & 0o777 == 0o700
    assert "mon host = 10.0.0.1,10.0.0.2\n" in reach.configuration.read_text()


def test_the_time_of_a_snapshot_is_read_as_it_is_written():
    found = Snapshot(name="snap", size=1, timestamp="Sun Nov 22 00:09:16 2026").taken_at
    assert found.isoformat() == "2026-11-22T00:09:16+00:00"
