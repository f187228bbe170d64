"""Limits are raised as far as they go."""

import gc
import resource

from nacre.lib.limits import allow_files, collect_rarely


def test_all_files_that_may_be_open_may_be_open() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        assert allow_files() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_garbage_is_collected_rarely_and_still_collected() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        collect_rarely()
        assert gc.get_threshold()[0] > 700
        assert gc.get_freeze_count() > 0
        circle: list[object] = []
        circle.append(circle)
        del circle
        assert gc.collect() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
