"""Locks of volumes in folders that several nodes see."""

import errno
import fcntl
import os

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage import sharing
from nacre.model.convergence import FailureClass
from nacre.model.ids import VolumeId

ONE = VolumeId("vol-00000000000000000000000001")


def refused(lock) -> DriverError:
    with pytest.raises(DriverError) as caught:
        lock.take()
    lock.leave()
    assert caught.value.hint
    return caught.value


def test_a_file_system_without_locks_holds_no_shared_pool(tmp_path, monkeypatch):
    def no_locks(_file, _how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    error = refused(sharing.Lock(tmp_path, ONE))
    assert (error.code, error.failure_class) == ("pool_without_locks", FailureClass.BLOCKED)


def test_what_was_removed_while_it_was_opened_locks_nothing(tmp_path, monkeypatch):
    flock = fcntl.flock

    def late(file, how):
        sharing.forget(tmp_path, ONE)  # whoever deletes the volume does, just before
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert refused(sharing.Lock(tmp_path, ONE)).code == "volume_busy"
    monkeypatch.undo()
    lock = sharing.Lock(tmp_path, ONE)
    lock.take()
    assert refused(sharing.Lock(tmp_path, ONE)).code == "volume_busy"
    for _ in range(2):
        lock.leave()
    lock.take()
    lock.leave()


def test_who_knows_of_the_newest_generation_or_a_newer_one_may_go_on():
    for known in (4, 5):
        sharing.check(ONE, 4, known)
    with pytest.raises(sharing.ElsewhereError) as caught:
        sharing.check(ONE, 4, 3)
    assert caught.value.generation == 4
