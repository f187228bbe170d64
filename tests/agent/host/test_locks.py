"""Locks of machines: held by whoever has the descriptor, and nobody else gets them."""

import os
import subprocess
import sys

import pytest

from nacre.agent.host import locks
from nacre.errors import ConflictError
from nacre.lib import processes


def test_a_lock_is_had_once(tmp_path):
    path = tmp_path / "lock"
    assert locks.is_free(path)
    lock = locks.take(path)
    assert not locks.is_free(path)
    with pytest.raises(ConflictError) as caught:
        locks.take(path)
    assert caught.value.code == "machine_locked"
    os.close(lock)
    assert locks.is_free(path)


def test_a_process_that_was_given_the_lock_holds_it_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    lock = locks.take(path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    os.close(lock)
    assert not locks.is_free(path)
    assert locks.holders(path) == [(child.pid, processes.start_time(child.pid))]
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert locks.is_free(path)
    assert locks.holders(path) == []


def test_where_there_is_no_file_there_is_no_holder(tmp_path):
    assert locks.holders(tmp_path / "lock") == []
    assert locks.is_free(tmp_path / "lock")
