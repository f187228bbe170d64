"""Naming, watching and ending processes."""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from nacre.lib import processes
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request):
    return ("asyncio", {"use_uvloop": request.param == "uvloop"})


@pytest.fixture
def sleeper():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def spawn(argv, tmp_path, **options):
    return processes.spawn(argv, output=tmp_path / "out.log", **options)


def test_a_process_is_named_by_pid_and_start_time(sleeper):
    started = processes.start_time(sleeper.pid)
    assert started is not None
    assert processes.is_alive(sleeper.pid, started)
    assert not processes.is_alive(sleeper.pid, started + 1)
    assert len(processes.boot_id()) > 8


def test_a_name_with_brackets_and_spaces_does_not_confuse(tmp_path):
    program = tmp_path / "a) b (c"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "600"])
    try:
        assert processes.is_alive(child.pid, processes.start_time(child.pid))
    finally:
        child.kill()
        child.wait()


def test_a_zombie_is_dead_but_still_has_a_start_time(sleeper):
    started = processes.start_time(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert processes.start_time(sleeper.pid) == started
    assert not processes.is_alive(sleeper.pid, started)
    assert processes.Process.open(sleeper.pid, started) is None


def test_an_impossible_pid_is_nobody():
    assert processes.start_time(1 << 30) is None
    assert processes.Process.open(1 << 30, 1) is None


def test_a_number_that_means_a_thread_by_now_is_nobody():
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert processes.Process.open(thread.native_id, 1) is None
    finally:
        may_end.set()
        thread.join()


async def test_a_reused_pid_is_not_killed(sleeper):
    started = processes.start_time(sleeper.pid)
    assert await processes.kill(sleeper.pid, started - 1)
    assert sleeper.poll() is None


async def test_kill_returns_when_the_process_is_gone_and_may_be_repeated(tmp_path):
    process = spawn(["sleep", "600"], tmp_path)
    with process:
        assert process.alive()
        assert await processes.kill(process.pid, process.start_time)
        assert not process.alive()
        assert await processes.kill(process.pid, process.start_time)
        assert not process.send(signal.SIGTERM)


async def test_the_end_of_a_process_is_seen_at_once_by_everyone_who_waits(tmp_path):
    with spawn(["sleep", "600"], tmp_path) as process:
        waiting = [asyncio.create_task(process.wait(20)) for _ in range(3)]
        await asyncio.sleep(0)
        at = time.monotonic()
        process.send(signal.SIGKILL)
        assert await asyncio.gather(*waiting) == [True, True, True]
        assert time.monotonic() - at < 5
        assert process.exit_status == -signal.SIGKILL


async def test_waiting_gives_up_after_its_time(tmp_path):
    with spawn(["sleep", "600"], tmp_path) as process:
        assert not await process.wait(0.05)
        assert not await processes.wait_exit(process.pid, process.start_time, 0.05)
        assert await process.kill()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
async def test_a_program_obeys_a_signal_although_we_were_started_deaf_to_it(tmp_path, number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        process = spawn(["sleep", "600"], tmp_path)
    finally:
        signal.signal(number, before)
    with process:
        process.send(number)
        if not await process.wait(20):
            await process.kill()
        assert process.exit_status == -number


async def test_the_exit_of_a_process_that_is_not_our_child_is_seen(tmp_path):
    parent = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 600 & echo $!; wait", stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    pid = int(await parent.stdout.readline())
    with processes.Process.open(pid, processes.start_time(pid)) as process:
        assert await process.kill()
        assert process.exit_status is None
    await parent.wait()


async def test_a_spawned_process_has_its_own_session_no_input_and_only_the_given_descriptors(tmp_path):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code = "import os; print(os.getsid(0) == os.getpid(), os.read(0, 1), os.listdir('/proc/self/fd')); os.fstat(3)"
    with spawn([sys.executable, "-c", code], tmp_path, inherit=[lock]) as process:
        assert await process.wait(20)
        assert process.exit_status == 0
    # 4 is the listing itself
    assert (tmp_path / "out.log").read_text() == "True b'' ['0', '1', '2', '3', '4']\n"
    os.close(lock)
    os.close(other)


async def test_an_inherited_lock_lives_as_long_as_the_process(tmp_path):
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with spawn(["sleep", "600"], tmp_path, inherit=[lock]) as process:
        os.close(lock)
        again = os.open(tmp_path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert await process.kill()
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)


def test_a_missing_program_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        spawn(["/nowhere/at-all"], tmp_path)


async def test_the_listener_of_a_socket_is_found_by_its_credentials(tmp_path):
    path = tmp_path / "s"
    assert await processes.listener(path) is None
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert await processes.listener(path) is None
        server.listen(1)
        found = await processes.listener(path)
        assert found == processes.Peer(pid=os.getpid(), start_time=processes.start_time(os.getpid()))
    assert await processes.listener(path) is None


async def test_a_listener_with_a_full_queue_is_given_up_on(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            assert await processes.listener(path, timeout=0.1) is None


async def test_a_process_that_stands_still_is_told_from_one_that_runs(sleeper):
    started = processes.start_time(sleeper.pid)
    assert not processes.is_stopped(sleeper.pid, started)
    os.kill(sleeper.pid, signal.SIGSTOP)
    await until(lambda: processes.is_stopped(sleeper.pid, started))
    assert not processes.is_stopped(sleeper.pid, started + 1)
    os.kill(sleeper.pid, signal.SIGCONT)
    await until(lambda: not processes.is_stopped(sleeper.pid, started))


def test_who_started_a_process_is_known_while_both_are_there(sleeper):
    started = processes.start_time(sleeper.pid)
    assert processes.parent(sleeper.pid, started).pid == os.getpid()
    assert processes.parent(sleeper.pid, started + 1) is None


def test_a_descriptor_is_had_of_exactly_this_process_also_when_it_has_ended(sleeper):
    started = processes.start_time(sleeper.pid)
    assert processes.descriptor_of(sleeper.pid, started + 1) is None
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    descriptor = processes.descriptor_of(sleeper.pid, started)
    assert descriptor is not None
    os.close(descriptor)
    sleeper.wait()
    assert processes.descriptor_of(sleeper.pid, started) is None
